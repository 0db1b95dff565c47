"""Hints work: each is provoked on a real server and followed, and what then comes is what plain data gives (or masks, for those who see them).

A new hint in the code belongs into `tests/hints/table.py`.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from rules.difference import REMEDY
from rules.load import load_rules_text
from rules.plan import Reason
from tests.e2e.world import records_in
from tests.hints.collect import Hint, hints
from tests.hints.conftest import LATE, OTHER_RULES, RULES
from tests.hints.table import AGENT, CASES, COMPUTING, ELSEWHERE, NOT_BY_REWRITING, PAN, TELLER, Case, Step

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hints.conftest import Bank

PATIENCE = 20.0


def refused(connection: psycopg.Connection[Any], sql: str, params: Any = None) -> psycopg.Error:
    """The error of a statement that must be refused; COPY is begun and no more."""
    try:
        if sql.startswith("copy"):
            with connection.cursor() as cursor, cursor.copy(sql):
                pass
        else:
            connection.execute(sql, params)
    except psycopg.Error as error:
        return error
    raise AssertionError(f"not refused: {sql}")


def run(connection: psycopg.Connection[Any], step: Step) -> list[tuple[Any, ...]] | None:
    """A step's rows."""
    if step.sql.startswith("copy"):
        with connection.cursor() as cursor, cursor.copy(step.sql) as copy:
            # What only has to be admitted sends and reads nothing that is compared.
            found = list(copy.rows()) if step.rows is not None else None
            if "to stdout" in step.sql and found is None:
                list(copy)
            return found
    cursor = connection.execute(step.sql, step.params)
    return cursor.fetchall() if cursor.description else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_hint_comes_and_works(request: pytest.FixtureRequest, case: Case) -> None:
    bank: Bank = request.getfixturevalue(case.bank)
    schema = load_rules_text(RULES, "rules.yaml").principal(AGENT, ()).policy.schema
    bank.ran.add(case.name)
    with bank.connect(case.login, case.name) as connection:
        for sql in case.before:
            connection.execute(sql.replace("{schema}", schema))
        error = refused(connection, case.sql.replace("{schema}", schema), case.params)
        assert (error.diag.message_hint, error.sqlstate) == (case.hint, case.sqlstate), error.diag.message_primary
        with ExitStack() as stack:
            # What is written is taken back, so that each case begins with the same bank.
            by_login = {case.login: connection}
            for step in case.works:
                if step.login is not None and step.login not in by_login:
                    by_login[step.login] = stack.enter_context(bank.connect(step.login))
            for each in by_login.values():
                stack.enter_context(each.transaction(force_rollback=True))
            for step in case.works:
                assert run(by_login[step.login or case.login], step) == step.rows, step.sql


@pytest.mark.parametrize("case", [c for c in CASES if c.other_rules is not None], ids=lambda case: case.name)
def test_with_the_rules_changed_it_is_admitted(other_bank: Bank, case: Case) -> None:
    with other_bank.connect(case.login) as connection:
        assert connection.execute(case.sql, case.params).fetchall() == case.other_rules


@pytest.mark.parametrize("name", ["bank", COMPUTING])
def test_each_was_refused_for_its_reason(request: pytest.FixtureRequest, name: str) -> None:
    """By the audit log. Runs behind the cases, of which another worker may have had some."""
    bank: Bank = request.getfixturevalue(name)
    wanted = {case.name: case.reason for case in CASES if case.name in bank.ran and case.reason}
    deadline = time.monotonic() + PATIENCE
    found: dict[str, str] = {}
    while time.monotonic() < deadline and not wanted.keys() <= found.keys():
        found = {r["application"]: r["reason"] for r in records_in(bank.home / "audit") if r["kind"] == "refusal"}
        time.sleep(0.05)
    assert {name: found.get(name) for name in wanted} == wanted


