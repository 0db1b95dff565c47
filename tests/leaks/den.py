"""Where the leak tests happen: the bank behind pgveil, masked logins with more privileges than is wise, a tap on each of both ways.

One way leads through pgveil, the other one straight to the server. What came back on either is searched for every protected value of
the bank that the login's class does not see clear, in several disguises.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg

from lifecycle.demo.bank import generate, rules_yaml
from rules.load import load_rules
from rules.model import Verdict
from tests.e2e.world import Tap, make_world, stop_world

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from tests.e2e.world import World

CUSTOMERS = 40
CLERK, AGENT, CHIEF, FINDER, SLOW = "clerk", "agent", "chief", "finder", "slowfinder"
# The mask of a birth date, and that of an amount, can be somebody's own.
_NOT_UNIQUE = frozenset({"birth_date"})
_STATEMENT_TIMEOUT = "20s"
PHONES = "phones"

RULES = (
    rules_yaml()
    + """
  clerk:
    logins: [clerk]
    levels: {core: masked, important: masked, general: clear}
    columns: {public.customers.fingerprint: refused}
  # A call centre that finds the customer by phone, e-mail or card; nobody else may.
  finder:
    logins: [finder]
    levels: {core: masked, important: masked, general: clear}
    columns:
      public.customers.fingerprint: refused
      public.customers.phone: {lookup: equality}
      public.customers.email: {verdict: masked, lookup: equality}
      public.customers.birth_date: {lookup: equality}
      public.customers.income: {lookup: equality}
      public.cards.pan: {lookup: equality}
    lookups: {per_minute: 1000}
  slow_finder:
    logins: [slowfinder]
    levels: {core: masked, important: masked, general: clear}
    columns:
      public.customers.fingerprint: refused
      public.customers.phone: {lookup: equality}
      public.cards.pan: {lookup: equality}
    lookups: {per_minute: 5}
  chief:
    logins: [chief]
    levels: {core: masked, important: masked, general: clear}
    columns: {public.customers.fingerprint: refused}
"""
)

# What a careless team has in its database before pgveil comes. The clerk may write everything and make things of their own; the chief is
# a superuser, whom no privilege holds.
SETUP = """
DO $$
DECLARE
    who text;
BEGIN
    FOREACH who IN ARRAY ARRAY['clerk', 'chief', 'finder', 'slowfinder'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = who) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', who);
        END IF;
    END LOOP;
END
$$;
ALTER ROLE chief SUPERUSER;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk;
GRANT USAGE, CREATE ON SCHEMA public TO clerk;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO finder, slowfinder;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO finder, slowfinder;
CREATE SCHEMA lair AUTHORIZATION clerk;

CREATE VIEW public.contact_list AS SELECT id, name, phone, upper(email) AS email FROM public.customers;
CREATE VIEW public.contact_again AS SELECT phone || '' AS p FROM public.contact_list;
CREATE MATERIALIZED VIEW public.contact_copy AS SELECT id, phone FROM public.customers;
CREATE VIEW public.contact_rows AS SELECT c AS whole FROM public.customers c;
GRANT SELECT ON public.contact_list, public.contact_again, public.contact_copy, public.contact_rows TO PUBLIC;

CREATE FUNCTION public.phone_of(wanted bigint) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
    AS 'SELECT phone FROM public.customers WHERE id = wanted';
