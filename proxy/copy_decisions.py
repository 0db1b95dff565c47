"""COPY, judged: of a table by the SELECT or INSERT that does the same, of a query by the query.

What a plan says of a COPY holds for a shape; how its data is written stands in constants of each text, and is read when a text is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.session.gate import CopyQuestion, OffsetMap
from proxy.splicing import splice, spliced
from rules.analyse import ParseError, analyse
from rules.copy_format import CopyColumn, CopyPlan
from rules.copying import CopyStatement, parse_copy, readable
from rules.decide import DENIED, UNSUPPORTED, decide
from rules.encodings import EncodingError, encode_sql
from rules.lexer import Kind, lex
from rules.model import Protection, Verdict, quote_ident
from rules.plan import Action, Edit, Plan, Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.analyse import Protected
    from rules.budget import Budget
    from rules.catalog import Relation
    from rules.classify import Classified
    from rules.copy_format import CopyFormat
    from rules.decide import Judgement
    from rules.lexer import Lexed
    from rules.model import ColumnName
    from rules.protect import ProtectionMap

_WRONG_OBJECT: Final = "42809"
_UNDEFINED_COLUMN: Final = "42703"
_DUPLICATE_COLUMN: Final = "42701"
_INVALID_REFERENCE: Final = "42P10"
_KINDS: Final = {"v": "view", "m": "materialized view", "f": "foreign table", "p": "partitioned table"}
_NEVER: Final = 1_000_000
# From these versions on COPY TO takes a kind of relation.
_TAKEN_FROM: Final = {"v": _NEVER, "f": _NEVER, "m": 180_000, "p": 190_000}
_COLUMNS: Final = "List columns of the table, each once, and none that is generated."
_ALIAS: Final = "pgveil_all"


@dataclass(frozen=True, slots=True)
class CopyJudge:
    """What COPY of a table is judged by, for one principal and one session's settings. `shadowed`: names that mean temporary relations."""

    protection: ProtectionMap
    judgement: Judgement
    search_path: tuple[str, ...] | None
    shadowed: frozenset[str]

    def table(self, lexed: Lexed, first: int, last: int) -> Plan | Refusal | None:
        """What to do with COPY of a table; None where nothing protected is in it. Raises AmbiguousNameError."""
        parsed = parse_copy(lexed, first, last, server_version=self.protection.catalog.server_version)
        if parsed is None or parsed.name is None:
            return _not_understood(first)
        relation = self._database.resolve(parsed.schema, parsed.name, self.search_path)
        if relation is None:
            return None
        reached = self._reached(relation)
        if parsed.columns is not None and relation.definition is None:
            reached = frozenset(name for name in reached if name.column in parsed.columns)
        if not reached:
            return None
        found = self._refused(parsed, relation, reached) or self._names(parsed, relation)
        if isinstance(found, Refusal):
            return found
        if parsed.into:
            return self._from(lexed, parsed, relation, found)
        return self._to(lexed, parsed, relation, found)

    @property
    def _database(self) -> Protected:
        return self.protection.under(self.shadowed)

    def _reached(self, relation: Relation) -> frozenset[ColumnName]:
        lineage = self.protection.lineage_of(relation)
        inside = lineage.inside if lineage is not None else frozenset()
        return frozenset(self.protection.columns_of(relation).values()) | inside

    def _sealed(self, name: ColumnName) -> bool:
        column = self.judgement.rules.column(name)
        return column is None or column.protection is Protection.SEALED

    def _refused(self, parsed: CopyStatement, relation: Relation, reached: Iterable[ColumnName]) -> Refusal | None:
        """What no form of the columns could change."""
        sealed = sorted(name for name in reached if self._sealed(name))
        masked = sorted(name for name in reached if self.judgement.policy.verdict(name) is not Verdict.CLEAR)
        minded = sealed if parsed.into else sorted({*sealed, *masked})
        at = parsed.first
        version = self.protection.catalog.server_version
        if minded and not parsed.into and version < _TAKEN_FROM.get(relation.kind, 0):
            return Refusal(
                Reason.COPY,
                _WRONG_OBJECT,
                f'cannot copy from {_KINDS[relation.kind]} "{relation.name.name}"',
                hint="Try the COPY (SELECT ...) TO variant.",
                token=at,
            )
        if parsed.into and relation.definition is not None:
            return Refusal(
                Reason.COPY,
                UNSUPPORTED,
                f'COPY can\'t fill view "{relation.name}", which shows protected columns',
                hint="Copy into the table itself.",
                token=at,
            )
        if minded and not parsed.streams:
            return Refusal(
                Reason.COPY,
                UNSUPPORTED if sealed else DENIED,
                f'the server can\'t read or write a file with column "{minded[0]}": pgveil would not see its values',
                hint="Use FROM STDIN or TO STDOUT (\\copy in psql).",
                column=minded[0],
                token=at,
            )
        if minded and not parsed.known:
            return _not_understood(at)
        return None

    def _names(self, parsed: CopyStatement, relation: Relation) -> tuple[str, ...] | Refusal:
        """The columns that are copied, in order; where the server would refuse the list, its own words."""
        if parsed.columns is None:
            return tuple(c.name for c in relation.columns if not c.generated)
        seen: set[str] = set()
        for name in parsed.columns:
            column = relation.column(name)
            if column is None:
                message = f'column "{name}" of relation "{relation.name.name}" does not exist'
                return Refusal(Reason.COPY, _UNDEFINED_COLUMN, message, hint=_COLUMNS, token=parsed.first)
            if name in seen:
                message = f'column "{name}" specified more than once'
                return Refusal(Reason.COPY, _DUPLICATE_COLUMN, message, hint=_COLUMNS, token=parsed.first)
            if column.generated:
                detail = "Generated columns cannot be used in COPY."
                message = f'column "{name}" is a generated column'
                return Refusal(Reason.COPY, _INVALID_REFERENCE, message, detail, hint=_COLUMNS, token=parsed.first)
            seen.add(name)
        return parsed.columns

    def _analysed(self, text: str, parsed: CopyStatement, budget: Budget) -> tuple[Lexed, Plan | Refusal]:
        """The plan of a statement that is written here."""
        lexed = lex(text, budget=budget)
        try:
            facts = analyse(
                lexed, (0, len(lexed.tokens) - 1), self._database, self.search_path, self.protection.suspects
            )
        except ParseError:
            return lexed, _not_understood(parsed.first)
        plan = decide(facts, self.judgement)
        return lexed, replace(plan, token=parsed.first) if isinstance(plan, Refusal) else plan

    # -- COPY TO

    def _to(self, lexed: Lexed, parsed: CopyStatement, relation: Relation, names: tuple[str, ...]) -> Plan | Refusal:
        only = "ONLY " if relation.kind == "r" and relation.children else ""
        source = f"{only}{_source(lexed, parsed)}"
        text = f"SELECT {_listed(names)} FROM {source}"  # noqa: S608 - names are quoted
        written, plan = self._analysed(text, parsed, lexed.budget)
        if isinstance(plan, Refusal):
            return plan
        text, _ = spliced(written.text, sorted(splice(written, e.first, e.last, e.text) for e in plan.edits))
        copy = CopyPlan(into=False, results=plan.results or (), relation=relation.name.name, witness=text)
        edits: tuple[Edit, ...] = ()
        if plan.edits:
            if parsed.old:
                return _old_form(parsed.first)
            edits = (Edit(parsed.first, parsed.closing, f"({text})"),)
        elif parsed.columns is None:
            copy = self._whole(copy, names, source, relation)
            edits = (Edit(parsed.direction, parsed.direction - 1, f"({_listed(names)}) "),)
        return replace(
            plan, action=Action.COPY, edits=edits, results=None, copy=copy if parsed.streams and parsed.known else None
        )

    @staticmethod
    def _whole(copy: CopyPlan, names: tuple[str, ...], source: str, relation: Relation) -> CopyPlan:
        """The witness tells as well whether the table has the columns that it is known to have, and no other."""
        text = f"SELECT {_listed(names)}, {_ALIAS}.* FROM {source} AS {_ALIAS}"  # noqa: S608 - names are quoted
        return replace(copy, witness=text, everything=tuple(c.name for c in relation.columns))

    # -- COPY FROM

    def _from(self, lexed: Lexed, parsed: CopyStatement, relation: Relation, names: tuple[str, ...]) -> Plan | Refusal:
        problem = self._condition(lexed, parsed, relation)
        if problem is not None:
            return problem
        source = _source(lexed, parsed)
        values = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        text = f"INSERT INTO {source} ({_listed(names)}) VALUES ({values})"  # noqa: S608 - names are quoted
        _, plan = self._analysed(text, parsed, lexed.budget)
        if isinstance(plan, Refusal):
            return plan
        sealed = {param.number: param.column for param in plan.params}
        given = next((param.column for param in plan.params if param.given), None)
        if given is not None:
            return Refusal(
                Reason.COPY,
                UNSUPPORTED,
                f'COPY can\'t give values to column "{given.name}", which this login does not see clear',
                hint="Send INSERT statements: each of their values is counted.",
                column=given.name,
                token=parsed.first,
            )
        plan = replace(plan, action=Action.COPY, edits=(), literals=(), params=(), results=None)
        if not sealed:
            return plan
        columns = tuple(CopyColumn(name, sealed.get(number)) for number, name in enumerate(names, 1))
        copy = CopyPlan(into=True, columns=columns, relation=relation.name.name)
        copy = replace(copy, witness=f"SELECT {_listed(names)} FROM {source}")  # noqa: S608 - names are quoted
        edits: tuple[Edit, ...] = ()
        if parsed.columns is None:
            copy = self._whole(copy, names, source, relation)
            edits = (Edit(parsed.direction, parsed.direction - 1, f"({_listed(names)}) "),)
        return replace(plan, edits=edits, copy=copy)

    def _condition(self, lexed: Lexed, parsed: CopyStatement, relation: Relation) -> Refusal | None:
        """WHERE sees sealed values: it must not ask about them."""
        if parsed.where is None:
            return None
        columns = self.protection.columns_of(relation)
        for index in range(parsed.where[0], parsed.where[1] + 1):
            token = lexed.tokens[index]
            if token.kind not in (Kind.WORD, Kind.QUOTED):
                continue
            qualifies = index < parsed.where[1] and lexed.tokens[index + 1].value == "."
            name = columns.get(token.value)
            if (name is not None and self._sealed(name)) or (token.value == relation.name.name and not qualifies):
                return Refusal(
                    Reason.COPY,
                    UNSUPPORTED,
                    f'the condition of this COPY can\'t be evaluated: the server gets sealed values of "{relation.name}"',
                    hint="Leave sealed columns out of the condition; filter the rows before they are sent.",
                    column=name,
                    token=index,
                )
        return None


