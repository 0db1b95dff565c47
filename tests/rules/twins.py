"""Three databases that should answer alike: one sealed and fenced as pgveil makes it, one plain, one that holds masks.

What the gate admits must give on the first what the client's own text gives on the second (for a login that sees all) or on the third
(for one that sees masks). Sealed values are marked texts ("SEALED:domain:hex"), clear values behind a mask hold a "#", so whatever gets
out shows.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
from psycopg import pq

from keys.types import parse_type
from proxy.decisions import Gate
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, BadValue, NeedNames, NeedSettings, Pass, Refuse, Settings
from proxy.session.replies import Trouble
from proxy.session.witness import examine
from proxy.wire.copy_text import line_codec
from proxy.wire.messages import Field, build_row_description
from rules.applied import recorded
from rules.catalog import CATALOG_QUERIES, Catalog, build_catalog
from rules.load import load_rules_text
from rules.model import SealMode, TableName, quote_ident, view_name
from rules.plan import Plan, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifecycle.demo.postgres import Postgres
    from proxy.session.gate import Decision
    from rules.copy_format import CopyPlan
    from rules.model import Column, Rules

RULES = """
version: 1
tables:
  public.customers:
    subject: id
    columns:
      name: {level: important, protection: masked, mask: name}
      phone: {level: important, protection: masked, mask: phone}
      id_number: {level: core, protection: sealed, mode: deterministic, type: varchar(18), mask: id_number}
  public.cards:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
      cvv: {level: core, protection: sealed, mode: randomized, type: "char(3)", mask: "null"}
      credit: {level: core, protection: sealed, mode: deterministic, type: "numeric(12,2)", mask: {kind: range, width: 1000}}
  public.payments:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: pan, mask: bank_card}
  public.visits:
    columns:
      guest: {level: important, protection: masked, mask: name}
  'public."Odd Table"':
    columns:
      '"select"': {level: core, protection: sealed, mode: deterministic, type: text, mask: bank_card}
      '"Phone No"': {level: important, protection: masked, mask: phone}
      '"straße"': {level: important, protection: masked, mask: phone}
  public.people:
    columns:
      nick: {level: important, protection: masked, mask: name}
      secret: {level: core, protection: sealed, mode: deterministic, type: text, mask: bank_card}
roles:
  teller: {logins: [twin_teller], levels: {core: clear, important: clear}}
  clerk: {logins: [twin_clerk], levels: {core: clear, important: masked}}
  agent: {logins: [twin_agent], levels: {core: masked, important: masked}}
