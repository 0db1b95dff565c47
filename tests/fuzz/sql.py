"""SQL text as it comes from clients: the lexer, and the whole decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.decisions import Gate
from proxy.plan_cache import GateLimits
from proxy.session.computing import Compute, Write
from proxy.session.gate import Admit, Names, NeedNames, NeedSettings, Pass, Refuse, Settings
from rules.classify import StatementKind, classify
from rules.copying import parse_copy
from rules.encodings import EncodingError, decode_sql, encode_sql
from rules.lexer import Kind, LexError, lex, literal_value
from rules.load import load_rules_text
from tests.fuzz.target import BrokenPromise, Cursor, Target, promise
from tests.rules.test_decisions_golden import RULES, VisibleSealer, bank_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.session.gate import Decision
    from rules.tokens import Lexed

_FIXTURES: Final = Path(__file__).parent.parent / "fixtures"
_ENCODINGS: Final = (
    "UTF8",
    "UTF8",
    "UTF8",
    "SQL_ASCII",
    "LATIN1",
    "WIN1252",
    "EUC_JP",
    "SJIS",
    "GBK",
    "GB18030",
    "nonsense",
)
_LONG_VALUE: Final = 8  # a constant of so many characters is not in a sentence of ours by chance
_VERSIONS: Final = (150000, 160000, 170000, 180000)
_COPIES: Final = (
    "copy t from stdin",
    "copy public.t (a, \"B\") to stdout with (format csv, delimiter ';', null '', header, quote '~', force_quote (a, \"B\"))",
    "copy t from stdin with (format text, default 'D', on_error ignore, log_verbosity verbose, encoding 'LATIN1') where a > 1",
    "copy binary t to stdout using delimiters '|' with null as 'n'",
    "copy (select a, b from t where c = $1 order by 1) to stdout (format binary)",
    "copy t to program 'cat'; copy t from '/tmp/x' csv header force not null a force null b",
)
_WORDS: Final = tuple(
    b"select from where insert into values update set delete merge using with recursive as union all except intersect order by group "
    b"having limit offset fetch for distinct on case when then end cast over partition window filter within lateral join left cross "
    b"natural copy to stdin stdout explain analyze prepare execute declare cursor returning conflict do nothing customers cards payments "
    b"visits name phone id_number pan cvv credit :: || -> ->> #>> @> $1 $$ E'\\' U&'' array[ ROW( ( ) ; -- /* */".split()
)


def statements() -> Iterator[bytes]:
    """The statements of the fixtures, shorter ones first in each file."""
    for folder in ("decisions", "twins", "computed", "lexer"):
        for path in sorted((_FIXTURES / folder).glob("*.sql")):
            for block in path.read_text().split("\n\n"):
                lines = [line for line in block.splitlines() if not line.startswith("-- ")]
                text = "\n".join(lines).strip()
                if 0 < len(text) <= 1000:
                    yield text.encode()


# -- lexer ---------------------------------------------------------------------------------------------------------------------------


def _lexer() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        encoding = cursor.pick(_ENCODINGS)
        flags = cursor.byte()
        conforming = bool(flags & 1)
        version = _VERSIONS[flags >> 1 & 3]
        raw = cursor.rest()
        try:
            text = decode_sql(raw, encoding)
        except EncodingError:
            return 1
        promise(encode_sql(text, encoding) == raw, "a text does not come back as the bytes that it was")
        try:
            lexed = lex(text, standard_conforming_strings=conforming)
        except LexError as error:
            promise(0 <= error.position <= len(text), "an error stands outside of the text")
            return 1
        end = 0
        for index, token in enumerate(lexed.tokens):
            promise(end <= token.start < token.end <= len(text), "tokens overlap")
            end = token.end
            if token.kind in (Kind.STRING, Kind.BITSTRING, Kind.NUMBER):
                promise(index in lexed.literals, "a constant is not among the constants")
                _value(lexed, index)
        try:
            promise(lex(lexed.shape).shape == lexed.shape, "a shape is not its own shape")
        except LexError as error:
            raise BrokenPromise("a shape can't be read") from error
        for first, last in lexed.statements:
            if classify(lexed, first, last).kind in (StatementKind.COPY_TABLE, StatementKind.COPY_QUERY):
                _copy(lexed, first, last, version)
        return 1

    return run


def _copy(lexed: Lexed, first: int, last: int, version: int) -> None:
    """A COPY is not understood, or all that is said of it is about its own tokens."""
    found = parse_copy(lexed, first, last, server_version=version)
    if found is None:
        return
    places = [found.first, found.last, found.closing, found.direction, *(found.where or ())]
    promise(all(first <= place <= last for place in places), "a part of a COPY is outside of it")
    promise(found.options is None or len(found.options.delimiter) == 1, "a delimiter of another length")


def _value(lexed: Lexed, index: int) -> None:
    try:
        literal_value(lexed, index)
    except LexError:
        return


def _lexer_seeds() -> Iterator[bytes]:
    for number, text in enumerate(statements()):
        if number % 4 == 0:
            yield bytes((0, 1)) + text
    for number, copied in enumerate(_COPIES):
        yield bytes((0, 2 * number % 8 + 1)) + copied.encode()
    for number, name in enumerate(_ENCODINGS[3:], start=3):
        try:
            yield bytes((number, 0)) + encode_sql("select '\u00e9\u8868' as \"\u540d\"", name)
        except EncodingError:
            yield bytes((number, 0)) + b"select 'x'"


# -- the whole decision --------------------------------------------------------------------------------------------------------------


def _gate() -> Callable[[bytes], int]:
    # Caches so small that an input's way does not depend on those before it.
    small = GateLimits(plans=2, texts=1, principals=8)
    gates = [
        Gate(load_rules_text(RULES, "rules.yaml"), bank_catalog(), VisibleSealer(), limits=small, computes=computes)
        for computes in (False, True)
    ]

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        flags = cursor.byte()
        gate = gates[flags & 1]
        settings = Settings(
            standard_conforming_strings=not flags & 2,
            client_encoding=_ENCODINGS[cursor.byte() % len(_ENCODINGS)],
            search_path=None if flags & 4 else ("pg_catalog", "public"),
        )
        raw = cursor.rest()
        for login in ("teller", "agent", "owner"):
            principal = gate.principal(login)
            decision = gate.decide(raw, principal, settings, extended=bool(flags & 8))
            if isinstance(decision, NeedNames):
                promise(not isinstance(decision.otherwise, NeedNames), "asks for names again")
                decision = gate.decide(raw, principal, settings, extended=bool(flags & 8), names=Names())
                promise(not isinstance(decision, NeedNames), "asks for names that it was given")
            promise(settings.search_path is None or not isinstance(decision, NeedSettings), "asks for what it was told")
            _check(raw, settings, decision)
        return 1

    return run


def _check(raw: bytes, settings: Settings, decision: Decision) -> None:
    match decision:
        case Admit():
            text = decode_sql(decision.text, settings.client_encoding)
            lexed = lex(text, standard_conforming_strings=settings.standard_conforming_strings)
            promise(len(decision.plans) == len(lexed.statements), "not one plan a statement")
            original = len(decode_sql(raw, settings.client_encoding))
            for position in (1, len(text) // 2 + 1, len(text) + 1):
                promise(1 <= decision.offsets.original(position) <= original + 1, "a position outside of the text")
            _tells_nothing(raw, settings, decision.shape)
        case Refuse():
            refusal = decision.refusal
            promise(len(refusal.sqlstate) == 5, "a refusal without a SQLSTATE")
            promise(refusal.message, "a refusal without words")
            promise(
                decision.position is None or 1 <= decision.position <= len(raw) + 1, "a position outside of the text"
            )
            said = " ".join(filter(None, (refusal.message, refusal.detail, refusal.hint, decision.shape)))
            _tells_nothing(raw, settings, said)
        case Compute() | Write() | Pass() | NeedSettings() | NeedNames():
            return


def _tells_nothing(raw: bytes, settings: Settings, said: str) -> None:
    """No constant of the text is in what logs, errors and the audit trail get of it."""
    try:
        text = decode_sql(raw, settings.client_encoding)
        lexed = lex(text, standard_conforming_strings=settings.standard_conforming_strings)
    except (EncodingError, LexError):
        return
    elsewhere = " ".join(t.value for t in lexed.tokens if t.kind in (Kind.WORD, Kind.QUOTED))
    for index in lexed.literals:
        try:
            value = literal_value(lexed, index)
        except LexError:
            continue
        if len(value) >= _LONG_VALUE and value not in elsewhere and value.isalnum() and not value.isalpha():
            promise(value not in said, "a constant of the text is told")


def _gate_seeds() -> Iterator[bytes]:
    for number, text in enumerate(statements()):
        yield bytes((number % 16, 0)) + text


TARGETS: Final = (
    Target("lexer", "SQL text in any encoding as tokens", _lexer, _lexer_seeds, longest=1024, dictionary=_WORDS),
    Target("gate", "SQL text to the decision, for three logins", _gate, _gate_seeds, longest=1024, dictionary=_WORDS),
)