def of_query(plan: Plan, lexed: Lexed, part: Classified, server_version: int) -> Plan | Refusal:
    """What to do with COPY (query), given the query's plan."""
    first, last = next(s for s in lexed.statements if s[0] <= part.first <= s[1])
    parsed = parse_copy(lexed, first, last, server_version=server_version)
    opened = next((r.open for r in plan.results or () if r.open is not None), None)
    if opened is not None and (parsed is None or not parsed.known):
        return _not_understood(part.first)
    if opened is not None and parsed is not None and not parsed.streams:
        return Refusal(
            Reason.COPY,
            UNSUPPORTED,
            f'the server can\'t read or write a file with column "{opened.name}": pgveil would not see its values',
            hint="Use FROM STDIN or TO STDOUT (\\copy in psql).",
            column=opened.name,
            token=part.first,
        )
    copy = None
    if parsed is not None and parsed.streams and parsed.known and plan.results is not None:
        copy = CopyPlan(into=False, results=plan.results, query=(part.first, part.last))
    return replace(plan, action=Action.COPY, results=None, copy=copy)


def among_others(plans: list[Plan | None], lexed: Lexed) -> list[Plan | None] | Refusal:
    """Of several statements in one text none may copy sealed values: their data has to be met by one description each, asked for before."""
    for plan, (first, _) in zip(plans, lexed.statements, strict=True):
        if plan is not None and plan.copy is not None and plan.copy.protects:
            return Refusal(
                Reason.COPY,
                UNSUPPORTED,
                "a COPY of sealed columns can't be sent together with other statements",
                hint="Send the COPY by itself.",
                token=first,
            )
    return [plan if plan is None or plan.copy is None else replace(plan, copy=None) for plan in plans]


