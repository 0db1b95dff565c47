"""`pgveil check` and `pgveil schema`: exit codes, messages as compilers print them, and a database as judge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import typer
from typer.testing import CliRunner, Result

from rules.agreement import logical_type_of, suggested_entry
from rules.catalog import CatalogColumn
from rules.commands import check, register
from rules.load import load_rules_text
from rules.logical import Family
from rules.model import Level, TableName
from rules.recognise import recognise, recognise_type
from rules.schema import json_schema
from tests.recording import put_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

    Run = Callable[..., Result]

RULES = """\
version: 1
tables:
  public.clients:
    subject: id
    columns:
      phone: {level: important, mask: phone}
      card: {level: core, type: varchar(19), mode: deterministic, mask: bank_card}
      mood: {level: important, type: 'enum public.mood(sad, happy)', mask: "null"}
      note: {level: general}
roles:
  teller: {logins: [rc_anna], levels: {core: masked, important: clear}}
  auditor: {member_of: [rc_auditors], levels: {core: refused, important: masked}}
"""

DATABASE = """
CREATE SCHEMA pgveil;
CREATE DOMAIN pgveil.sealed AS text;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN telephone AS varchar(30);
CREATE TABLE clients (id bigint, phone telephone, card pgveil.sealed, mood mood, note text);
CREATE VIEW clients_view AS SELECT phone AS mobile FROM clients;
CREATE TABLE visits (id bigint, day date, place text) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE pgveil.own (email text);
"""

ROLES = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rc_anna') THEN
        CREATE ROLE rc_anna LOGIN; CREATE ROLE rc_auditors; CREATE ROLE rc_bob LOGIN IN ROLE rc_auditors;
    END IF;
END $$;
"""


@pytest.fixture
def run() -> Run:
    app = typer.Typer()
    register(app)
    app.command("check")(check)
    runner = CliRunner()
    return lambda *args: runner.invoke(app, [str(a) for a in args])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def dsn(pg: Postgres) -> str:
    import asyncio  # noqa: PLC0415 - the commands run their own loop, so these tests have none

    name = pg.create_database()

    async def prepare() -> None:
        connection = await asyncpg.connect(pg.dsn(name))
        await connection.execute(ROLES + DATABASE)
        await put_record(connection, load_rules_text(RULES, "rules.yaml"), views=True)
        await connection.close()

    asyncio.run(prepare())
    return pg.dsn(name)


