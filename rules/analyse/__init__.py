"""(statement, catalog) -> Facts: which protected columns flow where. The only package that imports sqlglot.

`tree` turns our tokens into a sqlglot tree; `expressions`, `queries` and `writes` walk it with names resolved by `scope`; `record` keeps
what they find. Whatever the walk does not know becomes an Obstacle, and every identifier of the text that could name something protected
must have been accounted for, or the statement is refused: what sqlglot drops or misreads can't slip through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.facts import ColumnUse, Facts, Use
from rules.analyse.keywords import RESERVED
from rules.analyse.queries import Queries
from rules.analyse.record import AmbiguousNameError, Protected, Record, ViewLineage
from rules.analyse.scope import Outputs, Scope
from rules.analyse.tree import ParseError, Tree, parse
from rules.analyse.writes import Writes
from rules.budget import TOO_DEEP, Budget, TooComplexError
from rules.lexer import Kind, literal_value
from rules.plan import Action, Reason

if TYPE_CHECKING:
    from rules.analyse.record import Block, TableUse
    from rules.lexer import Lexed

__all__ = [
    "AmbiguousNameError",
    "Facts",
    "ParseError",
    "Protected",
    "Survey",
    "ViewLineage",
    "analyse",
    "lineage_of_query",
    "survey",
]

_ACTIONS = {exp.Insert: Action.INSERT, exp.Update: Action.UPDATE, exp.Delete: Action.DELETE, exp.Merge: Action.MERGE}
# Words behind a function's parenthesis that are part of its syntax.
_FIELDS = frozenset(
    [
        ("extract", field)
        for field in ("century", "day", "decade", "hour", "minute", "month", "quarter", "second", "week", "year")
    ]
    + [("xmlelement", "name"), ("xmlpi", "name")]
)
# A value as pgveil seals it (docs/sealed-format.md).
_SEALED = re.compile(r"[~^][A-Za-z0-9+/]{16,}(-[A-Za-z0-9+/]{6})?")
_MODIFYING = (exp.Insert, exp.Update, exp.Delete, exp.Merge)


@dataclass(frozen=True, slots=True)
class Survey:
    """How a statement is built, for `rules.split`. `outputs` None: not known. `cte_references`: tokens that name a common table expression."""

    tree: Tree
    outputs: Outputs | None
    blocks: tuple[Block, ...]
    tables: tuple[TableUse, ...]
    cte_references: frozenset[int]


def analyse(
    lexed: Lexed,
    statement: tuple[int, int],
    database: Protected,
    search_path: tuple[str, ...] | None,
    suspects: frozenset[str],
    *,
    of_view: bool = False,
) -> Facts:
    """The facts of the statement that the tokens from `statement[0]` to `statement[1]` make.

    `suspects`: names of everything protected, relations and columns alike. `of_view`: it is a view's definition in the server's words, which
    show the casts between a domain and its base type. Raises ParseError, TooComplexError, or AmbiguousNameError where the
    search_path must be known.
    """
    tree = parse(lexed, *statement)
    record = Record(tree, database, search_path, of_view)
    try:
        outputs, action = _walk(tree, record)
    except RecursionError as error:
        raise TooComplexError(TOO_DEEP) from error
    _account(tree, record, suspects)
    writes = action is not Action.SELECT or tree.root.find(*_MODIFYING) is not None
    return record.facts(action, outputs, writes=writes)


def survey(
    lexed: Lexed, statement: tuple[int, int], database: Protected, search_path: tuple[str, ...] | None
) -> Survey:
    """The statement's SELECTs and the relations that it names. Raises as `analyse` does."""
    tree = parse(lexed, *statement)
    record = Record(tree, database, search_path)
    try:
        outputs, _ = _walk(tree, record)
    except RecursionError as error:
        raise TooComplexError(TOO_DEEP) from error
    return Survey(tree, outputs, tuple(record.blocks), tuple(record.tables), frozenset(record.cte_references))