def as_written(plan: Plan, lexed: Lexed, client_encoding: str, server_version: int) -> Plan | Refusal:
    """A COPY's plan with the format that this text asks for."""
    copy = plan.copy
    assert copy is not None
    first, last = lexed.statements[0]
    parsed = parse_copy(lexed, first, last, server_version=server_version)
    form = None if parsed is None else parsed.options
    if form is None:
        return _not_understood(first) if copy.protects else replace(plan, copy=None)
    if copy.protects and not readable(form, client_encoding):
        return Refusal(
            Reason.COPY,
            UNSUPPORTED,
            f"COPY data with sealed columns can't be read in encoding {form.encoding or client_encoding}",
            hint="Use ENCODING 'UTF8', or SET client_encoding TO 'UTF8'.",
            token=first,
        )
    return replace(plan, copy=replace(copy, format=form))


def computed_format(lexed: Lexed, part: Classified, client_encoding: str, server_version: int) -> CopyFormat | None:
    """How the computed rows of a COPY (query) are written; None where the server would refuse to, or would write them in another way."""
    first, last = lexed.statements[0]
    parsed = parse_copy(lexed, first, last, server_version=server_version)
    if parsed is None or parsed.into or not (parsed.streams and parsed.known) or parsed.table:
        return None
    form = parsed.options
    if form is None or form.encoding is not None or form.force_quote.names or not readable(form, client_encoding):
        return None
    return form if (part.first, part.last) == (parsed.first, parsed.last) else None


