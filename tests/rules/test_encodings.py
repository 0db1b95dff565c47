"""Client encodings, compared with the server's own conversions sequence by sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.encodings import ENCODING_NAMES, EncodingError, decode_sql, encode_sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres

MULTIBYTE = ("GBK", "GB18030", "SJIS", "BIG5", "UHC", "JOHAB", "EUC_CN", "EUC_JP", "EUC_JIS_2004", "EUC_KR")
# fmt: off
SINGLE_BYTE = (
    "LATIN1", "LATIN2", "LATIN3", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10", "ISO_8859_5", "ISO_8859_6",
    "ISO_8859_7", "ISO_8859_8", "WIN866", "WIN874", "WIN1250", "WIN1251", "WIN1252", "WIN1253", "WIN1254", "WIN1255", "WIN1256", "WIN1257",
    "WIN1258", "KOI8R", "KOI8U",
)
# fmt: on
HIGH = range(0x80, 0x100)


@pytest.fixture(scope="module")
def connection(any_pg: Postgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(any_pg.dsn(), autocommit=True) as made:
        made.execute(
            """CREATE FUNCTION pg_temp.read(raw bytea, encoding text) RETURNS text LANGUAGE plpgsql AS $$
            BEGIN RETURN convert_from(raw, encoding); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$"""
        )
        yield made


def sequences(encoding: str) -> list[bytes]:
    """Every sequence that may be a character: one byte, two, three after a single shift, and GB18030's four for a sample of characters."""
    found = [bytes([a]) for a in range(1, 0x100)]
    if encoding in MULTIBYTE:
        found += [bytes([a, b]) for a in HIGH for b in range(1, 0x100)]
    if encoding.startswith("EUC"):
        found += [bytes([0x8F, a, b]) for a in range(0xA1, 0xFF) for b in range(0xA1, 0xFF)]
    if encoding == "GB18030":
        points = [*range(0x80, 0xD800, 3), *range(0xE000, 0x10000, 3), *range(0x10000, 0x110000, 997)]
        found += [chr(point).encode("gb18030") for point in points]
    return found


def readable(raw: bytes, encoding: str) -> str | None:
    try:
        return decode_sql(raw, encoding)
    except EncodingError:
        return None


@pytest.mark.parametrize("encoding", [*MULTIBYTE, *SINGLE_BYTE, "UTF8"])
def test_characters_are_the_servers(connection: psycopg.Connection, encoding: str) -> None:
    """What we read of bytes is what the server reads, or one of us refuses them."""
    ours = {raw: text for raw in sequences(encoding) if (text := readable(raw, encoding)) is not None}
    rows = connection.execute(
        "SELECT pg_temp.read(raw, %s) FROM unnest(%s::bytea[]) WITH ORDINALITY AS s(raw, at) ORDER BY at",
        (encoding, list(ours)),
    ).fetchall()
    theirs = [row[0] for row in rows]
    assert [
        (raw, text, other) for (raw, text), other in zip(ours.items(), theirs, strict=True) if other not in {None, text}
    ] == []
    assert sum(other is not None for other in theirs) >= {"UTF8": 127, "JOHAB": 8000}.get(
        encoding, 200 if encoding not in MULTIBYTE else 7000
    )


def test_names_are_the_servers(connection: psycopg.Connection) -> None:
    """Every name that we know, the server knows, and two names of one encoding are one codec."""
    rows = connection.execute(
        "SELECT n, pg_char_to_encoding(n) FROM unnest(%s::text[]) AS n", (sorted(ENCODING_NAMES),)
    ).fetchall()
    assert {name for name, number in rows if number < 0} == set()
    sample = bytes(range(1, 128)) + b"\xb0\xa1\xc4\xe3"
    by_number: dict[int, set[str | None]] = {}
    for name, number in rows:
        by_number.setdefault(number, set()).add(readable(sample, name))
    assert {number for number, readings in by_number.items() if len(readings) > 1} == set()


