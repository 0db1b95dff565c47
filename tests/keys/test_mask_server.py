"""Both forms of every mask against each other, on the server; and that the SQL form keeps its secrets."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys import mask_text
from keys.mask import MASK_KINDS, Mask, make_mask
from keys.mask_sql import install_sql, pseudonym_key_sql
from keys.types import OutputSettings, WireValueError, decode, encode, parse_type
from keys.typespec import type_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lifecycle.demo.postgres import Postgres

KEY = bytes(range(32))
NEEDED: dict[str, dict[str, object]] = {"range": {"width": 5}, "constant": {"value": "x"}}
SCHEMA = "veil"

# Names and operators of a hostile search_path, there when pgveil's functions are made and when they run.
HOSTILE = """
CREATE SCHEMA trap;
CREATE FUNCTION trap.length(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
CREATE FUNCTION trap.repeat(text, int) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'trap'$$;
CREATE FUNCTION trap."left"(text, int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION trap.regexp_replace(text, text, text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION trap.sha256(bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION trap.joined(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'trap'$$;
CREATE FUNCTION trap.never(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION trap.less(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION trap.less(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
CREATE FUNCTION trap.eq(numeric, numeric) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION trap.eq(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR trap.|| (FUNCTION = trap.joined, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR trap.~ (FUNCTION = trap.never, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR trap.!~ (FUNCTION = trap.never, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR trap.- (FUNCTION = trap.less, LEFTARG = numeric, RIGHTARG = numeric);
CREATE OPERATOR trap.- (FUNCTION = trap.less, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = numeric, RIGHTARG = numeric);
CREATE OPERATOR trap.= (FUNCTION = trap.eq, LEFTARG = int, RIGHTARG = int);
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (false);
CREATE DOMAIN trap.date AS pg_catalog.date CHECK (false);
SET search_path = trap, pg_catalog;
"""


@pytest.fixture(scope="module")
def database(any_pg: Postgres) -> str:
    return any_pg.create_database()


@pytest.fixture(scope="module")
def server(any_pg: Postgres, database: str) -> Iterator[psycopg.Connection[Any]]:
    """Installed under a hostile search_path, which stays in force."""
    with psycopg.connect(any_pg.dsn(database), autocommit=True) as connection:
        connection.execute("SET timezone = 'Asia/Shanghai'")
        connection.execute(HOSTILE)
        connection.execute(install_sql(SCHEMA))
        connection.execute(install_sql(SCHEMA))
        connection.execute(pseudonym_key_sql(SCHEMA).replace("$1", "%s"), [KEY])
        yield connection


def mask(kind: str, spec: str = "text", **params: object) -> Mask:
    return make_mask(kind, params, parse_type(spec), pseudonym_key=KEY, schema=SCHEMA)


def in_sql(server: psycopg.Connection[Any], found: Mask, values: Sequence[str]) -> list[str | None]:
    """The server's masks of values of the mask's type, in the server's text form."""
    rows = server.execute(
        f"SELECT pg_catalog.format('%%s', {found.sql('q.x')}), ({found.sql('q.x')}) IS NULL FROM (SELECT i, CAST(t AS {type_sql(found.type)}) AS x"
        " FROM pg_catalog.unnest(%s::pg_catalog.text[]) WITH ORDINALITY u(t, i) OFFSET 0) q ORDER BY q.i",
        [list(values)],
    ).fetchall()
    return [None if null else text for text, null in rows]


def in_python(found: Mask, values: Sequence[str]) -> list[str | None]:
    shown = []
    for value in values:
        masked = found.apply(decode(found.type, value.encode(), 0, settings=OutputSettings()))
        session = OutputSettings(timezone="Asia/Shanghai")
        shown.append(None if masked is None else encode(found.type, masked, 0, settings=session).decode())
    return shown


def agree(server: psycopg.Connection[Any], found: Mask, values: Sequence[str]) -> None:
    theirs, ours = in_sql(server, found, values), in_python(found, values)
    if found.type.name == "numeric":
        # Canonical form has no trailing zeros; a range's lower bound is whole, so both are.
        assert not any("." in t for t in theirs if t)
    wrong = [(v, t, o) for v, t, o in zip(values, theirs, ours, strict=True) if t != o]
    assert not wrong


TEXT_MASKS: list[tuple[str, dict[str, object]]] = [
    ("keep_first", {"n": 0}), ("keep_first", {"n": 1}), ("keep_first", {"n": 3}), ("keep_last", {"n": 1}), ("keep_last", {"n": 4}), ("keep_last", {"n": 32}),
    ("keep_first_last", {"first": 3, "last": 4}), ("keep_first_last", {"first": 0, "last": 0}), ("keep_first_last", {"first": 1, "last": 2}), ("name", {}),
    ("phone", {}), ("email", {}), ("bank_card", {}), ("id_number", {}), ("year", {}), ("range", {"width": 10}), ("range", {"width": 7}), ("constant", {"value": "it's \\ é"}),
    ("null", {}), ("pseudonym", {}), ("pseudonym", {"scope": "o'scope\\"}),
]  # fmt: skip
VALUES = [
    "", " ", "   ", "a", "ab", "abc", "13800138000", "+86 138 0013 8000", "(010) 6552-9988", "1234567", "12345678", "１３８００１３８０００", "John Smith", "J F K",
    "张三丰", "张", "张三\u3000李四", "e\u0301va e\u0301", "\u0301ab", "\u0301", "\u0301\u0302", "a\u200db\u200dc", "\U0001f468\u200d\U0001f469\u200d\U0001f467 x", "नीता शर्मा",
    "각\u1100\u1161\u11a8", "ｶﾞｷﾞ", "john@example.com", "a@b@c.de", "@x.de", "x@y", "x@y.1", "x@例.公司", "john@example.com\n", "a\nb c\nd", "\n", "6222 0212 3456 7890 123",
    "11010519491231002X", "1990-05-17", "19900517", "1990年5月17日", "1990-05-17\n", "1990-05-17 10:00", "37", "-37", "-0", "0.5", "-0.5", " 39.9999 ", "999999999999999", "9" * 16,
    "-999999999999999.999", "1e5", "abc" * 5000, "张e\u0301" * 3000, "* *", "a*", "\\", "'", "\u00a0a\u00a0b", "\t", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "params"), TEXT_MASKS)
@pytest.mark.parametrize("spec", ["text", "varchar(20)", "char(18)"])
def test_text(server: psycopg.Connection[Any], kind: str, params: dict[str, object], spec: str) -> None:
    values = VALUES if spec == "text" else [v[:18] for v in VALUES]
    agree(server, mask(kind, spec, **params), values)


@pytest.mark.parametrize("spec", ["varchar(3)", "char(3)"])
def test_short_columns(server: psycopg.Connection[Any], spec: str) -> None:
    """Whatever the mask makes fits."""
    for kind, params in TEXT_MASKS:
        if kind in {"pseudonym", "constant"}:
            continue
        agree(server, mask(kind, spec, **params), [v[:3] for v in VALUES] + ["99", "100"])


NUMBERS = ["0", "1", "-1", "9", "10", "99", "-100", "32767", "-32768"]
DECIMALS = [*NUMBERS, "0.5", "-0.5", "9.99", "-9.99", "12345.67", "-12345.67"]


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("smallint", NUMBERS),
        ("integer", [*NUMBERS, "2147483647", "-2147483648"]),
        ("bigint", [*NUMBERS, "9223372036854775807", "-9223372036854775808"]),
        ("numeric", [*DECIMALS, "NaN", "Infinity", "-Infinity", "9.999999999999999999999999999999", "1e40", "-1e-30"]),
        ("numeric(7,2)", [*DECIMALS, "99999.99", "-99999.99", "NaN"]),
        ("numeric(5,-2)", ["0", "100", "-100", "9999900", "-9999900", "123400"]),
        ("numeric(2,3)", ["0.099", "-0.099", "0"]),
        ("real", [*DECIMALS, "NaN", "Infinity", "-Infinity", "3.4e38", "-3.4e38", "1e-40", "16777216", "0.1", "-0"]),
        (
            "double precision",
            [
                *DECIMALS,
                "NaN",
                "Infinity",
                "-Infinity",
                "1.7e308",
                "-1.7e308",
                "5e-324",
                "1e299",
                "9007199254740993",
                "-0",
            ],
        ),
    ],
)
@pytest.mark.parametrize("width", [1, 7, 10, 1000, 10**12])
def test_ranges(server: psycopg.Connection[Any], spec: str, values: list[str], width: int) -> None:
    agree(server, mask("range", spec, width=width), values)


@pytest.mark.parametrize("spec", ["date", "timestamp", "timestamp(2)", "timestamptz"])
def test_years(server: psycopg.Connection[Any], spec: str) -> None:
    values = [
        "2024-02-29",
        "1999-12-31",
        "0001-01-01",
        "0001-06-01 BC",
        "0044-03-15 BC",
        "infinity",
        "-infinity",
        "20000-05-05",
    ]
    far = ["4714-11-24 BC", "4713-01-01 BC", "4713-12-31 BC"]
    if spec == "timestamptz":
        values = [
            "2024-01-01 00:00:00+00",
            "2023-12-31 23:59:59.999+00",
            "2024-01-01 03:00:00+08",
            "1970-01-01 00:00:00+00",
            "infinity",
        ]
        agree(server, mask("year", spec), values)
        return
    if spec == "date":
        values += ["5874897-12-31"]
    agree(server, mask("year", spec), [*values, *far])


def test_constant_and_null_of_any_type(server: psycopg.Connection[Any]) -> None:
    for spec, constant, value in (
        ("integer", 0, "5"), ("boolean", True, "f"), ("bytea", "\\x00ff", "\\xaa"), ("uuid", "00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("jsonb", '{"a": "\\\\"}', "{}"), ("time(2)", "00:00", "12:34:56"), ("text[]", '{"a\\"b",NULL}', "{x}"), ("numeric(5,2)", 0, "1.25"), ("char(3)", "x", "abc"),
        ("timestamptz", "1900-01-01 00:00:00+00", "2024-01-01 00:00:00+00"), ("real", "0.1", "5"),
    ):  # fmt: skip
        found = mask("constant", spec, value=constant)
        agree(server, found, [value])
        agree(server, mask("null", spec), [value])
        row = server.execute(
            f"SELECT {found.sql(f'NULL::{type_sql(found.type)}')} IS NULL".replace("%", "%%")
        ).fetchone()
        assert row == (True,)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("range", t) for t in ("smallint", "int", "bigint", "numeric", "numeric(12,2)", "real", "float8")]
    + [("year", t) for t in ("date", "timestamp", "timestamptz")],
)
def test_null_stays_null_for_numbers_and_dates(server: psycopg.Connection[Any], kind: str, spec: str) -> None:
    found = mask(kind, spec, **NEEDED.get(kind, {}))
    row = server.execute(f"SELECT {found.sql(f'NULL::{type_sql(found.type)}')}".replace("%", "%%")).fetchone()
    assert row == (None,)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_null_stays_null_and_the_type_is_kept(server: psycopg.Connection[Any], kind: str) -> None:
    """A view's column has the type and modifier of the table's."""
    params = NEEDED.get(kind, {})
    for spec in ("varchar(30)", "char(12)", "text"):
        found = mask(kind, spec, **params)
        name = f"pg_catalog.{spec}" if spec == "text" else spec
        with server.transaction(force_rollback=True):
            server.execute(f"CREATE TABLE public.kept (v {name})")
            server.execute("INSERT INTO public.kept VALUES (NULL)")
            server.execute(f"CREATE VIEW public.shown AS SELECT {found.sql('t.v')} AS v FROM public.kept t")
            assert server.execute("SELECT v FROM public.shown").fetchall() == [(None,)]
            row = server.execute(
                "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'public.shown'::regclass"
            ).fetchone()
            assert row is not None
            assert row[0].removeprefix("pg_catalog.") == found.type.name


def test_marks_are_the_same_on_both_sides(server: psycopg.Connection[Any]) -> None:
    """Every code point of the planes that have letters and marks, after a letter."""
    for start, stop in ((1, 0x8000), (0x8000, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0xE0000, 0xE1000)):
        text = "".join("a" + chr(code) for code in range(start, stop))
        row = server.execute(f"SELECT {SCHEMA}.mask_stars(%s)", [text]).fetchone()
        assert row is not None
        assert len(row[0]) == len(mask_text.stars(text))


BATCH = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TRICKY = st.text(
    st.sampled_from(
        "ab1２9 .-@()+\u3000\u00a0张三e\u0301\u0302\u200d\u0e31\u0939\u093f\n\t*\\'\U0001f468\U0001f3fd\U000e0061"
    ),
    max_size=14,
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=14)
SHAPED = st.from_regex(
    r"[a-z\u0301]{0,4}@[a-z0-9.-]{0,8}|[12][0-9]{3}-?[01][0-9]-?[0-3][0-9][ T]?.{0,2}|-? ?[0-9]{1,16}\.?[0-9]{0,3}|[0-9 +-]{7,20}",
    fullmatch=True,
)


@given(
    values=st.lists(TRICKY | ANY_TEXT | SHAPED.filter(lambda v: "\0" not in v), min_size=30, max_size=60),
    head=st.integers(0, 5),
    tail=st.integers(0, 5),
    width=st.integers(1, 10**6),
)
@BATCH
def test_any_text(server: psycopg.Connection[Any], values: list[str], head: int, tail: int, width: int) -> None:
    agree(server, mask("keep_first_last", first=head, last=tail), values)
    agree(server, mask("range", width=width), values)
    for kind in ("name", "phone", "email", "bank_card", "id_number", "year", "pseudonym"):
        agree(server, mask(kind), values)


@given(
    wholes=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=20, max_size=40),
    reals=st.lists(st.floats(), min_size=20, max_size=40),
    decimals=st.lists(st.decimals(-99999, 99999, places=2), min_size=20, max_size=40),
    width=st.integers(1, 10**12),
)
@BATCH
def test_any_range(
    server: psycopg.Connection[Any], wholes: list[int], reals: list[float], decimals: list[Any], width: int
) -> None:
    agree(server, mask("range", "bigint", width=width), list(map(str, wholes)))
    agree(server, mask("range", "double precision", width=width), list(map(repr, reals)))
    agree(server, mask("range", "numeric(7,2)", width=width), list(map(str, decimals)))
    singles = []
    for value in reals:
        try:
            singles.append(decode(parse_type("real"), repr(value).encode(), 0).decode())
        except WireValueError:
            continue
    agree(server, mask("range", "real", width=width), singles)


# RFC 4231, section 4: key, data, HMAC-SHA-256.
VECTORS = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "data", "digest"), VECTORS)
def test_hmac_vectors(server: psycopg.Connection[Any], key: bytes, data: bytes, digest: str) -> None:
    private = f"{SCHEMA}_private"
    row = server.execute(
        f"SELECT {private}.hmac_sha256({private}.hmac_pad(%s, 54), {private}.hmac_pad(%s, 92), %s)", [key, key, data]
    ).fetchone()
    assert row is not None
    assert bytes(row[0]).hex() == digest == hmac.new(key, data, hashlib.sha256).hexdigest()


def test_short_keys_are_not_stored(server: psycopg.Connection[Any]) -> None:
    with server.transaction(force_rollback=True):
        server.execute(f"DELETE FROM {SCHEMA}_private.pseudonym_key")
        server.execute(pseudonym_key_sql(SCHEMA).replace("$1", "%s"), [b"short"])
        # Without a key there is no pseudonym, and no value instead of it.
        assert in_sql(server, mask("pseudonym"), ["x"]) == [None]


def test_a_fenced_login_sees_pseudonyms_and_cannot_make_them(
    any_pg: Postgres, database: str, server: psycopg.Connection[Any]
) -> None:
    """Through a view it gets them; by name it can neither call the function, try values out, nor read the key."""
    with psycopg.connect(any_pg.dsn(database), autocommit=True) as owner:
        owner.execute(
            "CREATE ROLE clerk LOGIN; CREATE TABLE people (phone text); INSERT INTO people VALUES ('13800138000')"
        )
        columns = f"{mask('pseudonym').sql('phone')} AS p, {mask('phone').sql('phone')} AS m"
        owner.execute(
            f"CREATE VIEW people_shown AS SELECT {columns} FROM people; GRANT SELECT ON people_shown TO clerk"
        )
        owner.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO clerk")
    try:
        with psycopg.connect(any_pg.dsn(database, "clerk"), autocommit=True) as clerk:
            expected = mask("pseudonym").apply(b"13800138000")
            assert expected is not None
            assert clerk.execute("SELECT * FROM people_shown").fetchall() == [(expected.decode(), "138****8000")]
            private = f"{SCHEMA}_private"
            for attempt in (
                "SELECT phone FROM people",
                f"SELECT {private}.pseudonym('13800138000', '', 16)",
                f"SELECT * FROM {private}.pseudonym_key",
                f"CREATE VIEW mine AS SELECT {private}.pseudonym('x', '', 16)",
                f"CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql RETURN {private}.pseudonym('x', '', 16)",
                f"CREATE AGGREGATE pg_temp.a(text) (sfunc = {private}.pseudonym, stype = text)",
                f"UPDATE {private}.pseudonym_key SET inner_pad = ''",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    clerk.execute(attempt)
    finally:
        with psycopg.connect(any_pg.dsn(database), autocommit=True) as owner:
            owner.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_the_planner_inlines_masks(server: psycopg.Connection[Any]) -> None:
    """No function of ours is left to call, a row at a time, in the masks that a table is usually read through."""
    server.execute("CREATE TABLE IF NOT EXISTS public.plain (v pg_catalog.varchar(30))")
    for kind in ("keep_first", "keep_last", "name", "email", "range"):
        params: dict[str, object] = {"width": 10} if kind == "range" else {}
        spec = "numeric(9,2)" if kind == "range" else "varchar(30)"
        rows = server.execute(
            f"EXPLAIN (VERBOSE, COSTS OFF) SELECT {mask(kind, spec, **params).sql(f't.v::{spec}')} FROM public.plain t"
        ).fetchall()
        text = "\n".join(r[0] for r in rows)
        left = set(re.findall(r"mask_\w+", text))
        # The path for values with combining marks stays a call.
        assert left <= {"mask_keep_marked", "mask_stars"}, (kind, left)


def test_a_collation_that_patterns_refuse(server: psycopg.Connection[Any]) -> None:
    """Nondeterministic collations of a column reach neither the patterns nor the result's type."""
    if (
        server.execute(
            "SELECT 1 FROM pg_catalog.pg_collation c WHERE collname OPERATOR(pg_catalog.=) 'und-x-icu'"
        ).fetchone()
        is None
    ):
        pytest.skip("this server is built without ICU")
    server.execute(
        "CREATE COLLATION IF NOT EXISTS public.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    for kind, params in TEXT_MASKS:
        found = mask(kind, "text", **params)
        for value in ("John@example.com", "e\u0301va", "138 0013 8000", "37"):
            sql = found.sql("q.x").replace("%", "%%")
            row = server.execute(
                f"SELECT {sql} FROM (SELECT %s::pg_catalog.text COLLATE public.loose AS x OFFSET 0) q", [value]
            ).fetchone()
            assert row is not None
            assert [row[0]] == in_python(found, [value])


def test_volatility_and_search_path(server: psycopg.Connection[Any]) -> None:
    rows = server.execute(
        "SELECT p.proname, p.provolatile, p.proparallel, p.prosecdef FROM pg_proc p JOIN pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace"
        f" WHERE n.nspname IN ('{SCHEMA}', '{SCHEMA}_private')"
    ).fetchall()
    assert {(v, p, d) for name, v, p, d in rows if name not in {"pseudonym", "lookup_value", "ticket_value"}} == {
        ("i", "s", False)
    }
    assert [(v, p, d) for name, v, p, d in rows if name == "pseudonym"] == [("s", "s", True)]


def test_another_schema_name(server: psycopg.Connection[Any]) -> None:
    name = 'odd "name" {x}'
    with server.transaction(force_rollback=True):
        server.execute(install_sql(name).replace("%", "%%"))
        found = make_mask("range", {"width": 10}, parse_type("float8"), schema=name)
        assert server.execute(f"SELECT {found.sql('37::pg_catalog.float8')}").fetchone() == (30.0,)
