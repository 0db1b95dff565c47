"""What a login that privileges can't fence may not send: what would run or read a text, a file, a program or a server that pgveil can't see.

The server does for a superuser, or for an owner, whatever it is told. So such a login's statements are looked at even where they name
nothing protected. In a database without anything protected only what leads out of it is refused, as far as texts tell (docs/adr/0033).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rules.classify import StatementKind
from rules.copying import parse_copy
from rules.dangerous import CROSSING_WORDS, is_crossing, is_dangerous
from rules.decide import UNSUPPORTED
from rules.lexer import Kind, LexError, lex, literal_value
from rules.plan import Reason, Refusal
from rules.protect import OWN_SCHEMA
from rules.sources import copies, stands_as_relation

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from rules.catalog import Catalog
    from rules.classify import Classified
    from rules.lexer import Lexed, Token
    from rules.sources import Said, Sources

_COPIES: Final = frozenset({StatementKind.COPY_TABLE, StatementKind.COPY_QUERY})
# What such a login may not do without a closer look.
_KINDS: Final = frozenset({StatementKind.DYNAMIC, StatementKind.DDL}) | _COPIES
_WRITES: Final = frozenset({"insert", "update", "delete", "merge"})
_LANGUAGES: Final = frozenset({"sql", "plpgsql"})
# Languages without a way to files and programs of the server's.
_TRUSTED: Final = _LANGUAGES | {"plperl", "pltcl", "plv8"}
# CREATE and ALTER of these lead to other servers, to programs that the server runs, or change what a language's name means.
_ELSEWHERE: Final = frozenset({"server", "foreign", "subscription", "language", "system"})
_BETWEEN: Final = frozenset({"or", "replace", "trusted", "procedural"})
# They name functions, which may stand in quotes.
_MADE_OF_FUNCTIONS: Final = frozenset({"operator", "aggregate", "type"})
_DEFINING: Final = frozenset({"function", "procedure", "routine"}) | _MADE_OF_FUNCTIONS

# A COPY of a file or a program, and the words of CROSSING_WORDS, in a text that is not taken apart.
_LEADS_OUT: Final = re.compile(
    rf"""\b(?:{"|".join(sorted(CROSSING_WORDS))}|dblink\w*)\b|\bcopy\b[^;]*\b(?:from|to)\s+(?:program\b|e?'|\$)"""
    r"""|\b(?:create|alter)\s+(?:server|foreign|subscription|system|user\s+mapping)\b"""
)

OTHER_LOGIN: Final = (
    "Use a login that privileges keep out; `pgveil check RULES --database URL` shows which they don't, and why."
)
STREAM: Final = "Use FROM STDIN or TO STDOUT (\\copy in psql)."


def looks_harmful(words: frozenset[str], parts: Iterable[Classified], reach: Reach) -> bool:
    """Whether a text is to be looked at more closely: the first, coarse answer."""
    if is_dangerous(words) or any(p.kind in _KINDS for p in parts) or not words.isdisjoint(reach.showing):
        return True
    return not words.isdisjoint(_WRITES) and any(word.startswith("pg_") for word in words)


@dataclass(frozen=True, slots=True)
class Reach:
    """By which words something protected is reached.

    `names`: what a text must name to matter. `functions`: those that read something protected. `schemas`: those of protected tables.
    `showing`: functions, operators and views that are made of what such a login must not name. `protects`: whether the database holds
    anything protected.
    """

    names: frozenset[str]
    functions: frozenset[str]
    schemas: frozenset[str]
    showing: frozenset[str]
    server_version: int
    protects: bool = True


def showing(catalog: Catalog, sources: Sources, *, protects: bool = True) -> frozenset[str]:
    """The names of functions, operators and views that do what `harm` refuses, or use one that does: they do it as whoever calls them."""
    refused = is_dangerous if protects else is_crossing
    texts = [(f.name, f.source) for f in (*catalog.functions, *catalog.operators)]
    texts += [(r.name, r.definition) for r in catalog.relations.values() if r.definition is not None]
    bodies: list[tuple[str, Said]] = []
    found: set[str] = set()
    for name, text in texts:
        if name.schema == OWN_SCHEMA or name.schema.startswith("pgveil_"):
            continue
        try:
            body = sources.said(text)
        except LexError:
            found.add(name.name)
            continue
        if refused(body.words) or body.copies:
            found.add(name.name)
        bodies.append((name.name, body))
    while more := {name for name, body in bodies if name not in found and _names(body, found)}:
        found |= more
    return frozenset(found)