def test_each_case_follows_its_hint() -> None:
    assert all(case.works or case.other_rules is not None for case in CASES)
    assert {case.reason for case in CASES} - {""} <= set(Reason)
    assert len({case.name for case in CASES}) == len(CASES)


def test_no_hint_is_left_out(request: pytest.FixtureRequest) -> None:
    """Every hint in the code is provoked and followed here, or it is said why that can't be."""
    shown = {case.hint for case in CASES}
    unknown = []
    for hint in hints(request.config.rootpath):
        form = re.compile(".+".join(re.escape(part) for part in hint.template.split("{}")))
        if hint.template in NOT_BY_REWRITING or any(form.fullmatch(text) for text in shown):
            continue
        if any((f"{hint.where}".startswith(place) if ":" not in place else _is(hint, place)) for place in ELSEWHERE):
            continue
        unknown.append(f"{hint.where}: {hint.template}")
    assert not unknown, "put them into tests/hints/table.py:\n" + "\n".join(unknown)


def _is(hint: Hint, place: str) -> bool:
    path, _, begin = place.partition(":")
    return hint.where.startswith(path) and hint.template.startswith(begin)


def test_no_hint_is_kept_that_is_gone(request: pytest.FixtureRequest) -> None:
    known = [hint.template for hint in hints(request.config.rootpath)]
    forms = [re.compile(".+".join(re.escape(part) for part in template.split("{}"))) for template in known]
    gone = [text for text in (*NOT_BY_REWRITING, *(c.hint for c in CASES)) if not any(f.fullmatch(text) for f in forms)]
    assert not gone


# -- hints that are followed otherwise than by another statement


def test_prepare_again(bank: Bank) -> None:
    """A temporary table takes the name of one that was prepared for: the old statement must not run, a new one may."""
    with bank.connect(TELLER) as connection:
        pg = connection.pgconn
        pg.prepare(b"p", b"select phone from customers where id = 1")
        assert pg.exec_prepared(b"p", None).ntuples == 1
        connection.execute("create temp table customers (id int, phone varchar(20))")
        result = pg.exec_prepared(b"p", None)
        field = psycopg.pq.DiagnosticField
        # Its phone is of another type, so this is PostgreSQL's own error, without a hint (ADR 0029).
        assert result.error_field(field.SQLSTATE) == b"0A000"
        assert result.error_field(field.SOURCE_FUNCTION) == b"RevalidateCachedQuery"
        again = pg.prepare(b"p2", b"select phone from customers where id = 1")
        assert again.status == psycopg.pq.ExecStatus.COMMAND_OK, again.error_message
        assert pg.exec_prepared(b"p2", None).ntuples == 0


def test_commit_first(bank: Bank) -> None:
    """A view of the open transaction: nobody but this session sees it, so no catalog has it."""
    bank.pg.psql(f"grant create on schema public to {TELLER}", bank.name)
    with bank.connect(TELLER) as connection:
        with pytest.raises(psycopg.NotSupportedError) as withheld, connection.transaction():  # noqa: PT012 - the first must work
            connection.execute("create view new_view as select id, pan from cards")
            connection.execute("select * from new_view")
        hint = "Commit first: pgveil knows a view once others can see it. Or select from the view's own tables."
        assert withheld.value.diag.message_hint == hint
        with connection.transaction(force_rollback=True):
            connection.execute("create view new_view as select id, pan from cards")
            assert connection.execute("select id, pan from cards where id = 1").fetchall() == [(1, PAN)]
        connection.execute("create view new_view as select id, pan from cards")
        try:
            assert connection.execute("select pan from new_view where id = 1").fetchall() == [(PAN,)]
        finally:
            connection.execute("drop view new_view")


