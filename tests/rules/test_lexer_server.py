"""The server and the lexer agree on where tokens, constants and statements begin and end, and on what constants are worth.

Three oracles, all of them a real server:
- its scanner. Nothing but a semicolon may follow `UNLISTEN *`, so whatever does is the subject of a syntax error that tells the token's
  position and text. Token after token, that gives the server's own reading of any text.
- its parser. A Parse message must hold one statement: each of ours must pass as exactly one.
- pg_stat_statements, which puts $n in the place of each constant (where the extension is installed).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from psycopg import pq

from lifecycle.demo.postgres import Postgres, PostgresUnavailableError
from rules.encodings import decode_sql, encode_sql
from rules.lexer import Kind, Lexed, LexError, lex, literal_value

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).parent.parent / "fixtures" / "lexer"


def corpus(name: str) -> list[str]:
    """The texts of a file, which lines of four dashes keep apart. Line ends and white space count."""
    return (FIXTURES / name).read_text(encoding="utf-8").removesuffix("\n").split("\n----\n")


STATEMENTS = corpus("statements.sql")
# What an editor might spoil.
STATEMENTS += [
    "SELECT 'a'\r'b'",
    "SELECT 'a'\f\r\n \t'b'",
    "SELECT 'a'--\r'b'",
    "SELECT a--x\rb",
    "a\fb\tc\rd\ne",
    "'a'\v\n'b'",
    "a\vb",
]
STATEMENTS += [
    "E'a\\\r\nb'",
    "$a\n$",
    "a\x1fb",
    "a\x7fb",
    "/*\v*/a--\v\nb'\v'",
    "'a'\n'b",
    "E'a'\n'b\\'",
    "b'1'\n'0",
    "a\xa0b",
    "a\ufeffb",
]
CONNINFO_OPTIONS = "-c escape_string_warning=off -c client_min_messages=error"


def test_the_corpus_is_of_a_size() -> None:
    assert len(STATEMENTS) >= 150
    assert len(set(STATEMENTS)) == len(STATEMENTS)


@dataclass(frozen=True)
class Refused:
    """The server's error while it scanned. `position`: 0-based, None where it gave none."""

    message: str
    position: int | None


class Server:
    """One connection, used below psycopg's own SQL layer."""

    def __init__(self, server: Postgres, *, scs: bool = True, encoding: str = "UTF8") -> None:
        self.version = server.version
        self.scs = scs
        self.connection = psycopg.connect(
            server.dsn(), autocommit=True, options=CONNINFO_OPTIONS, client_encoding=encoding
        )
        self.raw = self.connection.pgconn
        self.raw.exec_(f"SET standard_conforming_strings = {'on' if scs else 'off'}".encode())

    def close(self) -> None:
        self.connection.close()

    def error(self, sql: str) -> Refused | None:
        """The error of a text that is sent as a simple query."""
        result = self.raw.exec_(sql.encode())
        if result.status != pq.ExecStatus.FATAL_ERROR:
            return None
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        position = result.error_field(pq.DiagnosticField.STATEMENT_POSITION)
        return Refused(message.decode(), None if position is None else int(position) - 1)

    def tokens(self, text: str) -> tuple[list[tuple[int, int]], Refused | None]:
        """Start and end of each token, up to the end or to what the scanner refuses."""
        found: list[tuple[int, int]] = []
        at = 0
        while True:
            token = self._next(text, at)
            if not isinstance(token, tuple):
                return found, token
            found.append(token)
            at = token[1]

    def _next(self, text: str, at: int) -> tuple[int, int] | Refused | None:
        for prefix in ("UNLISTEN * ", "( "):  # the second for a semicolon, which may follow the first
            error = self.error(prefix + text[at:])
            if error is None or error.message == "syntax error at end of input":
                continue
            if error.position is None:
                return error
            start = at + error.position - len(prefix)
            if ";" in text[at:start] and prefix != "( ":
                continue
            head, _, token = error.message.partition('"')
            if head != "syntax error at or near ":
                return Refused(error.message, start)
            if prefix == "( " and token != ';"':
                continue
            return start, start + len(token) - 1
        return None

    def parses_as_one(self, sql: str) -> str | None:
        """Why a text is not exactly one statement; None where it is one."""
        result = self.raw.prepare(b"", sql.encode())
        if result.status != pq.ExecStatus.FATAL_ERROR:
            return None
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        syntax = result.error_field(pq.DiagnosticField.SQLSTATE) == b"42601"
        return message if syntax else None

    def value(self, expression: bytes) -> bytes | None:
        """What SELECT gives for an expression, in the client's encoding; None for an error."""
        result = self.raw.exec_(b"SELECT " + expression)
        return result.get_value(0, 0) if result.status == pq.ExecStatus.TUPLES_OK else None