"""
LOGINS = ("twin_teller", "twin_clerk", "twin_agent")
FENCED = ("twin_clerk", "twin_agent")
MASKS = {
    "name": "left({0}, 1) || '***'",
    "phone": "('M' || right({0}, 2))::varchar(30)",
    "guest": "left({0}, 1) || '***'",
    "nick": "left({0}, 1) || '***'",
    "Phone No": "('M' || right({0}, 2))::varchar(30)",
    "straße": "('M' || right({0}, 2))::varchar(30)",
}
CANARY = re.compile(rb"#[0-9]")
WRITING = re.compile(r"(?i)\b(insert|update|delete|merge|create|alter|drop|truncate|copy|into|call|do|refresh)\b")
SEALED = re.compile(r"SEALED:(?P<domain>[^:~]*)(?:~[0-9]+)?:(?P<body>[0-9a-f]*)\Z")

# `{T}` stands for the type of a sealed column: the domain where values are sealed, T elsewhere.
SCHEMA = """
create schema pgveil;
create domain pgveil.sealed as text collate "C" check (value ~ '^SEALED:');
create schema crm;
create type addr as (street text, city text);
create table customers (id int primary key, name text, phone varchar(30), id_number {varchar(18)}, notes text);
create table cards (id int primary key, customer_id int, pan {varchar(19)}, cvv {char(3)}, credit {numeric(12,2)}, kind text default 'k');
create unique index on cards (pan, id);
create table payments (id int primary key, pan {varchar(19)}, amount numeric(10,2));
create table orders (id int primary key, customer_id int, item text);
create table visits (id int not null, guest text, day int) partition by range (id);
create table visits_2026 partition of visits for values from (0) to (100);
create table people (id int primary key, home addr, tags text[], nick text, secret {text});
create table vips (id int, name text, level int);
create table "Odd Table" ("select" {text}, "Phone No" varchar(30), "straße" varchar(30), "a""b" int, "from" int);
create table crm.customers (id int, name text, phone text);
create table crm.orders (id int, pan text);
create view v_cards as select id, pan from cards where kind is not null;
create view v_phones as select id, phone from customers;
create view v_notes as select id, notes from customers;
create view v_mixed as select c.id, upper(c.name) as big, k.pan from customers c left join cards k on k.customer_id = c.id;
create view v_over as select v.pan as p, v.id from v_cards v;
create view v_union as select id, pan from cards union all select id, pan from cards;
create function find_phone(int) returns text language sql security definer as 'select phone::text from customers where id = $1';
create function card_kind(cards) returns text language sql as 'select $1.kind';
create function shout(text) returns text language sql immutable as 'select upper($1)';
create function order_phone(orders) returns text language sql security definer as 'select phone::text from public.customers where id = $1.customer_id';
create function via_order(orders) returns text language sql security definer as 'select order_phone($1)';
create view v_calls as select id, find_phone(id) as p from orders;
create operator @@@ (function = find_phone, rightarg = int);
"""
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "customers": [
        (1, "Ann#1", "138#11", "id-1001", "likes tea"),
        (2, "Bob#2", "139#22", "id-1002", None),
        (3, "Cyd#3", "137#33", None, "late"),
        (4, "Ann#1", None, "id-1004", "tea"),
    ],
    "cards": [
        (1, 1, "4111", "123", "100.00", "visa"),
        (2, 1, "4222", "124", "250.50", "visa"),
        (3, 2, "4333", None, None, "amex"),
        (4, 3, None, "126", "100.00", None),
        (5, None, "4111", "127", "-5.00", "amex"),
    ],
    "payments": [
        (1, "4111", "10.00"),
        (2, "4111", "20.00"),
        (3, "4333", "30.00"),
        (4, None, "1.00"),
        (5, "4999", "2.00"),
    ],
    "orders": [(1, 1, "tea"), (2, 1, "milk"), (3, 2, "tea"), (4, None, "4111"), (5, 4, None)],
    "visits": [(1, "Gil#7", 1), (2, "Hal#8", 2), (3, "Gil#7", 3), (4, None, 4)],
    "people": [
        (1, "(Elm,York)", "{a,b}", "Ned#5", "s-1"),
        (2, "(Oak,Rome)", "{c}", "Oli#6", "s-2"),
        (3, None, None, None, None),
    ],
    "vips": [(1, "Ann", 5), (2, "Bob", 6), (9, "Zoe", 7)],
    '"Odd Table"': [
        ("odd-1", "155#51", "166#61", 1, 10),
        ("odd-2", "155#52", None, 2, 20),
        (None, None, "166#63", 3, 30),
    ],
    "crm.customers": [(1, "crm ann", "1"), (2, "crm bob", "2")],
    "crm.orders": [(1, "plain pan"), (2, "4111")],
}
_NONCES = itertools.count(1)


def seal(column: Column, value: str) -> str:
    """The marked form of a value."""
    domain = column.domain or str(column.name)
    nonce = f"~{next(_NONCES)}" if column.mode is SealMode.RANDOMIZED else ""
    return f"SEALED:{domain.replace('~', '')}{nonce}:{_canonical(column, value).encode().hex()}"


def _canonical(column: Column, value: str) -> str:
    if column.type is not None and column.type.startswith("numeric"):
        try:
            return str(Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP))
        except InvalidOperation:
            raise BadValue(Reason.BAD_VALUE, "22P02", "invalid input syntax for type numeric", column.name) from None
    if column.type is not None and column.type.startswith("char("):
        return value.rstrip(" ").ljust(3)
    return value


class MarkingSealer:
    """Implements `proxy.splicing.LiteralSealer`."""

    @property
    def now(self) -> float:
        return 0.0

    def vouch(self, column: Column, sealed: bytes, login: str) -> bytes:
        return b"!" + sealed

    def seal_literal(
        self,
        column: Column,
        text: str,
        *,
        number: bool = False,
        array: bool = False,
        exact: bool = False,
        login: str = "",
    ) -> bytes:
        """A constant in its marked form; arrays element by element."""
        if not array:
            canonical = _canonical(column, text)
            if exact and column.type == "numeric(12,2)" and Decimal(text) != Decimal(canonical):
                return b"SEALED:nothing:"
            return seal(column, text).encode()
        items = [i for i in text.strip("{}").split(",") if i]
        return ("{" + ",".join(seal(column, i) for i in items) + "}").encode()


@dataclass
class Answer:
    """What one statement gave. `error`: its SQLSTATE; `fields` as in RowDescription."""

    error: str | None = None
    message: str = ""
    tag: str = ""
    fields: tuple[Field, ...] | None = None
    rows: list[tuple[bytes | None, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """A difference. `kind`: leak, stored, wrong, broken, loose, witness, fence, code, untrue."""

    kind: str
    login: str
    detail: str


@dataclass
class Verdict:
    """What became of a statement for a login: what the gate said, and what was found to differ."""

    outcome: str
    findings: list[Finding]
    text: str = ""


class Twins:
    """The three databases, a gate over the first, and the comparison."""

    def __init__(self, pg: Postgres, extra: str = "") -> None:
        self.pg = pg
        self.rules: Rules = load_rules_text(RULES, "rules.yaml")
        for login in LOGINS:
            pg.psql(
                f"do $$ begin if not exists (select from pg_roles where rolname = '{login}') then create role {login} login; end if; end $$"
            )
        self.names = {which: pg.create_database() for which in ("sealed", "plain", "masks")}
        self.connections = {which: psycopg.connect(pg.dsn(name), autocommit=True) for which, name in self.names.items()}
        for which in self.names:
            self._build(which, extra)
        self.catalog: Catalog = recorded(self.rules, asyncio.run(read_catalog(pg.dsn(self.names["sealed"]))))
        self.gate = Gate(self.rules, self.catalog, MarkingSealer())
        self._last: tuple[object, tuple[list[Answer], dict[str, Counter[Any]]]] = (None, ([], {}))

    def close(self) -> None:
        """Close the connections."""
        for connection in self.connections.values():
            connection.close()

    # -- building

    def _build(self, which: str, extra: str) -> None:
        connection = self.connections[which]
        script = re.sub(r"\{([a-z0-9(),]+)\}", "pgveil.sealed" if which == "sealed" else r"\1", SCHEMA + extra)
        _script(connection, script)
        for table, rows in ROWS.items():
            for row in rows:
                values = ", ".join("null" if v is None else _quoted(v) for v in self._stored(which, table, row))
                _script(connection, f"insert into {table} values ({values})")
        if which == "sealed":
            self._fence(connection)
        if which == "masks":
            for name, masks in self._masked_columns():
                sets = ", ".join(f"{quote_ident(c)} = {m}" for c, m in masks.items())
                _script(connection, f"update {quote_ident(name.schema)}.{quote_ident(name.name)} set {sets}")
        for table in self._tables(connection):
            _script(connection, f"analyze {table}")

    def _stored(self, which: str, table: str, row: Sequence[Any]) -> list[Any]:
        rules = self.rules.tables.get(TableName("public", table.strip('"')))
        if which != "sealed" or rules is None:
            return list(row)
        names = [d.name for d in self.connections[which].execute(f"select * from {table} limit 0").description or ()]
        stored = []
        for name, value in zip(names, row, strict=True):
            column = rules.columns.get(name)
            sealed = column is not None and column.mode is not None and value is not None
            stored.append(seal(column, str(value)) if sealed and column is not None else value)
        return stored

    def _masked_columns(self) -> list[tuple[TableName, dict[str, str]]]:
        found = []
        for name, table in self.rules.tables.items():
            masks = {c: MASKS[c].format(quote_ident(c)) for c, column in table.columns.items() if column.mode is None}
            if masks:
                found.append((name, masks))
        return found

    def _fence(self, connection: psycopg.Connection[Any]) -> None:
        """What `pgveil apply` does: grants, and a schema of masking views for each class."""
        logins = ", ".join(LOGINS)
        _script(
            connection,
            f"grant usage on schema crm, pgveil to {logins}; grant all on all tables in schema public, crm to {logins};",
        )
        _script(connection, f"grant create, usage on schema public to {logins}")
        for login in FENCED:
            policy = self.rules.principal(login, []).policy
            _script(
                connection,
                f"create schema if not exists {policy.schema}; grant usage on schema {policy.schema} to {login}",
            )
            for name in self.rules.protected_tables():
                self._fence_writes(connection, login, name)
            for name, masks in self._masked_columns():
                self._fence_table(connection, login, policy.schema, name, masks)
            for view in ("v_phones", "v_mixed", "v_calls"):
                _script(connection, f"revoke select on {view} from {login}")
        _script(
            connection,
            "revoke execute on function find_phone, order_phone from public; grant execute on function find_phone, order_phone to twin_teller",
        )

    def _fence_table(
        self, connection: psycopg.Connection[Any], login: str, schema: str, name: TableName, masks: dict[str, str]
    ) -> None:
        table = f"{quote_ident(name.schema)}.{quote_ident(name.name)}"
        view = f"{schema}.{quote_ident(view_name(name))}"
        columns = [d.name for d in connection.execute(f"select * from {table} limit 0").description or ()]
        shown = ", ".join(f"{masks[c]} as {quote_ident(c)}" if c in masks else quote_ident(c) for c in columns)
        plain = ", ".join(quote_ident(c) for c in columns if c not in masks)
        relations = [table] + (["public.visits_2026"] if name.name == "visits" else [])
        for each in relations:
            _script(connection, f"revoke select on {each} from {login}; grant select ({plain}) on {each} to {login}")
        _script(
            connection,
            f"create or replace view {view} as select {shown} from {table}; grant select, delete on {view} to {login};"
            f"grant update ({', '.join(self._changeable(login, name, columns))}) on {view} to {login}",
        )

    def _fence_writes(self, connection: psycopg.Connection[Any], login: str, name: TableName) -> None:
        """No login of these gives values to sealed columns, or changes what it does not see clear."""
        table = f"{quote_ident(name.schema)}.{quote_ident(name.name)}"
        columns = [d.name for d in connection.execute(f"select * from {table} limit 0").description or ()]
        policy = self.rules.principal(login, []).policy
        hidden = {n: c for n, c in self.rules.tables[name].columns.items() if policy.verdict(c.name) != "clear"}
        plain = ", ".join(self._changeable(login, name, columns))
        unsealed = ", ".join(quote_ident(c) for c in columns if c not in hidden or hidden[c].mode is None)
        relations = [table] + (["public.visits_2026"] if name.name == "visits" else [])
        for each in relations:
            _script(
                connection,
                f"revoke insert, update on {each} from {login};"
                f"grant insert ({unsealed}), update ({plain}) on {each} to {login}",
            )

    def _changeable(self, login: str, name: TableName, columns: Sequence[str]) -> list[str]:
        policy, own = self.rules.principal(login, []).policy, self.rules.tables[name].columns
        return [quote_ident(c) for c in columns if c not in own or policy.verdict(own[c].name) == "clear"]

    # -- judging

    def settings(self, path: tuple[str, ...] = ("pg_catalog", "public")) -> Settings:
        """A session's settings."""
        return Settings(search_path=path)

    def judge(
        self, sql: str, login: str, params: Sequence[str] = (), path: tuple[str, ...] = ("pg_catalog", "public")
    ) -> Verdict:
        """Decide for a login; where it is admitted, run it and compare."""
        principal = self.gate.principal(login)
        decision = self.gate.decide(sql.encode(), principal, self.settings(path), extended=bool(params))
        if isinstance(decision, NeedNames):
            decision = decision.otherwise
        findings: list[Finding] = []
        if isinstance(decision, Refuse):
            return self._refused(decision, sql, login, params, path)
        if isinstance(decision, NeedSettings):
            return Verdict("need settings", findings)
        if isinstance(decision, Write):
            # What a login writes back that it sees masked is compared with what it is shown, by the session (ADR 0027): tests/e2e runs it.
            return Verdict("written", findings)
        assert not isinstance(decision, Compute)
        text = sql if isinstance(decision, Pass) else decision.text.decode()
        sent = self._sealed_params(decision, params)
        setup = "set search_path = " + ", ".join(quote_ident(p) for p in path if p != "pg_catalog")
        which = "masks" if login in FENCED else "plain"
        key = (which, sql, tuple(params), setup)
        if self._last[0] != key:
            self._last = (key, self.run(which, sql, params, setup))
        expected, wanted = self._last[1]
        for who in (None, login):
            got, dump = self.run("sealed", text, sent, setup, login=who)
            for asked in decision.probes if isinstance(decision, Admit) else ():
                got = got[:asked] + got[asked + 1 :]  # an answer for pgveil, not for the client
            found = self._compare(decision, login, expected, got)
            if any(f.kind == "fence" for f in found) and who is None:
                found = []
            findings += [Finding(f.kind, f"{login}{' as superuser' if who is None else ''}", f.detail) for f in found]
            if not any(a.error for a in [*expected, *got]):
                findings += self._compare_dumps(login, wanted, dump)
        return Verdict("pass" if isinstance(decision, Pass) else "run", findings, text)

    def _refused(self, decision: Refuse, sql: str, login: str, params: Sequence[str], path: tuple[str, ...]) -> Verdict:
        """A refusal in the server's own words must be true: the server refuses the statement as well."""
        refusal = decision.refusal
        findings = []
        if refusal.sqlstate in {"42703", "42P01"} and not params:
            setup = "set search_path = " + ", ".join(quote_ident(p) for p in path if p != "pg_catalog")
            expected, _ = self.run("masks" if login in FENCED else "plain", sql, params, setup)
            if not any(answer.error for answer in expected):
                findings.append(Finding("untrue", login, refusal.message))
        return Verdict(f"refuse {refusal.reason}", findings, refusal.message)

    def _sealed_params(self, decision: Decision, params: Sequence[str]) -> list[str]:
        sent = list(params)
        for plan in decision.plans if isinstance(decision, Admit) else ():
            for each in plan.params if plan is not None else ():
                if each.number > len(sent):
                    continue
                text = sent[each.number - 1]
                sealed = MarkingSealer().seal_literal(each.column, text, array=each.array, exact=each.exact)
                sent[each.number - 1] = sealed.decode()
        return sent

    def run(
        self, which: str, sql: str, params: Sequence[str], setup: str, login: str | None = None
    ) -> tuple[list[Answer], dict[str, Counter[Any]]]:
        """Run in a transaction that is rolled back; the answers, and what all tables hold afterwards."""
        connection = self.connections[which]
        pg = connection.pgconn
        _script(connection, "begin; set local client_min_messages = error; set local statement_timeout = '5s'")
        _script(connection, setup)
        if login is not None:
            _script(connection, f"set session authorization {login}")
        given = answers(pg, sql, params)
        dump: dict[str, Counter[Any]] = {}
        if pg.transaction_status == pq.TransactionStatus.INTRANS and WRITING.search(sql):
            _script(connection, "reset session authorization; set local search_path = pg_catalog")
            dump = self.dump(connection, which)
        if pg.transaction_status != pq.TransactionStatus.IDLE:
            pg.exec_(b"rollback")
        _script(connection, "reset session authorization; reset all; close all; deallocate all; discard temp")
        return given, dump

    def _tables(self, connection: psycopg.Connection[Any]) -> list[str]:
        result = connection.pgconn.exec_(
            b"select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            b" where (c.relkind = 'r' or (c.relkind = 'm' and c.relispopulated))"
            b" and n.nspname !~ '^(pg_toast|pg_catalog|information_schema|pgveil)' order by 1"
        )
        return [(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)]

    def dump(self, connection: psycopg.Connection[Any], which: str) -> dict[str, Counter[Any]]:
        found: dict[str, Counter[Any]] = {}
        for table in self._tables(connection):
            name = table.removeprefix("public.")
            name = re.sub(r"pg_temp_[0-9]+", "pg_temp", name)
            result = connection.pgconn.exec_(f"select * from {table}".encode())
            assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
            names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
            rows = [tuple(_text(result.get_value(r, c)) for c in range(result.nfields)) for r in range(result.ntuples)]
            found[name] = Counter(self._shown(which, name, names, row) for row in rows)
        return found

    def _shown(self, which: str, table: str, names: list[str], row: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """A stored row with its sealed columns opened and its masked ones masked (masks are idempotent)."""
        bare = table.strip('"').replace("visits_2026", "visits")
        rules = self.rules.tables.get(TableName("public", bare))
        shown: list[str | None] = []
        for name, value in zip(names, row, strict=True):
            column = rules.columns.get(name) if rules is not None else None
            if column is None or value is None:
                shown.append(value)
            elif column.mode is not None:
                shown.append(self._open(column, value) if which == "sealed" else value)
            elif name in {"name", "guest", "nick"}:
                shown.append(value[:1] + "***")
            else:
                shown.append("M" + value[-2:])
        return tuple(shown)

    def _open(self, column: Column, value: str) -> str:
        match = SEALED.match(value)
        if match is None or match["domain"] != (column.domain or str(column.name)):
            return f"!not sealed for {column.name}: {value}"
        return bytes.fromhex(match["body"]).decode()

    # -- comparing

    def _compare(self, decision: Decision, login: str, expected: list[Answer], got: list[Answer]) -> list[Finding]:
        findings: list[Finding] = []
        plans = decision.plans if isinstance(decision, Admit) else (None,) * len(got)
        for index, answer in enumerate(got):
            plan = plans[index] if index < len(plans) else None
            findings += self._one(plan, login, expected[index] if index < len(expected) else None, answer)
        if len(expected) != len(got) and not findings:
            findings.append(Finding("wrong", login, f"{len(got)} results instead of {len(expected)}"))
        return findings

    def _one(self, plan: Plan | None, login: str, expected: Answer | None, got: Answer) -> list[Finding]:
        limited = login in FENCED
        findings = []
        if limited and CANARY.search(got.message.encode()):
            findings.append(Finding("leak", login, f"a masked value in an error: {got.message}"))
        if got.error is not None:
            if expected is not None and expected.error is None:
                kind = "fence" if got.error == "42501" else "broken"
                if kind == "broken" or (limited and "must be owner" not in got.message):
                    findings.append(Finding(kind, login, f"{got.error} {got.message}"))
            elif expected is not None and expected.error != got.error:
                findings.append(
                    Finding("code", login, f"{got.error} {got.message} instead of {expected.error} {expected.message}")
                )
            return findings
        if got.fields is None:
            if expected is not None and expected.error is None and expected.tag != got.tag:
                findings.append(Finding("wrong", login, f"{got.tag} instead of {expected.tag}"))
            if expected is not None and expected.error is not None:
                findings.append(Finding("loose", login, f"plain gives {expected.error} {expected.message}"))
            return findings
        if [f.name for f in got.fields] == [b"QUERY PLAN"]:
            return findings
        raw = build_row_description(got.fields)
        seen = examine(self.gate, self.gate.principal(login), plan, raw, lambda c: parse_type(c.type or "text"))
        if isinstance(seen, Trouble):
            findings.append(Finding("witness", login, f"{seen.message} {seen.detail}"))
        rows = self._opened(plan, login, got, findings)
        if limited and any(v is not None and CANARY.search(v) for row in rows for v in row):
            findings.append(Finding("leak", login, "a masked value in the clear"))
        if expected is None:
            return findings
        if expected.error is not None:
            findings.append(Finding("loose", login, f"plain gives {expected.error} {expected.message}"))
        else:
            findings += self._same_shape(plan, login, expected, got)
            if Counter(rows) != Counter(expected.rows):
                findings.append(
                    Finding(
                        "wrong",
                        login,
                        f"rows {_few(Counter(rows) - Counter(expected.rows))} instead of {_few(Counter(expected.rows) - Counter(rows))}",
                    )
                )
        return findings

    def _same_shape(self, plan: Plan | None, login: str, expected: Answer, got: Answer) -> list[Finding]:
        assert got.fields is not None
        if expected.fields is None or [f.name for f in expected.fields] != [f.name for f in got.fields]:
            return [Finding("wrong", login, f"columns {got.fields} instead of {expected.fields}")]
        findings = []
        for index, (a, b) in enumerate(zip(expected.fields, got.fields, strict=True)):
            opened = (
                plan is not None
                and plan.results is not None
                and index < len(plan.results)
                and plan.results[index].open is not None
            )
            if not opened and a.type != b.type and max(a.type, b.type) < 16384:
                findings.append(Finding("wrong", login, f"type {b.type} instead of {a.type} in {a.name.decode()}"))
        return findings

    def _opened(
        self, plan: Plan | None, login: str, got: Answer, findings: list[Finding]
    ) -> list[tuple[bytes | None, ...]]:
        if plan is not None and plan.copy is not None and got.fields == ():
            return self._copy_opened(plan.copy, got)
        results = plan.results if plan is not None and plan.results is not None else None
        width = len(got.fields or ())
        if results is not None and len(results) != width:
            findings.append(Finding("leak", login, f"the plan has {len(results)} result columns, the server {width}"))
            return got.rows
        shown = []
        for row in got.rows:
            values: list[bytes | None] = []
            for index, value in enumerate(row):
                column = results[index].open if results is not None else None
                if value is None or column is None:
                    if value is not None and b"SEALED:" in value:
                        findings.append(
                            Finding("leak", login, f"a sealed value in column {index + 1}, which is not opened")
                        )
                    values.append(value)
                    continue
                opened = self._open(column, value.decode())
                if opened.startswith("!"):
                    findings.append(Finding("broken", login, f"column {index + 1}: {opened}"))
                values.append(opened.encode())
            shown.append(tuple(values))
        return shown

    def _copy_opened(self, copy: CopyPlan, got: Answer) -> list[tuple[bytes | None, ...]]:
        """Lines of COPY TO in text or csv, their sealed fields opened."""
        codec = line_codec(copy.format, [""] * len(copy.results), limit=1 << 20)
        shown: list[tuple[bytes | None, ...]] = []
        for (line,) in got.rows:
            for row in codec.feed(line or b""):
                for index, result in enumerate(copy.results if row.data else ()):
                    value = codec.read(row, index)
                    if result.open is not None and value is not None:
                        codec.write(row, index, self._open(result.open, value.decode()).encode())
                shown.append((codec.join(row),))
        return shown

    def _compare_dumps(
        self, login: str, expected: dict[str, Counter[Any]], got: dict[str, Counter[Any]]
    ) -> list[Finding]:
        findings = []
        if expected.keys() != got.keys():
            findings.append(Finding("stored", login, f"tables {sorted(expected.keys() ^ got.keys())}"))
        for table in expected.keys() & got.keys():
            if which := expected[table] - got[table]:
                findings.append(
                    Finding("stored", login, f"{table}: {_few(got[table] - expected[table])} instead of {_few(which)}")
                )
            elif which := got[table] - expected[table]:
                findings.append(Finding("stored", login, f"{table}: {_few(which)} too many"))
        return findings


async def read_catalog(dsn: str) -> Catalog:
    """The catalog of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return build_catalog({name: await connection.fetch(sql) for name, sql in CATALOG_QUERIES.items()})
    finally:
        await connection.close()


def _few(rows: Counter[Any]) -> str:
    return str(list(rows.elements())[:3])


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _quoted(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _script(connection: psycopg.Connection[Any], sql: str) -> None:
    result = connection.pgconn.exec_(sql.encode())
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY):
        raise RuntimeError(f"{sql}: {result.error_message.decode()}")


def answers(pg: pq.abc.PGconn, sql: str, params: Sequence[str]) -> list[Answer]:
    """What a server says to a text."""
    if params:
        pg.send_query_params(sql.encode(), [p.encode() for p in params])
    else:
        pg.send_query(sql.encode())
    answers: list[Answer] = []
    while True:
        result = pg.get_result()
        if result is None:
            return answers
        if result.status in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN):
            answers += _copied(pg, result.status)
            continue
        if result.status == pq.ExecStatus.TUPLES_OK:
            answers.append(rows_of(result))
        elif result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
            answers.append(Answer(tag=(result.command_status or b"").decode()))
        else:
            state = result.error_field(pq.DiagnosticField.SQLSTATE) or b"?????"
            fields = (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL, pq.DiagnosticField.CONTEXT)
            words = [value.decode("utf-8", "replace") for f in fields if (value := result.error_field(f)) is not None]
            answers.append(Answer(state.decode(), "; ".join(words)))


def _copied(pg: pq.abc.PGconn, status: int) -> list[Answer]:
    """COPY's lines as the rows of one column; COPY FROM is given nothing."""
    if status == pq.ExecStatus.COPY_IN:
        pg.put_copy_end()
        return []
    rows: list[tuple[bytes | None, ...]] = []
    while True:
        size, data = pg.get_copy_data(0)
        if size < 0:
            break
        rows.append((bytes(data),))
    return [Answer(fields=(), rows=rows)]


def rows_of(result: pq.abc.PGresult) -> Answer:
    """A result with rows."""
    fields = tuple(
        Field(
            result.fname(i) or b"",
            result.ftable(i),
            result.ftablecol(i),
            result.ftype(i),
            result.fsize(i),
            result.fmod(i),
            0,
        )
        for i in range(result.nfields)
    )
    rows = [tuple(result.get_value(r, c) for c in range(result.nfields)) for r in range(result.ntuples)]
    return Answer(fields=fields, rows=rows, tag=(result.command_status or b"").decode())
