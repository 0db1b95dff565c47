"""The sealed domain on a real server: it takes what pgveil sealed, and nothing that anybody made of it (F1.1, F8.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.sealed import DataKey, checked, seal
from keys.sealed_sql import checked as checked_sql
from keys.sealed_sql import holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres

KEY = DataKey("public.cards.pan", 7, bytes(range(64)))
CHECK = 7

# What functions, casts and operators make of a text v, with a second sealed value w and a number n from 0 to 90.
REWRITINGS = (
    *("lower(v)", "upper(v)", "initcap(v)", "btrim(v)", "rtrim(v)", "trim(both '~^' from v)", "ltrim(v, '~^A')", "reverse(v)"),
    *("left(v, n)", "left(v, -n)", "right(v, n)", "right(v, -n)", "substr(v, n)", "substr(v, 1, n)", "v::varchar(19)", "v::name::text"),
    *("v::char(64)::text || ' '", "rpad(v, 64 + n)", "rpad(v, n)", "lpad(v, 64 + n)", "rpad(v, 200, v)", "lpad(v, n, w)"),
    *("v || ' '", "v || v", "v || w", "w || v", "concat(v, w, v)", "concat_ws('-', v, w)", "repeat(v, 1 + n)", "E'\\n' || v", "v || E'\\t'"),
    *("left(v, n) || right(w, n)", "left(v, -7) || right(w, 7)", "overlay(v placing 'A' from 1 + n)", "overlay(v placing w from 1 + n)"),
    *("replace(v, 'A', 'a')", "replace(v, '-', '')", "replace(v, '/', '_')", "translate(v, '+/', '-_')", "regexp_replace(v, '[0-9]', '')"),
    *("regexp_replace(v, '[A-Z]', 'x', 'g')", "split_part(v, '-', 1)", "v || '='", "encode(v::bytea, 'base64')", "encode(v::bytea, 'hex')"),
    *("encode(v::bytea, 'escape') || ''", "convert_from(convert_to(v, 'UTF8'), 'LATIN1')"),
    *("normalize(v, NFC)", "normalize(v, NFKD)", "normalize(replace(v, 'A', chr(65313)), NFKC)", "normalize(replace(v, 'A', chr(197)), NFD)"),
    *("quote_literal(v)", "quote_ident(v)", "to_json(v)::text", "format('%%s ', v)", "format('%%90s', v)", "md5(v)", "''", "array[v]::text"),
    *("chr(65279) || v", "v || chr(160)", "replace(v, '-', chr(8208))", "left(v, n) || chr(1) || right(v, -n)"),
    *("'~' || right(v, -1)", "'^' || right(v, -1)", "substr(v, 2) || left(v, 1)", "coalesce(nullif(v, v), v)"),
)  # fmt: skip
# Those that leave the value of test_each_rewriting_fails as it is.
NOTHING = frozenset(
    (
        *("btrim(v)", "rtrim(v)", "normalize(v, NFC)", "normalize(v, NFKD)", "coalesce(nullif(v, v), v)", "v::name::text"),
        *("encode(v::bytea, 'escape') || ''", "convert_from(convert_to(v, 'UTF8'), 'LATIN1')", "'~' || right(v, -1)"),
        "normalize(replace(v, 'A', chr(65313)), NFKC)",
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def connection(any_pg: Postgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(any_pg.dsn(any_pg.create_database()), autocommit=True) as made:
        made.execute(f'create domain sealed as text collate "C" check ({holds("VALUE")})')
        yield made


def stored(connection: psycopg.Connection, expression: str, v: bytes, w: bytes, n: int) -> str | None:
    """What a column of the domain holds after `expression` is stored in it; None where the domain refuses."""
    query = f"select ({expression})::sealed::text from (select %s::text v, %s::text w, %s::int n) x"
    try:
        row = connection.execute(query, [v.decode(), w.decode(), n]).fetchone()
    except psycopg.errors.CheckViolation:
        return None
    assert row is not None
    return str(row[0])


sealed = st.builds(
    lambda plain, nonce: seal(KEY, plain, nonce=nonce),
    st.binary(max_size=70),
    st.none() | st.binary(min_size=16, max_size=16),
)


@settings(max_examples=400, deadline=None)
@given(sealed, sealed, st.integers(0, 90), st.sampled_from(REWRITINGS))
def test_no_rewriting_passes(connection: psycopg.Connection, v: bytes, w: bytes, n: int, rewriting: str) -> None:
    """Either the text is what it was, or one of those that went in, or it is refused."""
    assert stored(connection, rewriting, v, w, n) in {None, v.decode(), w.decode()}


@pytest.mark.parametrize("rewriting", REWRITINGS)
def test_each_rewriting_fails(connection: psycopg.Connection, rewriting: str) -> None:
    """A value that each of them changes; those that change nothing here are named."""
    v, w = seal(KEY, b"4929000011112101", nonce=None), seal(KEY, b"anna@example.net", nonce=bytes(16))
    got = stored(connection, rewriting, v, w, 5)
    assert (got == v.decode()) if rewriting in NOTHING else (got is None)


@pytest.mark.parametrize(
    "plain", ["", " ", "~", "^", "-", "4929000011112101", "~back\\slash", "a'b", "\u5f20\u4e09", "-AAAAAA", "x" * 5000]
)
def test_plaintext_is_refused_as_a_check_violation(connection: psycopg.Connection, plain: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("select %s::sealed", [plain])


@settings(max_examples=100, deadline=None)
@given(st.lists(sealed, max_size=20))
def test_the_server_makes_and_takes_the_check_that_python_makes(
    connection: psycopg.Connection, values: list[bytes]
) -> None:
    """From the old form, which it refuses; NULL passes."""
    old = [v[:-CHECK].decode() for v in values]
    query = f"select {checked_sql('o')}::sealed::text, {holds('o')} from unnest(%s::text[]) o"
    rows = connection.execute(query, [old]).fetchall()
    assert rows == [(v.decode(), False) for v in values]
    assert [checked(o.encode()) for o in old] == values
    assert connection.execute("select null::sealed").fetchone() == (None,)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_CN"])
def test_databases_of_other_encodings(pg: Postgres, encoding: str) -> None:
    """A sealed text is ASCII; what is not, is not one."""
    name = pg.create_database() + "_other"
    pg.psql(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    value = seal(KEY, b"4929000011112101", nonce=None).decode()
    with psycopg.connect(pg.dsn(name), autocommit=True) as connection:
        connection.execute(f'create domain sealed as text collate "C" check ({holds("VALUE")})'.encode())
        assert connection.execute("select %s::sealed::text", [value]).fetchone() in {(value,), (value.encode(),)}
        for wrong in (value.lower(), f"{value} ", f"~{value}"):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute("select %s::sealed", [wrong])
