"""`pgveil explain`: decisions told in words, the command's manners, and a real server's catalog."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from rich.console import Console

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from keys.sealed import SEALED_PATTERN, DataKey, seal
from keys.sealed_sql import holds
from proxy.explain import ADMITTED, COMPUTED, PASSES, REFUSED, Explanation, Result, explain
from proxy.explain_text import psql_lines, show
from proxy.offline import first_settings
from proxy.session.computing import Write
from proxy.session.gate import Admit, NeedNames, Settings
from rules.load import load_rules_text
from rules.model import TableName, view_name
from tests.proxy.golden import RULES, SETTINGS, bank_catalog, gate, statements
from tests.recording import put_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from rules.model import Column

GATE = gate()
COMPUTING = gate()
COMPUTING.computes = True
AGENT = GATE.principal("agent").policy.schema


def told(sql: str, login: str = "agent", settings: Settings = SETTINGS) -> Explanation:
    return explain(GATE, sql, login, settings)


def printed(explanation: Explanation, width: int = 80) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width), explanation)
    return out.getvalue()


class TestStatements:
    def test_nothing_protected(self) -> None:
        found = told("select 1; select item from orders")
        assert (found.outcome, found.refusal) == (PASSES, None)
        assert [(s.outcome, s.text, s.runs, s.audit) for s in found.statements] == [
            (PASSES, "select 1", "select 1", None),
            (PASSES, "select item from orders", "select item from orders", None),
        ]
        assert "forwarded byte for byte" in printed(found)
        assert "an error or notice in which the server could quote" in printed(found)

    def test_catalogs(self) -> None:
        explanation = told("select nspname from pg_catalog.pg_namespace; select 1")
        first, second = explanation.statements
        assert (first.outcome, second.outcome, second.splices) == ("passes", "passes", ())
        assert first.runs.startswith("select nspname from pg_catalog.pg_namespace, LATERAL (SELECT WHERE ")
        (splice,) = first.splices
        assert (splice.original, splice.why) == ("", "the catalog is read as on a plain database")
        page = printed(explanation)
        assert "forwarded with system catalogs as on a plain database, not recorded" in page.replace("\n", " ")
        assert "forwarded byte for byte" in page

    def test_a_text_that_the_server_will_refuse_itself(self) -> None:
        found = told("selec 'x")
        assert (found.outcome, [s.text for s in found.statements]) == (PASSES, ["selec 'x"])

    def test_masked_and_opened(self) -> None:
        found = told("select id, phone, id_number, upper(name) from customers where id = '7'")
        (statement,) = found.statements
        view = f'"{AGENT}"."customers"'
        assert found.outcome == statement.outcome == ADMITTED
        assert statement.runs == f"select id, phone, id_number, upper(name) from {view} where id = '7'"
        assert [(s.position, s.original, s.replacement) for s in statement.splices] == [(47, "customers", view)]
        assert statement.results == (
            Result(1, "forwarded"),
            Result(2, "masked", "public.customers.phone", mask="phone"),
            Result(3, "opened and masked", "public.customers.id_number", "varchar(18)", "id_number"),
            Result(4, "masked", "public.customers.name", mask="name", derived=True),
        )
        assert [(c.column, c.verdict, c.read, c.written) for c in statement.columns] == [
            ("public.customers.id_number", "masked", True, False),
            ("public.customers.name", "masked", True, False),
            ("public.customers.phone", "masked", True, False),
        ]

    def test_the_clear_side(self) -> None:
        found = told("select phone, id_number from customers", "teller")
        (statement,) = found.statements
        assert (statement.splices, statement.runs) == ((), statement.text)
        assert statement.results == (
            Result(1, "forwarded", "public.customers.phone"),
            Result(2, "opened", "public.customers.id_number", "varchar(18)"),
        )
        assert "the text as it came" in printed(found)

    def test_what_is_computed(self) -> None:
        """As a pgveil with a calculator does it; without one it is refused."""
        sql = "select upper(pan) from cards where id = 7"
        assert told(sql, "teller").outcome == REFUSED
        found = explain(COMPUTING, sql, "teller", SETTINGS)
        (statement,) = found.statements
        assert (found.outcome, statement.outcome) == (COMPUTED, COMPUTED)
        (fetch,) = statement.fetches
        assert "WHERE (id = 7)" in fetch
        assert "fetches, then computes on the opened rows" in printed(found)
        assert fetch in printed(found, 200)
        written = explain(COMPUTING, "update cards set credit = credit + 1 where id = 7", "teller", SETTINGS)
        assert written.outcome == COMPUTED
        assert "writes what was computed" in printed(written)

    def test_a_condition_on_masks(self) -> None:
        found = told("select id from customers where lower(phone) = 'x'")
        assert found.statements[0].by_mask == ("public.customers.phone",)
        assert "meets the masks of public.customers.phone" in printed(found)
        assert told("select id, phone from customers where id = 1").statements[0].by_mask == ()

    def test_what_is_sealed(self) -> None:
        sql = "update cards set pan = '4111', cvv = $1::char(3) where pan = any($2)"
        (statement,) = told(sql, "teller").statements
        assert statement.runs == "update cards set pan = '<sealed>', cvv = $1 where pan = any($2)"
        assert [(s.number, s.column, s.mode, s.domain, s.array, s.compared) for s in statement.sealed] == [
            (None, "public.cards.pan", "deterministic", "pan", False, False),
            (1, "public.cards.cvv", "randomized", "public.cards.cvv", False, False),
            (2, "public.cards.pan", "deterministic", "pan", True, True),
        ]
        assert (statement.writes, statement.lookup) == (True, True)
        text = printed(told(sql, "teller"))
        assert (
            "$2: each element sealed for public.cards.pan as varchar(19), deterministic, domain pan, to be compared"
            in text
        )
        assert "durable before it can commit" in text

    def test_several_statements_each_with_its_own(self) -> None:
        sql = "select 1;\n select phone\n from customers; select name from public.customers where public.customers.id = '1'"
        found = told(sql)
        assert [s.outcome for s in found.statements] == [PASSES, ADMITTED, ADMITTED]
        assert [s.text for s in found.statements] == [s.strip() for s in sql.split(";")]
        assert [len(s.splices) for s in found.statements] == [0, 1, 2]
        assert "public" not in found.statements[2].runs
        assert "statement 3: admitted" in printed(found)

    @pytest.mark.parametrize("login", ["teller", "agent"])
    def test_what_is_told_to_run_is_what_runs(self, login: str) -> None:
        """Over all golden statements: the statements' texts, put together again, are the text that the gate admits."""
        principal = GATE.principal(login)
        for sql in statements():
            decision = GATE.decide(sql.encode(), principal, SETTINGS, extended=False)
            if isinstance(decision, NeedNames):
                decision = decision.otherwise
            found = told(sql, login)
            if not isinstance(decision, Admit):
                # Masks written back run in steps, without a calculator.
                assert found.outcome in {PASSES, REFUSED} or isinstance(decision, Write)
                continue
            whole = sql
            for statement in reversed(found.statements):
                at = statement.position - 1
                whole = whole[:at] + statement.runs + whole[at + len(statement.text) :]
            shown = re.sub(r"'<[^>]*>'", "'<sealed>'", decision.text.decode())
            assert whole == shown

    def test_the_audit_record_is_the_trail_s_own(self) -> None:
        (statement,) = told("select phone from customers where name = 'Secretname'").statements
        assert statement.audit is not None
        assert statement.audit["kind"] == "statement"
        assert statement.audit["statement"] == "select phone from customers where name = 's'"
        assert statement.audit["columns"][0] == {
            "column": "public.customers.name",
            "level": "important",
            "verdict": "masked",
            "read": True,
            "written": False,
        }
        assert not statement.audit.keys() & {"connection", "client", "application", "statement_id"}