def test_the_servers_other_names_are_refused(connection: psycopg.Connection) -> None:
    """Of the encodings that a server has, the ones that we leave out are these."""
    rows = connection.execute("SELECT DISTINCT pg_encoding_to_char(n) FROM generate_series(0, 60) AS n").fetchall()
    missing = set()
    for (name,) in rows:
        try:
            decode_sql(b"", name)
        except EncodingError:
            missing.add(name)
    assert missing == {"", "EUC_TW", "MULE_INTERNAL", "SHIFT_JIS_2004"}


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "utf_8", "Unicode", "U T F 8"])
def test_names_are_compared_as_the_server_compares_them(name: str) -> None:
    assert decode_sql("é".encode(), name) == "é"


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        (b"'\x83\x5c'", "SJIS", "'ソ'"),
        (b"'\xd5\x5c'", "GBK", "'誠'"),
        (b"'\xa5\x5c'", "BIG5", "'功'"),
        (b"'\x81\x30\x86\x38'", "GB18030", "'À'"),
        (b"\\~", "SJIS", "\\~"),
        (b"\xa1\xc1", "EUC_JP", "\uff5e"),
        (b"\xe9", "latin1", "é"),
    ],
)
def test_bytes_and_characters(raw: bytes, encoding: str, text: str) -> None:
    assert decode_sql(raw, encoding) == text
    assert encode_sql(text, encoding) == raw


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"\xff", "UTF8"),
        (b"\xed\xa0\x80", "UTF8"),
        (b"\xc0\xa7", "UTF8"),
        (b"\xef\xbb", "UTF8"),
        (b"\x83'", "SJIS"),
        (b"\xd5'", "GBK"),
        (b"\x81\x81\x30\x81", "GB18030"),
        (b"\xa1\xc3", "BIG5"),  # the server reads a replacement character
        (b"\x87\x90", "SJIS"),  # a second code of a character: would come back as its first
        (b"\xe9", "SQL_ASCII"),
        (b"a", "EUC_TW"),
        (b"a", "MULE_INTERNAL"),
        (b"a", "SHIFT_JIS_2004"),
        (b"a", "utf-16"),
        (b"a", "rot13"),
        (b"a", ""),
    ],
)
def test_bytes_that_are_refused(raw: bytes, encoding: str) -> None:
    with pytest.raises(EncodingError):
        decode_sql(raw, encoding)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("中", "LATIN1"), ("\ud800", "UTF8"), ("é", "SQL_ASCII"), ("\u301c", "EUC_JP"), ("￣", "BIG5"), ("a", "EUC_TW")],
)
def test_characters_that_are_refused(text: str, encoding: str) -> None:
    with pytest.raises(EncodingError):
        encode_sql(text, encoding)


def test_sql_ascii_is_what_the_server_stores() -> None:
    assert decode_sql("é".encode(), "SQL_ASCII", server_encoding="UTF8") == "é"
    assert encode_sql("é", "SQL_ASCII", server_encoding="LATIN1") == b"\xe9"
    assert decode_sql(b"a", "SQL_ASCII", server_encoding="SQL_ASCII") == "a"
    for server in ("SQL_ASCII", "EUC_TW"):
        with pytest.raises(EncodingError):
            decode_sql(b"\xa1\xa1", "SQL_ASCII", server_encoding=server)
    assert decode_sql(b"\xe9", "LATIN1", server_encoding="UTF8") == "é"


def test_no_text_is_in_an_exception_or_what_it_carries() -> None:
    for encoding in ("UTF8", "SJIS", "SQL_ASCII"):
        with pytest.raises(EncodingError) as caught:
            decode_sql(b"topsecret\x83", encoding)
        assert "topsecret" not in repr(caught.value)
        assert caught.value.__context__ is None
    with pytest.raises(EncodingError) as caught:
        encode_sql("topsecret\ud800", "LATIN1")
    assert caught.value.__context__ is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=24), st.sampled_from(sorted(ENCODING_NAMES)))
def test_any_bytes_come_back_or_are_refused(raw: bytes, encoding: str) -> None:
    text = readable(raw, encoding)
    if text is not None:
        assert encode_sql(text, encoding) == raw
        assert decode_sql(encode_sql(text, encoding), encoding) == text
        # ASCII is itself wherever it stands alone, so quotes are where we look for them.
        if max(raw, default=0) < 0x80:
            assert text == raw.decode("ascii")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=24), st.sampled_from(sorted(ENCODING_NAMES)))
def test_any_text_comes_back_or_is_refused(text: str, encoding: str) -> None:
    try:
        raw = encode_sql(text, encoding)
    except EncodingError:
        return
    assert decode_sql(raw, encoding) == text
