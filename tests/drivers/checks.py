"""What is tried with every driver: the checks' names and what each of them does, and which statements provoke errors.

A check is a function of a Target that gives what was observed, as values that JSON can hold. Nobody writes down what is right: the same check
directly on the server says it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.drivers.ground import Target

Observe = Callable[[Target], Any]


@dataclass(frozen=True)
class Check:
    """One row of the compatibility table. `masked`: it only reads, so it is tried as well by a login that sees masks."""

    title: str
    masked: bool = False


CHECKS: Mapping[str, Check] = {
    "tls_off": Check("connect without TLS", masked=True),
    "tls_require": Check("connect with TLS", masked=True),
    "tls_verify_full": Check("connect with TLS, the certificate verified", masked=True),
    "tls_wrong_authority": Check("a certificate of an unknown authority is refused"),
    "tls_direct": Check("TLS from the first byte (`sslnegotiation=direct`)", masked=True),
    "scram": Check("SCRAM-SHA-256; a wrong password is refused", masked=True),
    "channel_binding": Check("SCRAM-SHA-256-PLUS, required"),
    "simple": Check("simple protocol, several statements in a text", masked=True),
    "prepared": Check("prepared statements, used again", masked=True),
    "text": Check("every type in text format", masked=True),
    "binary": Check("every type in binary format", masked=True),
    "describe": Check("names and types of a result's columns", masked=True),
    "write": Check("insert, update and delete with parameters of every type"),
    "batch": Check("batches"),
    "pipeline": Check("pipelines"),
    "cursor": Check("portals with a fetch size, cursors of SQL", masked=True),
    "copy_out": Check("COPY out, in the formats that it has", masked=True),
    "copy_in": Check("COPY in, in the formats that it has"),
    "notify": Check("LISTEN and NOTIFY"),
    "notice": Check("notices", masked=True),
    "cancel": Check("cancel a running statement", masked=True),
    "large_object": Check("large objects"),
    "big": Check("large values, in and out (megabytes; where values go into the text, half of one)"),
    "errors": Check("errors and their fields"),
    "transaction": Check("transactions with errors, savepoints", masked=True),
    "two_phase": Check("two-phase commit"),
    "pool": Check("a pool: connections taken, reset and given back", masked=True),
    "introspection": Check("the driver's own look at tables and columns", masked=True),
    "orm": Check("an ORM's own objects and queries"),
    "modes": Check("the driver's other ways to run a statement", masked=True),
}

# Made by every driver in its own way, in the check `errors`. {s} is the schema.
FAILING: Mapping[str, str] = {
    "syntax": "selec 1",
    "no_column": "select id, nosuch from {s}.people",
    "no_table": "select 1 from {s}.nosuch",
    "no_function": "select nosuch(1)",
    "not_null": "insert into {s}.people (id, name) values (9001, null)",
    "key": "insert into {s}.people (id, name) values (1, 'Again')",
    "unique": "insert into {s}.people (id, name, card) values (9001, 'Again', '6200000000000001')",
    "check": "insert into {s}.people (id, name, note) values (9001, 'Long', repeat('x', 300))",
    "foreign": "insert into {s}.orders (id, person, amount) values (9001, 999999, 1)",
    "too_long": "insert into {s}.people (id, name, card) values (9001, 'Long', '12345678901234567890')",
    "bad_date": "insert into {s}.people (id, name, born) values (9001, 'Bad', 'no date')",
    "bad_enum": "insert into {s}.people (id, name, mood) values (9001, 'Bad', 'furious')",
    "bad_number": "select 'x'::int",
    "division": "select 1 / 0",
    "own": (
        "do $$ begin raise exception 'own words' using errcode = 'P0042', detail = 'a detail', hint = 'a hint',"
        " column = 'c', table = 't', constraint = 'k', datatype = 'd', schema = 's'; end $$"
    ),
}


def plain(value: Any) -> Any:
    """An observation as JSON holds it; what JSON has no form for in its own words, with its type."""
    return json.loads(json.dumps(value, default=lambda v: f"{type(v).__name__}: {v!r}"))
