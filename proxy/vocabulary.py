"""Which words of a text are known to be nothing that somebody can redefine: PostgreSQL's own names, and those of plain tables and columns.

What a view or a function reads, no description of the server's tells. A text that uses one is run, and its answer released, only when the
catalog has been looked at since (ADR 0025); this module says which texts are spared that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rules.dangerous import is_dangerous
from rules.protect import is_own
from rules.tokens import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from rules.catalog import Catalog
    from rules.tokens import Lexed

# What initdb made can't be replaced without the server's being made anew.
VOCABULARY_QUERY: Final = """
SELECT (SELECT pg_catalog.array_agg(word::text) FROM pg_catalog.pg_get_keywords()) AS keywords,
       (SELECT pg_catalog.array_agg(w.word) FROM (
            SELECT p.proname::text FROM pg_catalog.pg_proc p WHERE p.oid < 16384
            UNION SELECT t.typname::text FROM pg_catalog.pg_type t WHERE t.oid < 16384
            UNION SELECT pg_catalog.lower(s.name) FROM pg_catalog.pg_settings s
            UNION SELECT n.nspname::text FROM pg_catalog.pg_namespace n WHERE n.oid < 16384
            UNION SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid < 16384
            UNION SELECT c.relname::text FROM pg_catalog.pg_class c WHERE c.oid < 16384) AS w (word)) AS words,
       (SELECT pg_catalog.array_agg(p.proname::text) FROM pg_catalog.pg_proc p WHERE p.oid < 16384) AS functions,
       (SELECT pg_catalog.array_agg(DISTINCT p.proname::text) FROM pg_catalog.pg_proc p
         WHERE p.oid < 16384 AND p.provolatile <> 'i' AND p.prokind IN ('f', 'p')
           AND p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype, 'pg_catalog.internal'::pg_catalog.regtype)
           AND NOT 'pg_catalog.internal'::pg_catalog.regtype::pg_catalog.oid = ANY (p.proargtypes)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_type t WHERE p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend))) AS looking
"""
_PLAIN_KINDS: Final = frozenset("rp")
# Runs what stands in a string.
_RUN_TEXT: Final = "do"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A server's own words. `keywords` are among them. `functions`: names of its functions; `looking`: of those that are not IMMUTABLE."""

    keywords: frozenset[str]
    words: frozenset[str]
    functions: frozenset[str] = frozenset()
    looking: frozenset[str] = frozenset()


async def read_vocabulary(connection: asyncpg.Connection[Any]) -> Vocabulary:
    """Ask the server. Raises what asyncpg raises."""
    row = await connection.fetchrow(VOCABULARY_QUERY)
    assert row is not None
    return vocabulary(*row.values())


def vocabulary(
    keywords: Sequence[str], words: Sequence[str], functions: Sequence[str] = (), looking: Sequence[str] = ()
) -> Vocabulary:
    """What the columns of VOCABULARY_QUERY say."""
    return Vocabulary(
        frozenset(keywords), frozenset(words) | frozenset(keywords), frozenset(functions), frozenset(looking)
    )


class Definitions:
    """A database's names, told apart by whether a definition stands behind them that can be replaced. Without a vocabulary all are strange."""

    __slots__ = ("_keywords", "_known", "_operators")

    def __init__(self, catalog: Catalog, own: Vocabulary | None) -> None:
        # What is pgveil's own no text may name, though masking views bear the names of their tables.
        defined = {f.name.name for f in catalog.functions if not is_own(f.name)}
        plain: set[str] = set(catalog.schemas)
        for relation in (r for r in catalog.relations.values() if not is_own(r.name)):
            plain.update(column.name for column in relation.columns)
            if relation.kind in _PLAIN_KINDS and not relation.has_triggers and not relation.rules:
                plain.add(relation.name.name)
            else:
                defined.add(relation.name.name)
        self._operators = frozenset(o.name.name for o in catalog.operators)
        self._keywords = frozenset[str]() if own is None else own.keywords
        self._known = None if own is None else (own.words | plain) - defined

    def used(self, lexed: Lexed) -> bool:
        """Whether a text may use a view, a function, an operator or a trigger of the database's own, known or not."""
        known = self._known
        if known is None or _RUN_TEXT in lexed.words or is_dangerous(lexed.words):
            return True
        if self._operators and any(t.kind is Kind.OP and t.value in self._operators for t in lexed.tokens):
            return True
        strange = lexed.words - known
        return bool(strange) and not strange <= self._aliases(lexed, strange)

    def _aliases(self, lexed: Lexed, words: frozenset[str]) -> set[str]:
        """Those of the words that the text itself makes, as names for something: behind AS, another name or a parenthesis."""
        found = set()
        before = None
        for token in lexed.tokens:
            named = before is not None and (
                before.value in {"as", ")"}
                or before.kind is Kind.QUOTED
                or (before.kind is Kind.WORD and before.value not in self._keywords)
            )
            if named and token.value in words and token.kind in (Kind.WORD, Kind.QUOTED):
                found.add(token.value)
            before = token
        return found