class TestSealedForms:
    """A sealed constant is shown by mode and key, and nothing of it that could be looked for in the database."""

    def sealing(self, sql: str, *, keys: bool) -> str:
        key = DataKey("pan", 5, bytes(64))

        class Sealer:
            now = 0.0

            def vouch(self, column: Column, sealed: bytes, login: str) -> bytes:
                return b"!" + sealed

            def seal_literal(self, column: Column, text: str, **_: object) -> bytes:
                return seal(key, text.encode(), nonce=None)

        found = explain(gate(Sealer()), sql, "teller", SETTINGS, keys=keys)
        text = printed(found) + json.dumps(found.document())
        assert re.search(SEALED_PATTERN.strip("^$"), text) is None
        return found.statements[0].runs

    def test_shortened(self) -> None:
        assert (
            self.sealing("select id from cards where pan = '4111'", keys=True)
            == "select id from cards where pan = '~AAF…'"
        )

    def test_not_at_all_without_keys(self) -> None:
        runs = self.sealing("select id from cards where pan = '4111'", keys=False)
        assert runs == "select id from cards where pan = '<sealed>'"


class TestRefusals:
    def test_everything_that_the_client_is_told(self) -> None:
        found = told("select id\n  from cards where pan = '4111'")
        refusal = found.refusal
        assert (found.outcome, found.statements) == (REFUSED, ())
        assert refusal is not None
        assert (refusal.reason, refusal.sqlstate, refusal.section) == ("lookup", "42501", "docs/errors.md#lookup")
        assert psql_lines(refusal, found.text) == [
            f"ERROR:  42501: {refusal.message}",
            "LINE 2:   from cards where pan = '4111'",
            "                           ^",
            f"HINT:  {refusal.hint}",
        ]
        assert [(c.column, c.verdict) for c in refusal.columns] == [
            ("public.cards.credit", "masked"),
            ("public.cards.cvv", "refused"),
            ("public.cards.pan", "masked"),
        ]
        assert (refusal.audit["kind"], refusal.audit["reason"]) == ("refusal", "lookup")
        assert "4111" not in json.dumps(refusal.audit)
        assert "reason lookup: see docs/errors.md#lookup" in printed(found)

    def test_the_caret_under_wide_characters_and_tabs(self) -> None:
        found = told("select '客户',\tid from cards where pan = '1'")
        assert found.refusal is not None
        _, line, caret, *_ = psql_lines(found.refusal, found.text)
        assert line == "LINE 1: select '客户', id from cards where pan = '1'"
        assert caret == " " * (len("LINE 1: select '客户', id from cards where ") + 2) + "^"

    def test_a_name_that_could_mean_several_tables(self) -> None:
        bank = bank_catalog()
        other = replace(bank.relations[1], oid=99, name=TableName("other", "customers"))
        doubtful = gate()
        doubtful.update(doubtful.protection.rules, replace(bank, relations={**bank.relations, 99: other}))
        found = explain(doubtful, "select phone from customers", "agent", Settings())
        assert found.refusal is not None
        assert (found.refusal.reason, found.refusal.sqlstate) == ("settings", "0AP01")

    def test_a_text_that_the_server_may_not_understand_either(self) -> None:
        for sql, told_so in (
            ("select phone from customers where", True),
            ("select pan from cards order by pan", False),
        ):
            found = told(sql, "teller")
            assert found.refusal is not None
            assert found.refusal.server_first
            assert ("the server is asked first" in printed(found)) is told_so

    def test_a_view_shows_what_it_reads(self) -> None:
        found = told("select upper(phone) from v_phones")
        assert found.refusal is not None
        assert [c.column for c in found.refusal.columns] == ["public.customers.phone"]