def execute(dsn: str, sql: str) -> None:
    import asyncio  # noqa: PLC0415 - as above

    async def go() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(go())


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class TestWithoutDatabase:
    def test_a_good_file(self, run: Run, path: Path) -> None:
        result = run("check", path)
        assert result.exit_code == 0, result.output
        assert "1 tables, 4 columns, 3 of them protected" in result.stdout
        assert "rc_anna" in result.stdout
        assert result.stderr == ""

    def test_errors_as_compilers_print_them(self, run: Run, path: Path) -> None:
        path.write_text(RULES.replace("mask: phone", "mask: fone"))
        result = run("check", path)
        assert result.exit_code == 1
        assert f"{path}:6:39: error: unknown mask 'fone'\n    fix: did you mean `phone`?" in result.stderr

    def test_json(self, run: Run, path: Path) -> None:
        path.write_text(RULES.replace("mask: phone", "mask: fone"))
        result = run("check", path, "--json")
        assert result.exit_code == 1
        found = document(result)
        assert (found["version"], found["errors"]) == (None, 1)
        assert found["problems"][0]["line"] == 6

    def test_one_login(self, run: Run, path: Path) -> None:
        (login,) = document(run("check", path, "--json", "--as", "stranger"))["logins"]
        assert login["roles"] == []
        assert login["fenced"] is None
        assert login["verdicts"] == {
            "public.clients.card": "refused",
            "public.clients.mood": "masked",
            "public.clients.phone": "masked",
        }

    def test_warnings_fail_only_when_strict(self, run: Run, path: Path) -> None:
        path.write_text(RULES.replace(", mask: bank_card", ""))
        assert run("check", path).exit_code == 0
        assert run("check", path, "--strict").exit_code == 1

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_what_is_no_file_is_bad_usage(self, run: Run, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "x.yaml"
        if content is not None:
            path.write_bytes(content)
        result = run("check", path)
        assert result.exit_code == 2
        assert "pgveil:" in result.stderr

    def test_schema_is_printed(self, run: Run) -> None:
        result = run("schema")
        assert result.exit_code == 0
        assert json.loads(result.stdout) == json.loads(json.dumps(json_schema()))


class TestDatabaseOutOfReach:
    def test_nobody_listens(self, run: Run, path: Path) -> None:
        result = run("check", path, "--database", "postgresql://u:secret-word@127.0.0.1:1/d")
        assert result.exit_code == 3
        assert "secret-word" not in result.output

    def test_the_database_refuses(self, run: Run, path: Path, pg: Postgres) -> None:
        result = run("check", path, "--database", pg.dsn("no_such_database"))
        assert result.exit_code == 3
        assert "no_such_database" in result.stderr

    @pytest.mark.parametrize(
        "dsn", ["not a url secret-word", "http://secret-word", "postgresql://u:secret-word@h:port/d"]
    )
    def test_a_bad_dsn_is_bad_usage_and_not_repeated(self, run: Run, path: Path, dsn: str) -> None:
        result = run("check", path, "--database", dsn)
        assert result.exit_code == 2
        assert "secret-word" not in result.output


class TestAgainstDatabase:
    def test_agreement(self, run: Run, path: Path, dsn: str) -> None:
        result = run("check", path, "--database", dsn, "--strict")
        assert result.exit_code == 0, result.output
        assert "rc_bob" in result.stdout
        assert "auditor" in result.stdout

    def test_who_sees_what(self, run: Run, path: Path, dsn: str) -> None:
        logins = {e["login"]: e for e in document(run("check", path, "--database", dsn, "--json"))["logins"]}
        assert logins["rc_bob"]["roles"] == ["auditor"]
        assert logins["rc_bob"]["verdicts"]["public.clients.phone"] == "masked"
        assert logins["rc_bob"]["fenced"] is True
        assert logins["postgres"]["fenced"] is False
        assert "rc_auditors" not in logins

    @pytest.mark.parametrize(
        ("change", "place", "message", "fix"),
        [
            ("DROP TABLE clients CASCADE", "3:3", "has no table public.clients", None),
            (
                "ALTER TABLE clients RENAME TO client",
                "3:3",
                "has no table public.clients",
                "did you mean `public.client`",
            ),
            ("ALTER TABLE clients RENAME note TO notes", "9:7", "has no column note", "did you mean `notes`"),
            ("ALTER TABLE clients RENAME id TO ident", "3:3", "the subject id is not a column", None),
            (
                "ALTER TABLE clients ALTER card TYPE varchar(20)",
                "7:7",
                "is character varying(20) in the database",
                "type: varchar(20)",
            ),
            ("ALTER TABLE clients ALTER mood TYPE text", "8:7", "is text in the database", "type: text"),
            (
                "ALTER TABLE clients ALTER note TYPE pgveil.sealed",
                "9:7",
                "is sealed in the database but `none`",
                "protection: sealed",
            ),
            (
                "ALTER TABLE clients DROP phone CASCADE, ADD phone bigint",
                "6:7",
                "the mask phone does not fit bigint",
                "range",
            ),
            (
                "ALTER TABLE clients DROP card, ADD card varchar(19) GENERATED ALWAYS AS ('x') STORED",
                "7:7",
                "is generated",
                "mask it instead",
            ),
        ],
    )
    def test_disagreements(
        self, run: Run, path: Path, dsn: str, change: str, place: str, message: str, fix: str | None
    ) -> None:
        execute(dsn, change)
        result = run("check", path, "--database", dsn)
        assert result.exit_code == 1
        (line,) = [each for each in result.stderr.splitlines() if ": error: " in each]
        assert line.startswith(f"{path}:{place}: ")
        assert message in line
        assert fix is None or fix in result.stderr

    def test_what_differs_from_the_record_of_what_is_applied(self, run: Run, path: Path, dsn: str) -> None:
        """F1.5, F1.6: check said nothing of it."""
        assert run("check", path, "--database", dsn).stderr == ""
        for old, new, words in (
            ("mode: deterministic", "mode: randomized", "is sealed in the database as deterministic varchar(19)"),
            ("type: varchar(19)", "type: varchar(20)", "and the rules in force say deterministic varchar(20)"),
            (
                "mask: phone",
                "mask: {kind: keep_last, n: 2}",
                "there are no masking views as the rules in force want them",
            ),
        ):
            path.write_text(RULES.replace(old, new))
            told = run("check", path, "--database", dsn)
            assert told.exit_code == 0
            assert words in told.stderr
            assert "run: pgveil apply --reload" in told.stderr
        path.write_text("version: 1\ntables: {}\n")
        lost = run("check", path, "--database", dsn)
        assert lost.exit_code == 1
        assert 'error: column "public.clients.card" is sealed in the database' in lost.stderr
        path.write_text(RULES)
        execute(dsn, "CREATE TABLE copied AS SELECT card FROM clients")
        copied = run("check", path, "--database", dsn)
        assert copied.exit_code == 0
        assert 'warning: column "public.copied.card" is sealed in the database' in copied.stderr
        execute(dsn, "DROP TABLE copied; DROP VIEW pgveil.applied")
        assert "which has no record of how" in run("check", path, "--database", dsn).stderr

    def test_a_column_that_waits_for_its_backfill_is_a_warning(self, run: Run, path: Path, dsn: str) -> None:
        execute(dsn, "ALTER TABLE clients ALTER card TYPE varchar(19)")
        result = run("check", path, "--database", dsn)
        assert result.exit_code == 0
        assert "warning: public.clients.card is still stored plain" in result.stderr

    def test_arrays_of_sealed_values(self, run: Run, path: Path, dsn: str) -> None:
        execute(dsn, "ALTER TABLE clients DROP card, ADD card pgveil.sealed[]")
        assert "an array is sealed as one value" in run("check", path, "--database", dsn).stderr
        execute(dsn, "ALTER TABLE clients DROP card, ADD card pgveil.sealed")
        path.write_text(
            RULES.replace(
                "varchar(19), mode: deterministic, mask: bank_card",
                '"varchar(19)[]", mode: deterministic, mask: "null"',
            )
        )
        assert run("check", path, "--database", dsn).exit_code == 0

    def test_rules_name_tables_not_views_or_partitions(self, run: Run, path: Path, dsn: str) -> None:
        path.write_text(
            "version: 1\ntables:\n  public.clients_view: {columns: {}}\n  public.visits_1: {columns: {place: {level: general}}}\n"
        )
        result = run("check", path, "--database", dsn)
        assert result.exit_code == 1
        assert f"{path}:3:3: error: public.clients_view is a view" in result.stderr
        assert f"{path}:4:31: error: public.visits_1 inherits place" in result.stderr
        assert "under public.visits instead" in result.stderr

    def test_unclassified_columns_that_look_sensitive(self, run: Run, path: Path, dsn: str) -> None:
        execute(dsn, 'ALTER TABLE clients ADD home_phone text; ALTER TABLE visits ADD "客户姓名" text')
        result = run("check", path, "--database", dsn)
        assert result.exit_code == 0
        assert (
            f"{path}:3:3: warning: column public.clients.home_phone (text) looks like a telephone number (its name holds 'phone')"
            in result.stderr
        )
        assert result.stderr.count("public.visits.客户姓名") == 1
        assert "visits_1" not in result.stderr
        assert "pgveil.own" not in result.stderr
        assert "clients_view" not in result.stderr
        assert run("check", path, "--database", dsn, "--strict").exit_code == 1
        path.write_text(RULES.replace("      note:", "      home_phone: {level: general}\n      note:"))
        assert "home_phone" not in run("check", path, "--database", dsn).stderr

    def test_roles_that_the_database_lacks(self, run: Run, path: Path, dsn: str) -> None:
        path.write_text(RULES.replace("rc_anna", "rc_ana"))
        result = run("check", path, "--database", dsn)
        assert "warning: role teller: the database has no login rc_ana" in result.stderr


SENSITIVE = [
    ("public.t", "phone", "telephone number"),
    ("public.t", "home_phone", "telephone number"),
    ("public.t", "mobilePhone2", "telephone number"),
    ("public.t", "手机号", "telephone number"),
    ("public.t", "email", "e-mail address"),
    ("public.t", "EMail", "e-mail address"),
    ("public.t", "work_e_mail", "e-mail address"),
    ("public.t", "邮箱", "e-mail address"),
    ("public.t", "id_card", "identity document"),
    ("public.t", "身份证号码", "identity document"),
    ("public.t", "passport_no", "identity document"),
    ("public.t", "national_id", "identity document"),
    ("public.t", "pan", "bank card"),
    ("public.t", "card_number", "bank card"),
    ("public.t", "cardNo", "bank card"),
    ("public.t", "cvv2", "bank card"),
    ("public.t", "银行卡号", "bank card"),
    ("public.t", "iban", "bank account"),
    ("public.t", "first_name", "person's name"),
    ("public.customers", "name", "person's name"),
    ("public.客户表", "name", "person's name"),
    ("public.t", "姓名", "person's name"),
    ("public.t", "birth_date", "date of birth"),
    ("public.t", "出生日期", "date of birth"),
    ("public.t", "address", "postal address"),
    ("public.t", "收货地址", "postal address"),
    ("public.t", "fingerprint", "biometrics"),
    ("public.t", "wechat_id", "messenger account"),
    # Written together, as HumanResources and Sales databases do.
    ("public.t", "nationalidnumber", "identity document"),
    ("public.t", "addressline1", "postal address"),
    ("public.t", "middlename", "person's name"),
    ("public.t", "accountnumber", "bank account"),
    ("public.t", "CreditCardNumber", "bank card"),
    ("public.t", "homephonenumber", "telephone number"),
    ("public.t", "dateofbirth", "date of birth"),
    ("public.t", "mail", "e-mail address"),
    ("public.t", "cell", "telephone number"),
    ("public.t", "postal_code", "postal address"),
    ("public.t", "postcode", "postal address"),
    ("public.t", "zip", "postal address"),
    ("public.t", "line1_address", "postal address"),
    ("public.t", "password", "secret of a login"),
    ("public.t", "gender", "gender"),
    ("public.t", "salary", "income"),
    ("public.t", "tax_id", "identity document"),
    ("public.employees", "photo", "picture of a person"),
    ("public.users", "photo", "picture of a person"),
    ("public.user_profiles", "avatar", "picture of a person"),
    ("public.staff", "picture", "picture of a person"),
    ("public.benutzer", "bild", "picture of a person"),
    ("public.t", "passbild", "picture of a person"),
    ("public.t", "id_photo", "picture of a person"),
    ("public.payment_bankcard", "number", "bank card"),
    ("public.payment_bankcard", "name", "person's name"),
    ("public.payment_bankcard", "expiry_date", "bank card's expiry"),
    # German.
    ("public.t", "handy", "telephone number"),
    ("public.t", "telefonnummer_privat", "telephone number"),
    ("public.t", "geburtsdatum", "date of birth"),
    ("public.t", "karte", "bank card"),
    ("public.t", "Straße", "postal address"),
    ("public.t", "nachname", "person's name"),
    ("public.kunden", "name", "person's name"),
]
ORDINARY = [
    ("public.products", "name"),
    ("public.t", "file_name"),
    ("public.t", "ip_address"),
    ("public.t", "MAC地址"),
    ("public.t", "phone_verified"),
    ("public.t", "phone_type"),
    ("public.t", "is_mobile"),
    ("public.t", "phone_model"),
    ("public.t", "email_sent_at"),
    ("public.t", "key_fingerprint"),
    ("public.t", "panel"),
    ("public.t", "company"),
    ("public.t", "gift_card_no"),
    ("public.t", "hotel"),
    ("public.t", "username"),
    ("public.t", "discard"),
    ("public.t", "地址类型"),
    ("public.t", "amount"),
    ("public.t", "id"),
    ("public.t", ""),
    # Published, or of a company.
    ("public.actor", "first_name"),
    ("public.film_actor", "last_name"),
    ("public.shippers", "phone"),
    ("public.suppliers", "phone"),
    ("public.t", "pan_india"),
    ("public.t", "pan_european_sales"),
    ("public.t", "email_box_host"),
    ("public.t", "email_imap_folder"),
    ("public.t", "mail_queue"),
    ("public.t", "cell_count"),
    ("public.t", "zip_file"),
    ("public.t", "number"),
    ("public.products", "photo"),
    ("public.products", "picture"),
    ("public.articles", "bild"),
    ("public.t", "photo"),
    ("public.users", "photo_count"),
    ("public.users", "picture_format"),
    ("public.orders", "expiry_date"),
    ("public.t", "landkarte"),
    ("public.t", "gross_income"),
    ("public.t", "password_reset_required"),
    ("public.t", "gender_neutral_wording"),
    ("public.t", "mailing"),
    ("public.t", "excellent"),
]


def _table(text: str) -> TableName:
    return TableName(*text.split("."))


@pytest.mark.parametrize(("table", "column", "kind"), SENSITIVE)
def test_recognised(table: str, column: str, kind: str) -> None:
    found = recognise(_table(table), column, Family.TEXT)
    assert found is not None
    assert found.kind == kind
    assert found.level in {Level.CORE, Level.IMPORTANT}
    assert found.reason


@pytest.mark.parametrize(
    "logical",
    ["text", "varchar(19)", "int8", "numeric(12,2)", "date", "timestamp(0)", "bytea", "jsonb", "text[]", None],
)
def test_what_is_suggested_can_stand_in_the_rules(logical: str | None) -> None:
    """`{level: core, mask: bank_card}`, `mask: null` and `mask: range` were errors, or said nothing."""
    for table, column, _ in SENSITIVE:
        found = recognise_type(_table(table), column, logical)
        if found is None:
            continue
        entry = suggested_entry(found, logical)
        rules = load_rules_text(
            f"version: 1\ntables:\n  {table}:\n    columns:\n      '\"{column}\"': {entry}\n", "r.yaml"
        )
        (made,) = rules.tables[_table(table)].columns.values()
        assert made.level is found.level
        assert (made.mask is not None) == ("mask: " in entry)


@pytest.mark.parametrize(("table", "column"), ORDINARY)
def test_not_recognised(table: str, column: str) -> None:
    assert recognise(_table(table), column, Family.TEXT) is None


@pytest.mark.parametrize(
    ("column", "family", "seen"),
    [
        ("phone", Family.INTEGER, True),
        ("phone", Family.BOOLEAN, False),
        ("phone", Family.TIMESTAMP, False),
        ("phone_id", Family.INTEGER, False),
        ("address_id", Family.UUID, False),
        ("national_id", Family.INTEGER, True),
        ("birth_date", Family.DATE, True),
        ("email", Family.INTEGER, False),
        ("email", None, True),
    ],
)
def test_types_tell_information_from_flags_and_keys(column: str, family: Family | None, seen: bool) -> None:
    assert (recognise(TableName("public", "t"), column, family) is not None) is seen


def test_types_of_columns_as_the_rules_spell_them() -> None:
    assert logical_type_of(CatalogColumn("c", 1, 1043, 23, "public.short")) == "varchar(19)"
    assert logical_type_of(CatalogColumn("c", 1, 1700, ((12 << 16) | 2) + 4, "numeric(12,2)")) == "numeric(12,2)"
    assert logical_type_of(CatalogColumn("c", 1, 70000, -1, "public.mood[]")) == "enum public.mood[]"


def test_many_classes_are_readable_in_80_columns(run: Run, tmp_path: Path) -> None:
    roles = "".join(
        f"  role{i}: {{logins: [rc_login{i}], levels: {{core: {core}, important: {important}}}}}\n"
        for i, (core, important) in enumerate(
            (c, i) for c in ("clear", "masked", "refused") for i in ("clear", "masked", "refused")
        )
    )
    path = tmp_path / "rules.yaml"
    path.write_text(RULES[: RULES.index("roles:")] + "roles:\n" + roles)
    result = run("check", path)
    assert result.exit_code == 0, result
    lines = result.stdout.splitlines()[1:]
    assert max(map(len, lines)) <= 80
    (card,) = [line for line in lines if "clients.card" in line]
    assert [cell.strip() for cell in card.strip("│").split("│")] == [
        "public.clients.card",
        "core",
        "1 2 3",
        "4 5 6",
        "7 8 9",
    ]
    (login,) = [line for line in lines if "rc_login3" in line]
    assert login.strip("│").split("│")[2].strip() == "4"