def harm(lexed: Lexed, part: Classified, whole: tuple[int, int], words: frozenset[str], reach: Reach) -> Refusal | None:
    """None where the statement does no such thing. `words`: its identifiers."""
    if part.kind in _COPIES:
        copy = parse_copy(lexed, *whole, server_version=reach.server_version)
        if copy is None or not copy.streams:
            return _refusal(STREAM, whole[0], reach)
        if copy.into and _is_of_catalog(copy.schema, copy.name or ""):
            return _refusal(OTHER_LOGIN, whole[0], reach)
    if not reach.protects:
        return _crossing(lexed, part, whole, words, reach)
    tokens = lexed.tokens[whole[0] : whole[1] + 1]
    if part.kind is StatementKind.DYNAMIC or is_dangerous(words) or _uses(tokens, reach.showing):
        return _refusal(OTHER_LOGIN, whole[0], reach)
    if _writes_catalog(tokens):
        return _refusal(OTHER_LOGIN, whole[0], reach)
    if part.kind is StatementKind.DDL and (
        not words.isdisjoint(reach.functions)
        or _leads_elsewhere(tokens)
        or _moves_schema(tokens, reach.schemas)
        or _calls_by_quotes(lexed, whole, words, reach.functions)
        or _defines_reader(lexed, whole, words, reach)
    ):
        return _refusal(OTHER_LOGIN, whole[0], reach)
    return None


def _crossing(
    lexed: Lexed, part: Classified, whole: tuple[int, int], words: frozenset[str], reach: Reach
) -> Refusal | None:
    """What leads out of a database in which nothing is protected: by its words, and by those of the texts in it that are to be run."""
    tokens = lexed.tokens[whole[0] : whole[1] + 1]
    crosses = is_crossing(words) or _uses(tokens, reach.showing) or _writes_catalog(tokens)
    if part.kind in (StatementKind.DYNAMIC, StatementKind.DDL):
        body = part.kind is StatementKind.DYNAMIC or _makes_function(words)
        crosses = crosses or (body and not _in_known_language(lexed, whole, _TRUSTED)) or _leads_elsewhere(tokens)
        crosses = crosses or any(_text_crosses(lexed, i) for i in lexed.literals if whole[0] <= i <= whole[1])
    return _refusal(OTHER_LOGIN, whole[0], reach) if crosses else None


def _text_crosses(lexed: Lexed, index: int) -> bool:
    """Whether a constant, which may be a function's body, holds a word that leads out, however deep in texts of its own."""
    if lexed.tokens[index].kind is not Kind.STRING:
        return False
    try:
        text = literal_value(lexed, index).lower()
    except LexError:
        return True
    return _LEADS_OUT.search(text) is not None


def _refusal(hint: str, token: int, reach: Reach) -> Refusal:
    told = (
        "privileges can't fence this login (an owner of protected tables, a superuser, or one with REPLICATION or another right beneath them), so the server would show it what its role may not see"
        if reach.protects
        else "this login is a superuser or may read everything, so the server would show it what other databases hold"
    )
    return Refusal(Reason.UNFENCED, UNSUPPORTED, told, hint=hint, token=token)


def _names(body: Said, names: set[str]) -> bool:
    """As `_uses`, of a text of the catalog."""
    return not body.called.isdisjoint(names) or not body.placed.isdisjoint(names)


def _uses(tokens: Sequence[Token], names: Container[str]) -> bool:
    """Whether one of `names` is called, or stands where a relation stands. Elsewhere it is a column's name."""
    for at, token in enumerate(tokens):
        if token.value not in names:
            continue
        behind = tokens[at + 1].value if at + 1 < len(tokens) else ""
        if token.kind is Kind.OP:
            return True
        if token.kind in (Kind.WORD, Kind.QUOTED) and (behind == "(" or stands_as_relation(tokens, at)):
            return True
    return False


def _is_of_catalog(schema: str | None, name: str) -> bool:
    return schema in {None, "pg_catalog"} and name.startswith("pg_")


def _writes_catalog(tokens: Sequence[Token]) -> bool:
    """Whether rows of the system catalogs are written: under another name or owner a function or table is not known for what it is."""
    for at, token in enumerate(tokens[:-1]):
        if token.kind is not Kind.WORD or token.value not in {"update", "into", "from"}:
            continue
        if token.value == "from" and (at == 0 or tokens[at - 1].value != "delete"):
            continue
        target = at + 1 + (tokens[at + 1].value == "only")
        names = [t.value for t in tokens[target : target + 1]]
        while tokens[target + 1 : target + 2] and tokens[target + 1].value == "." and tokens[target + 2 : target + 3]:
            target += 2
            names.append(tokens[target].value)
        if names and _is_of_catalog(names[-2] if len(names) > 1 else None, names[-1]):
            return True
    return False