@pytest.mark.parametrize(
    ("login", "changes", "why"),
    [
        ("agent", {}, None),
        ("owner", {}, "owner or superuser"),
        ("agent", {"superusers": frozenset({"agent"})}, "owner or superuser"),
        ("agent", {"members": {"agent": frozenset({"owner"})}}, "owner or superuser"),
        ("agent", {"members": {"agent": frozenset({"pg_read_all_data"})}}, "pg_read_all_data"),
        ("agent", {"below": {"agent": ("REPLICATION",)}}, "REPLICATION"),
        ("agent", {"below": {"agent": ("pg_read_binary_file",)}}, "pg_read_binary_file"),
    ],
)
def test_who_is_kept_out_by_privileges(login: str, changes: dict[str, Any], why: str | None) -> None:
    other = gate()
    other.update(other.protection.rules, replace(bank_catalog(), **changes))
    found = explain(other, "select 1", login, SETTINGS)
    assert found.unfenced_by == why
    assert (f"NOT kept out by privileges: {why}" in printed(found)) is (why is not None)


class TestPrinting:
    def test_control_characters_are_escaped(self) -> None:
        assert "\x1b" not in printed(told('select phone as "\x1b[2J" from customers'))
        assert "\x1b" not in printed(told("select pan from cards where pan like '\x1b[2J'"))

    def test_lines_are_never_broken(self) -> None:
        sql = "select phone, phone, phone, phone, phone, phone, phone, phone, phone from customers"
        assert f"  {sql}\n" in printed(told(sql), width=20)

    def test_edits_are_marked_on_a_terminal(self) -> None:
        out = io.StringIO()
        show(Console(file=out, force_terminal=True, width=200), told("select phone from customers"))
        assert f'\x1b[1;7m"{AGENT}"."customers"\x1b[0m' in out.getvalue()

    def test_every_golden_statement_makes_a_document_and_a_page(self) -> None:
        for sql in statements():
            found = told(sql)
            assert json.loads(json.dumps(found.document()))["outcome"] == found.outcome
            assert f"\n{found.outcome}\n" in printed(found) or ": " + found.outcome in printed(found)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ('"$user", public', ("pg_catalog", "ann", "public")),
        ("Bank, \"Odd Name\", 'quoted', public", ("pg_catalog", "bank", "Odd Name", "quoted", "public")),
        ("missing, public, pg_catalog", ("public", "pg_catalog")),
        ('""', None),
    ],
)
def test_search_paths(path: str, expected: tuple[str, ...] | None) -> None:
    schemas = frozenset({"ann", "bank", "Odd Name", "quoted", "public"})
    if expected is None:
        with pytest.raises(Exception, match="search_path was not understood"):
            first_settings(path, "ann", schemas)
    else:
        assert first_settings(path, "ann", schemas).search_path == expected