@pytest.fixture(scope="module", params=[True, False], ids=["conforming", "backslashes"])
def server(request: pytest.FixtureRequest, any_pg: Postgres) -> Iterator[Server]:
    scs: bool = request.param
    made = Server(any_pg, scs=scs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def conforming(any_pg: Postgres) -> Iterator[Server]:
    """A connection with the usual settings."""
    made = Server(any_pg)
    yield made
    made.close()


def as_the_server_counts(lexed: Lexed) -> list[tuple[int, int]]:
    """Our tokens' offsets, with N'...' as the two tokens that the server makes of it."""
    spans: list[tuple[int, int]] = []
    for token in lexed.tokens:
        start = token.start
        if token.kind is Kind.STRING and lexed.text[start] in "nN":
            spans.append((start, start + 1))
            start += 1
        spans.append((start, token.end))
    return spans


def has_bad_value(lexed: Lexed) -> bool:
    try:
        for index in lexed.literals:
            literal_value(lexed, index)
    except LexError:
        return True
    return False


def refusal(text: str, server: Server) -> LexError | None:
    try:
        lex(text, standard_conforming_strings=server.scs)
    except LexError as error:
        return error
    return None


def disagreement(server: Server, text: str) -> str | None:
    """How the lexer's reading of a text differs from the server's in a way that matters; None where it does not."""
    spans, refused = server.tokens(text)
    try:
        lexed = lex(text, standard_conforming_strings=server.scs)
    except LexError as error:
        return None if refused is not None else stricter_for_no_reason(text, error)
    if refused is None:
        ours = as_the_server_counts(lexed)
        return None if ours == spans else f"{[text[a:b] for a, b in ours]} != {[text[a:b] for a, b in spans]}"
    if server.version < 16 and "trailing junk" in refused.message:
        return None  # 0x1F and 1_000: numbers from 16 on, refused before
    return None if has_bad_value(lexed) else f"only the server refuses: {refused}"


def stricter_for_no_reason(text: str, error: LexError) -> str | None:
    """The scanner hands out characters that no statement may hold, and knows nothing of parentheses; its parser refuses both."""
    reasons = ("syntax error: a parenthesis", "syntax error at end of input: a parenthesis", "operator too long")
    stray = error.message == "syntax error" and not text[error.position].isalnum() and text[error.position] not in "'\""
    dollar = "trailing junk after numeric literal" in error.message and "$" in text
    return None if stray or dollar or error.message.startswith(reasons) else f"only we refuse: {error}"


@pytest.mark.parametrize("text", STATEMENTS)
def test_tokens_are_the_servers(server: Server, text: str) -> None:
    assert disagreement(server, text) is None


@pytest.mark.parametrize("text", STATEMENTS)
def test_refusals_point_where_the_server_points(server: Server, text: str) -> None:
    """What the scanner itself refuses, both refuse in the same words at the same character."""
    _, refused = server.tokens(text)
    ours = refusal(text, server)
    if refused is None or ours is None or (server.version < 16 and "trailing junk" in refused.message):
        return
    theirs = refused.message.partition(" at ")[0]
    assert ours.message == (
        "trailing junk after numeric literal" if theirs == "invalid hexadecimal integer" else theirs
    )
    if "Unicode" not in theirs or "UESCAPE" in theirs:  # theirs point into the constant, ours to its beginning
        assert ours.position == refused.position


# fmt: off
PIECES = [
    "a", "B ", "n", "e", "x", "u&", "N'z'", "e'x\\'y'", "x'1F'", "b'0'", "U&'\\0041'", " UESCAPE ", "'!'", 'u&"a!0041"', "é", "中",
    "'", "''", "'a'", "'\n'", '"', '"q"', "$", "$$", "$a$", "$1", "$a$ x $a$", "$$y$$", "\\", "\\'", "\\x41", "'a\\'", "-- c\n", "--",
    "--'\n", "/*", "*/", "/* c */", "/* /* ' */ */", "\n", "\r", " ", "\t", "+", "-", "*", "/", "<", ">", "=", "!", "@", "|", "~",
    "(", ")", "[", "]", ",", ";", ":", "::", ":=", ".", "..", "1", "23", "_", "1_0", "1.5", "1e5", "e", "0x1F", "0b", "0o7",
]
# fmt: on


@seed(20)
@settings(max_examples=150, deadline=None, database=None)
@given(text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_read_as_the_server_reads_it(server: Server, text: str) -> None:
    assert disagreement(server, text) is None


# Constants, each a whole token under standard_conforming_strings = on.
LITERALS = [*corpus("literals.sql"), "'\t\r\n'"]


@pytest.mark.parametrize("literal", LITERALS)
def test_values_are_the_servers(conforming: Server, literal: str) -> None:
    theirs = conforming.value(literal.encode())
    try:
        lexed = lex(literal)
        ours = literal_value(lexed, 0)
    except LexError:
        # Refused here, and by every server but for the escape that versions read differently.
        assert theirs is None or "\\v" in literal
        return
    assert [(t.start, t.end) for t in lexed.tokens] == [(0, len(literal))]
    if theirs is None:
        assert conforming.version < 16
        assert lexed.tokens[0].kind is Kind.NUMBER
    elif lexed.tokens[0].kind is Kind.NUMBER:
        assert Decimal(ours) == Decimal(theirs.decode())
    else:
        assert ours == theirs.decode()


@pytest.mark.parametrize(
    "literal", [r"'a\'b'", r"'\\'", r"'\n\x41\101'", r"n'a\'b'", r"N'\t'", "'a\\'\n'", r"e'\''", r"$$\$$", "'a'\n'\\''"]
)
def test_values_without_conforming_strings_are_the_servers(any_pg: Postgres, literal: str) -> None:
    server = Server(any_pg, scs=False)
    lexed = lex(literal, standard_conforming_strings=False)
    assert (server.value(literal.encode()) or b"").decode() == literal_value(lexed, 0)
    server.close()


@pytest.mark.parametrize("literal", LITERALS)
def test_an_error_right_behind_a_constant_is_where_the_constant_ends(conforming: Server, literal: str) -> None:
    if literal[0].isdigit() and conforming.value(literal.encode()) is None:
        assert conforming.version < 16
        return
    for follower in (")", " )", "/* x */)", "--\n)"):
        text = f"SELECT {literal}{follower}"
        error = conforming.error(text)
        try:
            lexed = lex(f"SELECT {literal}{follower.replace(')', ',')}")
            literal_value(lexed, 1)
        except LexError:
            continue
        assert error is not None
        assert error.position == lexed.tokens[2].start == text.rindex(")")


BODY_STATEMENTS = [
    "",
    "select 1",
    "select 1 atomic",
    "select 1 end",
    "select 2 case",
    "select 1 as end, 2 as case",
    "select t.end from t",
    "select begin atomic from t",
    "select case when true then 1 end",
    "select (select case 1 when 2 then 3 end end)",
    "select $$end;$$",
    'select 1 "end"',
    "insert into t values ('end;')",
    "return 1",
    "create rule r as on insert to t do also (delete from a; delete from b)",
    "create function g() returns int begin atomic select 1; end",
    "create procedure begin() begin atomic end",
]
HEADS = [
    "create function f() returns int language sql",
    "create or replace procedure f()",
    "CREATE FUNCTION f(begin int default (1)) RETURNS begin",
    "create function begin(atomic int) returns setof atomic immutable",
]
OTHERS = [
    "",
    "select 1",
    "begin",
    "end",
    "commit and chain",
    "select begin atomic from t",
    "select 1 end",
    "create table atomic (x int)",
    "create function f() returns int as 'select 1; select 2' language sql",
    "create function f() returns int return case 1 when 2 then 3 end",
    "do $$begin end; end$$",
    "create rule r as on insert to t do (select 1; select 2; )",
    "select ';' \";\" /* ; */ -- ;\n",
]
BODIES = st.lists(st.sampled_from(BODY_STATEMENTS), max_size=4).map(lambda body: "".join(f"{s};" for s in body))
WITH_BODY = st.builds("{} begin atomic {} end".format, st.sampled_from(HEADS), BODIES)


@seed(21)
@settings(max_examples=60, deadline=None, database=None)
@given(
    texts=st.lists(st.one_of(st.sampled_from(OTHERS), WITH_BODY), min_size=1, max_size=5),
    tail=st.sampled_from(["", ";", " ; -- x"]),
)
def test_each_statement_is_one_to_the_server(conforming: Server, texts: list[str], tail: str) -> None:
    text = ";".join(texts) + tail
    lexed = lex(text)
    whole = conforming.parses_as_one(text)
    if len(lexed.statements) > 1:
        assert whole == "cannot insert multiple commands into a prepared statement"
    else:
        assert whole is None
    for first, last in lexed.statements:
        assert conforming.parses_as_one(text[lexed.tokens[first].start : lexed.tokens[last].end]) is None
    assert len(lexed.statements) == sum(1 for t in texts if t)


NORMALISED = [
    "SELECT 1",
    "SELECT 'a', 'it''s', 'a\\b', E'a\\'b', $$x$$, $q$ $$ $q$, N'n', U&'\\0041', b'01', x'1f', 1.5, .5, 1e5, 12345678901",
    "SELECT 'a' -- 'c'\n 'b', 'c' /* 'd' */, /* /* 'e' */ */ 'f'",
    "SELECT 'a'\n'b'\n-- x\n'c' || 'd'",
    "SELECT 1+1-1*2, 3 <> 4, 5=6, 7>=8, 'a'||'b', 1/*2*/+3--4\n+5",
    "SELECT x.oid$1 FROM (SELECT 1 AS oid$1) x WHERE x.oid$1 = 2",
    "SELECT U&'!0041' UESCAPE '!', 'z'",
    "SELECT relname FROM pg_class WHERE relname = 'x' AND oid IN (1, 2, 3) AND relkind::text LIKE 'r%' ORDER BY relname LIMIT 10 OFFSET 5",
    "SELECT $a$é$a$, 'é', '日本', \"é\" FROM (SELECT 2 AS \"é\") s",
    "SELECT CASE WHEN 1 = 2 THEN 'a' ELSE 'b' END",
    "SELECT count(*) FROM pg_class WHERE relname ~ '^a' OR relname ~~ E'b\\\\%' OR relname = ANY (ARRAY['c', 'd'])",
    "WITH a AS (SELECT 1 AS n) SELECT n + 1 FROM a WHERE n = 1 UNION ALL SELECT 2",
]


@pytest.fixture(scope="module")
def normaliser() -> Iterator[psycopg.Connection]:
    """A server of its own that keeps statements with their constants replaced."""
    try:
        made = Postgres.make("15", settings={"shared_preload_libraries": "pg_stat_statements"})
        made.start()
    except PostgresUnavailableError as error:
        pytest.skip(f"pg_stat_statements comes with Debian's PostgreSQL: {error}")
    try:
        with psycopg.connect(made.dsn(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
            yield connection
    finally:
        made.destroy()


@pytest.mark.parametrize("scs", [True, False])
@pytest.mark.parametrize("text", NORMALISED)
def test_constants_are_where_pg_stat_statements_finds_them(
    normaliser: psycopg.Connection, text: str, scs: bool
) -> None:
    if not scs:
        text = text.replace("U&'\\0041'", "'\\'u'").replace("U&'!0041' UESCAPE '!'", "'\\\\!'")
    raw = normaliser.pgconn
    raw.exec_(f"SET standard_conforming_strings = {'on' if scs else 'off'}".encode())
    raw.exec_(b"SELECT pg_stat_statements_reset()")
    assert raw.exec_(text.encode()).status == pq.ExecStatus.TUPLES_OK
    found = raw.exec_(b"SELECT query FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'")
    assert found.ntuples == 1
    lexed = lex(text, standard_conforming_strings=scs)
    expected, at = [], 0
    for number, index in enumerate(lexed.literals, 1):
        token = lexed.tokens[index]
        # N is a keyword of its own to the server, and the constant begins behind it.
        prefix = 1 if token.kind is Kind.STRING and text[token.start] in "nN" else 0
        expected.append(text[at : token.start + prefix] + f"${number}")
        at = token.end
        if (clause := text.find(" UESCAPE", token.start, token.end)) >= 0:
            at = clause
    assert (found.get_value(0, 0) or b"").decode() == "".join(expected) + text[at:]


@pytest.mark.parametrize(
    ("encoding", "characters"),
    [
        ("UTF8", "ソ表能十 誠 é \u00a5 😀"),
        ("SJIS", "ソ表能十予申構ー"),  # each has a backslash byte or a quote-like byte second
        ("GBK", "誠乗俓僜 中文"),
        ("BIG5", "功許蓋 中文"),
        ("GB18030", "誠乗 中文 é 😀"),
        ("UHC", "가나다 뷁 힣"),
        ("EUC_JP", "ソ表能十 ～－"),
        ("LATIN1", "Ünïcödé ÿ"),
        ("WIN1251", "Привет"),
    ],
)
def test_client_encodings(any_pg: Postgres, encoding: str, characters: str) -> None:
    """Characters whose bytes look like quotes and backslashes do not move the end of a constant, nor change its value."""
    server = Server(any_pg, encoding=encoding)
    raw = server.raw
    for literal in (
        f"'{characters}'",
        f"e'{characters}\\\\{characters}'",
        f"$${characters}$$",
        f"'{characters}''{characters}'",
        f"n'{characters}'",
    ):
        sent = encode_sql(literal, encoding)
        text = decode_sql(b"SELECT " + sent + b" )", encoding)
        lexed = lex(text.removesuffix(" )"))
        assert [t.kind for t in lexed.tokens] == [Kind.WORD, Kind.STRING]
        value = server.value(sent)
        assert value is not None
        assert decode_sql(value, encoding) == literal_value(lexed, 1)
        failed = raw.exec_(b"SELECT " + sent + b" )")
        position = failed.error_field(pq.DiagnosticField.STATEMENT_POSITION)
        assert position is not None
        assert int(position) - 1 == lexed.tokens[1].end + 1
    for name in (f"a{characters.partition(' ')[0]}", f'"{characters}"'):
        result = raw.exec_(encode_sql(f"SELECT 1 AS {name}", encoding))
        label = result.fname(0)
        assert label is not None
        assert decode_sql(label, encoding) == lex(name).tokens[0].value
    server.close()


def test_identifiers_are_folded_and_cut_as_the_server_does(any_pg: Postgres) -> None:
    server = Server(any_pg)
    names = [
        "AbC",
        "ÀÉa",
        "K\u212aİ",
        "x" * 70,
        "é" * 40,
        "x" * 62 + "é",
        "日" * 30,
        '"' + "Q" * 70 + '"',
        '"a""B"',
        'U&"\\00e9\\+000041"',
    ]
    names += [
        'U&"' + "!65e5" * 30 + "\" UESCAPE '!'",
        '"' + "😀" * 20 + '"',
        "a$B$1",
        "_" * 64,
        "SELECT_",
        "a\u3000B",
        "ｓＱＬ",
    ]
    for name in names:
        label = server.raw.exec_(f"SELECT 1 AS {name}".encode()).fname(0)
        assert label is not None
        assert label.decode() == lex(name).tokens[0].value
    server.close()