CREATE FUNCTION public.any_text(what text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    AS $$ DECLARE r text; BEGIN EXECUTE what INTO r; RETURN r; END $$;
CREATE PROCEDURE public.phone_into(wanted bigint, INOUT found text) LANGUAGE plpgsql SECURITY DEFINER
    AS $$ BEGIN SELECT phone INTO found FROM public.customers WHERE id = wanted; END $$;
CREATE FUNCTION public.phone_in_error(wanted bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    AS $$ BEGIN RAISE EXCEPTION 'the phone is %', (SELECT phone FROM public.customers WHERE id = wanted); END $$;
CREATE FUNCTION public.everybody() RETURNS SETOF public.customers LANGUAGE sql STABLE SECURITY DEFINER
    AS 'SELECT * FROM public.customers';
CREATE FUNCTION public.invoked(wanted bigint) RETURNS text LANGUAGE sql STABLE
    AS 'SELECT phone FROM public.customers WHERE id = wanted';
CREATE FUNCTION public.inside_out(wanted bigint) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    AS $$ BEGIN DO 'BEGIN PERFORM set_config(''den.phone'', (SELECT string_agg(phone, '','') FROM customers), false); END'; RETURN current_setting('den.phone'); END $$;
CREATE FUNCTION public.any_file(name text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all';
CREATE OPERATOR public.#@@ (RIGHTARG = text, FUNCTION = public.any_file);
CREATE FUNCTION public.file_of(name text) RETURNS text LANGUAGE sql AS 'SELECT pg_read_file(name)';
CREATE FUNCTION public.file_of_again(name text) RETURNS text LANGUAGE sql AS 'SELECT public.file_of(name)';
CREATE FUNCTION public.rows_of() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN
    CREATE TEMP TABLE IF NOT EXISTS copied (l text); COPY copied FROM PROGRAM 'cat ../files/phones'; RETURN QUERY TABLE copied; END $$;
CREATE VIEW public.sessions AS SELECT usename, query FROM pg_stat_activity;
CREATE VIEW public.sessions_again AS SELECT query FROM public.sessions;
GRANT SELECT ON public.sessions, public.sessions_again TO PUBLIC;
CREATE AGGREGATE public.phones_of(bigint) (SFUNC = phone_step, STYPE = text);
""".replace(
    "CREATE AGGREGATE",
    """CREATE FUNCTION public.phone_step(state text, wanted bigint) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
    AS 'SELECT coalesce(state, '''') || phone FROM public.customers WHERE id = wanted';
CREATE OPERATOR public.#@ (RIGHTARG = bigint, FUNCTION = public.phone_of);
CREATE AGGREGATE""",
)


class Way(StrEnum):
    """How a statement gets to the server."""

    PGVEIL = "pgveil"
    PREPARED = "pgveil, prepared"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one statement gave: everything that a client can tell answers apart by."""

    rows: tuple[tuple[Any, ...], ...] = ()
    tag: str | None = None
    sqlstate: str | None = None
    texts: tuple[str, ...] = ()

    def without(self, guess: str) -> Outcome:
        """The same with the client's own words taken out."""

        def plain(value: object) -> object:
            return value.replace(guess, "?") if isinstance(value, str) else value

        return Outcome(
            tuple(tuple(plain(v) for v in row) for row in self.rows),
            self.tag,
            self.sqlstate,
            tuple(t.replace(guess, "?") for t in self.texts),
        )


@dataclass(slots=True)
class Session:
    """One login's connection, with what was sent to it."""

    connection: psycopg.Connection[Any]
    login: str
    way: Way
    notices: list[str] = field(default_factory=list)

    def run(self, statements: Sequence[str]) -> list[Outcome]:
        """Each statement's outcome; an error does not stop the next one."""
        return [self._one(sql) for sql in statements]

    def _one(self, sql: str) -> Outcome:
        self.notices.clear()
        rows: list[tuple[Any, ...]] = []
        tag = sqlstate = None
        texts: list[str] = []
        try:
            cursor = self.connection.cursor()
            if sql.lower().startswith("copy") and "stdout" in sql.lower():
                with cursor.copy(sql.encode()) as copy:
                    rows += [(bytes(line).decode(errors="replace"),) for line in copy]
            elif sql.lower().startswith("copy") and "stdin" in sql.lower():
                head, _, data = sql.partition("\n")
                with cursor.copy(head.encode()) as copy:
                    copy.write(data)
            else:
                cursor.execute(sql.encode(), prepare=self.way is Way.PREPARED)
            more: bool | None = True
            while more:
                tag = cursor.statusmessage
                if cursor.description is not None and cursor.rownumber is not None:
                    rows += cursor.fetchall()
                more = cursor.nextset()
        except psycopg.Error as error:
            sqlstate = error.sqlstate or type(error).__name__
            d = error.diag
            texts += [t for t in (d.message_primary, d.message_detail, d.message_hint, d.context) if t]
        return Outcome(tuple(rows), tag, sqlstate, (*texts, *self.notices))


@dataclass
class Den:
    """The world, a tap on the direct way, and what is looked for."""

    world: World
    past: Tap
    values: dict[str, dict[str, tuple[str, ...]]]
    hidden: dict[str, tuple[str, ...]]
    files: Path  # a directory that the server may read and write, with a file of phones in it
    _seen: dict[tuple[Way, str], int] = field(default_factory=dict)

    def connect(self, login: str, way: Way, *, plain: bool = False, **options: Any) -> Session:
        """A connection of `login`; its notices are collected, and, unless it is to be `plain`, its search_path begins with the lair."""
        port = self.past.port if way is Way.DIRECT else self.world.tap.port
        dsn = f"postgresql://{login}@127.0.0.1:{port}/{self.world.database}"
        connection = psycopg.connect(dsn, autocommit=True, sslmode="disable", **options)
        session = Session(connection, login, way)
        connection.add_notice_handler(
            lambda d: session.notices.append(f"{d.message_primary} {d.message_detail} {d.context}")
        )
        if not plain:
            connection.execute("SET search_path = lair, public")
        connection.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'")
        return session

    def admin(self, *statements: str) -> None:
        """As the superuser, past everything and past the taps."""
        with psycopg.connect(self.world.dsn("postgres", direct=True), autocommit=True) as connection:
            for sql in statements:
                connection.execute(sql.encode())

    def empty_lair(self) -> None:
        """The schema in which the clerk and the agent may make things, with nothing in it."""
        self.admin(
            "DROP SCHEMA IF EXISTS lair CASCADE",
            "CREATE SCHEMA lair AUTHORIZATION clerk",
            "GRANT USAGE, CREATE ON SCHEMA lair TO agent",
        )

    def fill(self, sql: str) -> str:
        """A statement with the places of this den put in."""
        pg = self.world.pg
        places = {"files": self.files, "psql": pg.bin_dir / "psql", "port": pg.port, "database": self.world.database}
        for name, place in places.items():
            sql = sql.replace(f"<{name}>", str(place))
        return sql

    def written(self) -> str:
        """What the server has written into files, which are taken away."""
        found = [path for path in sorted(self.files.iterdir()) if path.name != PHONES]
        text = "\n".join(path.read_bytes().decode(errors="replace") for path in found)
        for path in found:
            path.unlink()
        return text

    def value(self, column: str, customer: int = 1) -> str:
        """A protected value as it is."""
        table = self.world.bank.tables["customers"]
        return str(table.column(column)[customer - 1])

    def pair(self, column: str, customer: int = 1) -> tuple[str, str]:
        """A customer's real value, and one that nobody has and that the mask shows alike."""
        right = self.value(column, customer)
        for middle in range(10_000):
            wrong = right[:3] + f"{middle:04d}" + right[7:]
            if wrong not in self.values[f"public.customers.{column}"]:
                return right, wrong
        raise AssertionError("no other value")

    def schema(self, login: str) -> str:
        """The schema of a login's class."""
        rules = load_rules(self.world.home / "rules.yaml")
        return rules.principal(login, ()).policy.schema

    def heard(self, login: str, way: Way) -> str:
        """What was sent to a login since the last call."""
        tap = self.past if way is Way.DIRECT else self.world.tap
        data = bytes(tap.sent.get(login, b""))
        at = Way.DIRECT if way is Way.DIRECT else Way.PGVEIL
        start = self._seen.get((at, login), 0)
        self._seen[at, login] = len(data)
        return data[start:].decode(errors="replace")

    def leaks(self, login: str, text: str, *, but: frozenset[str] = frozenset()) -> list[str]:
        """The columns of which a value that the login may not see is in `text`, in any disguise. `but`: the client's own guesses."""
        hidden = self.hidden[login]
        return [
            column
            for column in hidden
            if any(form in text for value, forms in self.values[column].items() if value not in but for form in forms)
        ]


def disguises(value: str) -> tuple[str, ...]:
    """Forms in which a value could come back."""
    raw = value.encode()
    return (
        value,
        value.upper(),
        value[::-1],
        raw.hex(),
        raw.hex(" "),
        hashlib.md5(raw, usedforsecurity=False).hexdigest(),
    )


def make_den(pg: Postgres, home: Path, *, more_sql: str = SETUP) -> Iterator[Den]:
    """Everything, torn down afterwards."""
    world = make_world(pg, home, customers=CUSTOMERS, rules_text=RULES, more_sql=more_sql)
    past = Tap(pg.port)
    bank = generate(customers=CUSTOMERS)
    rules = load_rules(world.home / "rules.yaml")
    columns = [c.name for c in rules.protected_columns() if c.name.column not in _NOT_UNIQUE]
    policies = {
        login: rules.principal(login, frozenset({"call_centre"} if login == AGENT else ())).policy
        for login in (CLERK, AGENT, CHIEF, FINDER, SLOW)
    }
    values = {
        str(name): {v: disguises(v) for v in map(_text, bank.tables[name.table].column(name.column)) if v is not None}
        for name in columns
    }
    hidden = {
        login: tuple(str(c) for c in columns if policy.verdict(c) is not Verdict.CLEAR)
        for login, policy in policies.items()
    }
    files = pg.root / "files"
    files.mkdir(exist_ok=True)
    files.chmod(0o777)
    (files / PHONES).write_text("\n".join(values["public.customers.phone"]))
    (files / PHONES).chmod(0o644)
    try:
        yield Den(world, past, values, hidden, files)
    finally:
        past.close()
        stop_world(world)


def _text(value: object) -> str | None:
    return value.hex() if isinstance(value, bytes) else None if value is None else str(value)
