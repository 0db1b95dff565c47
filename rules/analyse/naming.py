"""How PostgreSQL names output columns, and what a select list's items are."""

from __future__ import annotations

from sqlglot import exp

# Functions that have one name only, to PostgreSQL and to sqlglot.
_NAMED_FUNCTIONS = (exp.Count, exp.Max, exp.Min, exp.Sum, exp.Avg, exp.Coalesce, exp.Upper, exp.Lower, exp.RowNumber)
# What PostgreSQL has no name for.
_NAMELESS = (exp.Literal, exp.Null, exp.Binary, exp.Unary, exp.In, exp.Between, exp.Tuple)
_NO_NAME = "?column?"


def starred(item: exp.Expr) -> exp.Column | exp.Dot | None:
    """What stands before the `.*` of an item of a select list; None for any other item."""
    while isinstance(item, exp.Paren):
        item = item.this
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        return item
    return item if isinstance(item, exp.Dot) and isinstance(item.expression, exp.Star) else None


def is_reference(node: exp.Expr) -> bool:
    """Whether an output is a column as it is, of which the server tells the origin."""
    while isinstance(node, exp.Alias | exp.Paren):
        node = node.this
    if isinstance(node, exp.Dot):
        return not isinstance(node.expression, exp.Func)
    return isinstance(node, exp.Column)


def output_name(node: exp.Expr) -> str | None:
    """The name that PostgreSQL gives an output column, as far as it is a name (FigureColname)."""
    if isinstance(node, exp.Alias):
        return str(node.alias)
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Column):
        return node.name
    if isinstance(node, exp.Dot):
        return str(node.expression.name)
    if isinstance(node, exp.Cast):
        # A constant gets the name of its type.
        name = output_name(node.this)
        return None if name == _NO_NAME else name
    if isinstance(node, exp.Collate | exp.Bracket):
        return output_name(node.this)
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select) and len(node.this.expressions) == 1:
        return output_name(node.this.expressions[0])
    if isinstance(node, exp.Window | exp.Filter):
        return output_name(node.this)
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower()
    if isinstance(node, _NAMED_FUNCTIONS):
        return str(node.sql_name()).lower()
    return _NO_NAME if isinstance(node, _NAMELESS) and not isinstance(node, exp.Func) else None


def function_name(node: exp.Expr) -> str | None:
    """The name of a function in FROM that has no alias."""
    inner = node.this
    if isinstance(inner, exp.Anonymous):
        return str(inner.this).lower()
    return str(inner.sql_name()).lower() if isinstance(inner, exp.Func) else None