def _made(tokens: Sequence[Token]) -> tuple[str, str]:
    """The kind of thing that CREATE or ALTER is about, and the word behind it."""
    if tokens[0].value not in {"create", "alter"}:
        return "", ""
    rest = [t.value for t in tokens[1:] if t.kind is not Kind.WORD or t.value not in _BETWEEN][:2]
    return (rest[0], rest[1]) if len(rest) > 1 else ("", "")


def _leads_elsewhere(tokens: Sequence[Token]) -> bool:
    what, behind = _made(tokens)
    return tokens[0].value == "import" or what in _ELSEWHERE or (what, behind) == ("user", "mapping")


def _defines(tokens: Sequence[Token]) -> bool:
    return _leads_elsewhere(tokens) or _made(tokens)[0] in _DEFINING


def _moves_schema(tokens: Sequence[Token], schemas: frozenset[str]) -> bool:
    """ALTER SCHEMA ... RENAME: the protected tables in it would no longer have the rules' names."""
    what, schema = _made(tokens)
    return what == "schema" and schema in schemas and any(t.value == "rename" for t in tokens)


def _calls_by_quotes(lexed: Lexed, whole: tuple[int, int], words: frozenset[str], functions: frozenset[str]) -> bool:
    """CREATE OPERATOR (FUNCTION = 'name') and its like."""
    if words.isdisjoint(_MADE_OF_FUNCTIONS):
        return False
    for index in range(whole[0], whole[1] + 1):
        if lexed.tokens[index].kind is Kind.STRING:
            try:
                value = literal_value(lexed, index)
            except LexError:
                return True
            if value in functions or is_dangerous(frozenset({value})):
                return True
    return False


def _defines_reader(lexed: Lexed, whole: tuple[int, int], words: frozenset[str], reach: Reach) -> bool:
    """Whether a function that is made here could read something protected, as far as the text of its body tells."""
    if not _makes_function(words):
        return False
    if not _in_known_language(lexed, whole, _LANGUAGES):
        return True
    for index in range(whole[0], whole[1] + 1):
        if lexed.tokens[index].kind is Kind.STRING:
            try:
                body = literal_value(lexed, index)
                inner = [lex(body)]
                if inner[0].backslash_sensitive:  # a function can have a standard_conforming_strings of its own
                    inner.append(lex(body, standard_conforming_strings=False))
            except LexError:
                return True
            if any(_reads(each, reach) for each in inner):
                return True
    return False


def _makes_function(words: frozenset[str]) -> bool:
    routine = {"function", "procedure", "routine"}
    return not words.isdisjoint(routine) and not words.isdisjoint({"create", "replace"})


def _in_known_language(lexed: Lexed, whole: tuple[int, int], languages: frozenset[str]) -> bool:
    """Whether whatever stands behind LANGUAGE is one whose texts can be read. In parentheses it is a parameter's name."""
    depth = 0
    for index in range(whole[0], whole[1]):
        token, following = lexed.tokens[index], lexed.tokens[index + 1]
        depth += (token.value == "(") - (token.value == ")") if token.kind is Kind.PUNCT else 0
        if depth or token.kind is not Kind.WORD or token.value != "language":
            continue
        try:
            named = literal_value(lexed, index + 1) if following.kind is Kind.STRING else following.value
        except LexError:
            return False
        if named not in languages:
            return False
    return True


def _reads(body: Lexed, reach: Reach) -> bool:
    """Whether a function's body names something that matters, or runs or defines what stands in a text inside it."""
    words, tokens = body.words, body.tokens
    if not words.isdisjoint(reach.names) or "execute" in words or is_dangerous(words):
        return True
    if any(t.value in {"create", "alter", "import"} and _defines(tokens[i : i + 8]) for i, t in enumerate(tokens)):
        return True
    runs = any(
        t.kind is Kind.WORD
        and t.value == "do"
        and i + 1 < len(tokens)
        and (tokens[i + 1].kind is Kind.STRING or tokens[i + 1].value == "language")
        for i, t in enumerate(tokens)
    )
    return runs or copies(tokens) or _uses(tokens, reach.showing) or _writes_catalog(tokens)