def test_what_is_computed_has_no_name_in_sql(computing_bank: Bank) -> None:
    """Prepared by the protocol, and run by its name in SQL."""
    with computing_bank.connect(TELLER) as connection:
        pg = connection.pgconn
        prepared = pg.prepare(b"sorted", b"select pan from cards order by pan desc")
        assert prepared.status == psycopg.pq.ExecStatus.COMMAND_OK, prepared.error_message
        result = pg.exec_(b"execute sorted")
        hint = b"Execute it by the protocol, or send the statement itself."
        assert result.error_field(psycopg.pq.DiagnosticField.MESSAGE_HINT) == hint
        assert pg.exec_prepared(b"sorted", None).get_value(1, 0) == PAN.encode()
        assert pg.exec_(b"select pan from cards order by pan desc").get_value(1, 0) == PAN.encode()


def test_reserved_names(bank: Bank) -> None:
    with bank.connect(TELLER) as connection:
        pg = connection.pgconn
        result = pg.prepare(b"pgveil_mine", b"select 1")
        assert result.error_field(psycopg.pq.DiagnosticField.MESSAGE_HINT) == b"Choose another name."
        assert pg.prepare(b"mine", b"select 1").status == psycopg.pq.ExecStatus.COMMAND_OK
        assert pg.exec_prepared(b"mine", None).get_value(0, 0) == b"1"


def test_function_calls(bank: Bank) -> None:
    """The sub-protocol by hand, as no driver offers it any longer."""
    with socket.create_connection(("127.0.0.1", bank.port)) as raw:
        start = struct.pack("!i", 196608) + b"user\0" + TELLER.encode() + b"\0database\0" + bank.name.encode() + b"\0\0"
        raw.sendall(struct.pack("!i", len(start) + 4) + start)
        _until_ready(raw)
        now = struct.pack("!ihhh", 1299, 0, 0, 0)
        raw.sendall(b"F" + struct.pack("!i", len(now) + 4) + now)
        assert b"Call the function with SELECT." in _until_ready(raw)
        query = b"select now() is not null\0"
        raw.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)
        assert b"D\x00\x00\x00\x0b\x00\x01\x00\x00\x00\x01t" in _until_ready(raw)


def _until_ready(raw: socket.socket) -> bytes:
    raw.settimeout(PATIENCE)
    data = b""
    while not re.search(rb"Z\x00\x00\x00\x05[IET]\Z", data, re.DOTALL):
        data += raw.recv(65536)
    return data


def test_apply_is_what_was_missing(other_bank: Bank) -> None:
    """A table that came after `apply`. Runs behind whatever else needs this bank."""
    other_bank.pg.psql(
        "create table late (secret text, name text); insert into late values ('x', 'Ann Lee');"
        f" grant all on late to {TELLER}, {AGENT}",
        other_bank.name,
    )
    other_bank.reload(OTHER_RULES.replace("roles:\n", LATE + "roles:\n"))

    def attempt(login: str, column: str) -> str | None:
        with other_bank.connect(login) as connection:
            try:
                row = connection.execute(f"select {column} from late").fetchone()
            except psycopg.Error as error:
                return error.diag.message_hint
            assert row is not None
            return str(row[0])

    def until(login: str, column: str, answer: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := attempt(login, column)) != answer:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    until(TELLER, "secret", REMEDY)
    until(AGENT, "name", REMEDY)
    other_bank.apply()
    until(TELLER, "secret", "x")
    until(AGENT, "name", "A** L**")


def test_every_reason_has_its_section_with_an_example(request: pytest.FixtureRequest) -> None:
    """docs/errors.md: a message for each reason; where a statement can provoke it, the statement, and one that works."""
    root: Path = request.config.rootpath
    page = (root / "docs" / "errors.md").read_text()
    for reason in Reason:
        _, heading, rest = page.partition(f"\n## {reason}\n")
        assert heading, reason
        section = rest.split("\n## ")[0]
        assert "```text\nERROR:  " in section, reason
        # The page's bank has no constraint that could tell of a value, and counts no look-ups.
        if reason not in {Reason.ORACLE, Reason.LOOKUP_RATE} and any(case.reason == reason for case in CASES):
            assert section.count("```sql\n-- ") >= 2, reason