def witness_text(plan: Plan, lexed: Lexed, text: str, offsets: OffsetMap) -> str | None:
    """The SELECT that the server is asked to describe. A query's own keeps its place in the edited text, so that positions in errors are right."""
    copy = plan.copy
    if copy is None or copy.query is None:
        return None if copy is None else copy.witness
    start = _moved(lexed.tokens[copy.query[0]].start, offsets)
    end = _moved(lexed.tokens[copy.query[1]].end, offsets)
    return " " * start + text[start:end]


_DENIED = (
    "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) {table}::pg_catalog.regclass"
    " AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') AND EXISTS (SELECT FROM pg_catalog.pg_attribute a"
    " WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped{columns}"
    " AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))"
)


def question(
    lexed: Lexed, part: Classified, client_encoding: str, server_version: int, guarded: frozenset[str]
) -> CopyQuestion | None:
    """What the server is asked before a COPY TO STDOUT that nothing protected is known to be in; None where there is nothing to ask.

    `guarded`: names of tables with row security.
    """
    first, last = lexed.statements[0]
    parsed = parse_copy(lexed, first, last, server_version=server_version)
    if parsed is None or parsed.into or not parsed.streams:
        return None
    try:
        if parsed.name is None:
            start, end = lexed.tokens[part.first].start, lexed.tokens[part.last].end
            return CopyQuestion(encode_sql(" " * start + lexed.text[start:end], client_encoding), None, OffsetMap())
        names = None if parsed.columns is None else frozenset(parsed.columns)
        source = _source(lexed, parsed)
        denied = b""
        if parsed.name in guarded and "\\" not in source + "".join(names or ()):
            listed = ", ".join(map(_constant, sorted(names or ())))
            columns = f" AND a.attname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[{listed}])" if listed else ""
            denied = encode_sql(_DENIED.format(table=_constant(source), columns=columns), client_encoding)
        return CopyQuestion(encode_sql(f"SELECT * FROM {source}", client_encoding), names, denied=denied)  # noqa: S608 - the client's own name
    except EncodingError:
        return None


def _constant(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _moved(position: int, offsets: OffsetMap) -> int:
    """Where a 0-based position of the original, outside the edits, is in the edited text."""
    shift = 0
    for _, length, original, width in offsets.edits:
        if original + width <= position and (original < position or width == 0):
            shift += length - width
    return position + shift


def _source(lexed: Lexed, parsed: CopyStatement) -> str:
    """The table's name as the text has it."""
    return lexed.text[lexed.tokens[parsed.first].start : lexed.tokens[parsed.last].end]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(quote_ident(name) for name in names)


def _not_understood(token: int) -> Refusal:
    return Refusal(
        Reason.COPY,
        UNSUPPORTED,
        "this form of COPY was not understood",
        hint="Write COPY table (columns) FROM STDIN or TO STDOUT, or COPY (SELECT ...) TO STDOUT, with options that COPY's documentation lists.",
        token=token,
    )


def _old_form(token: int) -> Refusal:
    return Refusal(
        Reason.COPY,
        UNSUPPORTED,
        "COPY BINARY and USING DELIMITERS can't be used with masked columns",
        hint="Write the options behind WITH: COPY table TO STDOUT WITH (FORMAT binary)",
        token=token,
    )