def lineage_of_query(
    lexed: Lexed, database: Protected, search_path: tuple[str, ...], suspects: frozenset[str]
) -> ViewLineage:
    """The lineage of a view's definition, which is read again with each catalog. Raises ParseError and TooComplexError."""
    lexed = replace(lexed, budget=Budget.of(len(lexed.text)))
    facts = analyse(lexed, lexed.statements[0], database, search_path, suspects, of_view=True)
    known = facts.outputs is not None and not facts.obstacles
    # A constant that was plain when the view was made meets sealed values as it is.
    plain = [
        ColumnUse(c.column, Use.COMPUTE, c.token, None)
        for c in facts.constants
        if lexed.tokens[c.token].kind is not Kind.STRING or not _SEALED.fullmatch(literal_value(lexed, c.token))
    ]
    # Among masked values it would be masked as well.
    flowing = [ColumnUse(c.column, Use.EQUAL_CONSTANT, c.token, None) for c in facts.constants if c.flows]
    uses = (*facts.uses, *plain, *flowing)
    return ViewLineage(facts.outputs or (), facts.columns, known, uses, facts.pairs, facts.united)


def _walk(tree: Tree, record: Record) -> tuple[Outputs | None, Action]:
    root = tree.root
    queries = Queries(record)
    writes = Writes(queries)
    if isinstance(root, _MODIFYING):
        outputs = writes.outputs(root, None)
        return (outputs if root.args.get("returning") else None), _ACTIONS[type(root)]
    if isinstance(root, exp.Query | exp.Values | exp.Table):
        outputs = queries.outputs(root, None)
        if not outputs.known and any(o.flow.touches for o in outputs):
            record.obstacle(
                "the result has columns that are not known beforehand",
                "Name the columns instead of *.",
                None,
                frozenset().union(*(o.flow.touches for o in outputs)),
            )
        return (outputs if outputs.known else None), Action.SELECT
    if isinstance(root, exp.Create) and isinstance(root.expression, exp.Query):
        outputs = queries.outputs(root.expression, Scope())
        if str(root.kind).upper() == "VIEW" and not root.find(exp.MaterializedProperty):
            queries.expressions.visit(*root.this.find_all(exp.Identifier))
        else:
            queries.stored_elsewhere(outputs, root.this)
        return None, Action.DDL
    raise ParseError("the statement is of a kind that is not analysed")


def _account(tree: Tree, record: Record, suspects: frozenset[str]) -> None:
    """Refuse what the walk has not seen: a token that could name something protected and that nothing accounted for."""
    tokens = tree.lexed.tokens
    suspects |= record.names
    record.visited |= tree.normal.accounted
    for index in range(tree.first, tree.last + 1):
        token = tokens[index]
        if token.kind not in (Kind.WORD, Kind.QUOTED) or token.value not in suspects or index in record.visited:
            continue
        if _is_no_reference(tree, index):
            continue
        record.obstacle(
            f'the analysis could not account for "{token.value}"',
            "Write the statement in a plainer form.",
            index,
            frozenset(),
            Reason.UNPARSED,
        )


def _is_no_reference(tree: Tree, index: int) -> bool:
    """Whether a name can't mean a column or a relation where it stands."""
    tokens = tree.lexed.tokens
    token = tokens[index]
    before = tokens[index - 1].value if index > tree.first else ""
    if token.kind is Kind.WORD and token.value in RESERVED:
        return before != "."  # a keyword; it names a column behind a dot only
    if index < tree.last and (tokens[index + 1].value == "(" or tokens[index + 1].kind is Kind.STRING):
        return True  # a function's name, or the type of a typed constant
    if before in {"::", "as"}:
        return True  # a type's name, or a label
    function = tokens[index - 2].value if before == "(" and index - 1 > tree.first else ""
    return token.kind is Kind.WORD and (function, token.value) in _FIELDS