# -- the command, on a real server ------------------------------------------------------------------------------------------------

TABLES = f"""
CREATE SCHEMA pgveil;
CREATE DOMAIN pgveil.sealed AS text CHECK ({holds("VALUE")});
CREATE SCHEMA other;
CREATE TABLE public.customers (id text, name text, phone text, id_number pgveil.sealed, notes text);
CREATE TABLE public.cards (id text, customer_id text, pan pgveil.sealed, cvv pgveil.sealed, credit pgveil.sealed, kind text);
CREATE TABLE public.payments (id text, pan pgveil.sealed, amount text);
CREATE TABLE public.visits (id text, guest text, day text);
CREATE TABLE other.customers (id text, phone text);
"""


@pytest.fixture(scope="module")
def database(pg: Postgres) -> Iterator[str]:
    name = pg.create_database()
    view = view_name(TableName("public", "customers"))
    sql = f'{TABLES}; CREATE SCHEMA "{AGENT}"; CREATE VIEW "{AGENT}"."{view}" AS SELECT * FROM public.customers;'

    async def make() -> None:
        connection = await asyncpg.connect(pg.dsn(name))
        try:
            await connection.execute(sql)
            for login in ("agent", "teller"):
                if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", login):
                    await connection.execute(f"CREATE ROLE {login} LOGIN")
            await connection.execute(f'ALTER ROLE teller IN DATABASE "{name}" SET search_path = other, public')
            await connection.execute("GRANT USAGE ON SCHEMA other TO teller")
            await put_record(connection, load_rules_text(RULES, "rules.yaml"))
        finally:
            await connection.close()

    asyncio.run(make())
    yield pg.dsn(name)

    async def clean() -> None:
        connection = await asyncpg.connect(pg.dsn(name))
        await connection.execute(f'ALTER ROLE teller IN DATABASE "{name}" RESET ALL')
        await connection.close()

    asyncio.run(clean())


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "explain", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestCommand:
    def test_admitted(self, database: str, rules: Path) -> None:
        done = run("--rules", rules, "--database", database, "--as", "agent", "select phone from customers")
        assert done.returncode == 0, done.stderr
        assert f'select phone from "{AGENT}"."customers"' in done.stdout
        assert "1. public.customers.phone: masked, by phone" in done.stdout
        assert "keys can't be read" in done.stderr

    def test_refused_from_the_standard_input_as_json(self, database: str, rules: Path) -> None:
        done = run("--rules", rules, "--database", database, "--as", "agent", "--json", "-", stdin="table cards\n")
        assert done.returncode == 1
        found = document(done)
        assert (found["outcome"], found["login_exists"], found["refusal"]["reason"]) == ("refused", True, "verdict")

    def test_the_login_s_own_search_path(self, database: str, rules: Path) -> None:
        arguments = ("--rules", rules, "--database", database, "--json", "--as")
        found = document(run(*arguments, "teller", "select phone from customers"))
        assert found["outcome"] == "passes", "the teller's customers are those of another schema"
        found = document(run(*arguments, "teller", "--search-path", "public", "select phone from customers"))
        assert found["outcome"] == "admitted"
        found = document(run(*arguments, "nobody_at_all", "select phone from customers"))
        assert (found["login_exists"], found["roles"]) == (False, [])

    def test_by_configuration_with_keys(self, database: str, rules: Path, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.mkdir(mode=0o700)
        ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
        for domain in ("pan", "public.cards.cvv"):
            ring.ensure(domain, os.urandom)
        config = tmp_path / "pgveil.yaml"
        config.write_text(f"rules: rules.yaml\nkeys: keys\ncatalog:\n  dsn: {database}\n")
        done = run("--config", config, "--as", "teller", "select id from cards where pan = '4111'")
        assert (done.returncode, done.stderr) == (0, "")
        assert "pan = '~AAB…'" in done.stdout
        done = run("--config", config, "--as", "teller", "insert into cards (pan) values ('41111111111111111111')")
        assert done.returncode == 1
        assert "22001: value too long" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("--as", "agent", "select 1"), 2, "pgveil.yaml"),
            (("--as", "agent", "--rules", "{rules}", "select 1"), 2, "--database"),
            (("--as", "agent", "--rules", "nowhere.yaml", "--database", "{database}", "select 1"), 2, "nowhere.yaml"),
            (("--as", "agent", "--rules", "{rules}", "--database", "{database}", "  "), 2, "no statement"),
            (("--rules", "{rules}", "--database", "{database}", "select 1"), 2, "--as"),
            (
                ("--as", "a", "--rules", "{rules}", "--database", "postgresql://x:pass@127.0.0.1:1/d", "select 1"),
                3,
                "cannot be reached",
            ),
            (
                ("--as", "a", "--rules", "{rules}", "--database", "postgresql://x:pass@h:port/d", "select 1"),
                2,
                "can't be used",
            ),
        ],
    )
    def test_bad_usage_and_no_database(
        self, database: str, rules: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
    ) -> None:
        given = [a.format(rules=rules, database=database) for a in arguments]
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "explain", *given],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert ":pass@" not in done.stderr
