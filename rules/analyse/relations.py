"""Tables and views by name: the entry that each makes, and what is noted of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from rules.analyse.facts import ColumnUse, Pair
from rules.analyse.record import Reference, TableUse
from rules.analyse.scope import NOTHING, Entry, Flow, Named, Scope, renamed

if TYPE_CHECKING:
    from rules.analyse.expressions import Expressions
    from rules.analyse.record import Record, ViewLineage
    from rules.catalog import Relation
    from rules.model import ColumnName


class Relations:
    """Resolves relations for the other walkers."""

    def __init__(self, record: Record, expressions: Expressions) -> None:
        self.record = record
        self.expressions = expressions

    def relation(self, node: exp.Table, scope: Scope, *, target: bool = False) -> Entry:
        """A table, view or CTE by name."""
        identifiers = [
            node.args[key] for key in ("catalog", "db", "this") if isinstance(node.args.get(key), exp.Identifier)
        ]
        alias = node.args.get("alias")
        self.expressions.visit(*identifiers)
        if alias:
            self.expressions.visit(alias.this, *alias.columns)
        name, schema = node.name, node.db or None
        shown = alias.name if alias and alias.name else name
        if schema is None and not target:
            cte = scope.cte(name)
            if cte is not None:
                self.record.cte_references += [
                    t for i in identifiers if (t := self.record.tree.token_of(i)) is not None
                ]
                return Entry(shown, renamed(cte.columns, alias), opaque=cte.opaque)
        relation = self.record.database.resolve(schema, name, self.record.search_path)
        use = self._table_use(relation, node, identifiers, shown)
        lineage = None if relation is None else self.record.database.lineage_of(relation)
        if relation is None:
            entry = Entry(shown, renamed([], alias), opaque=True)
        elif lineage is not None:
            entry = self._view(shown, relation, lineage, alias, node)
        else:
            entry = self._table(shown, relation, node, identifiers, target=target)
        entry.table = use
        return entry

    def _table_use(
        self, relation: Relation | None, node: exp.Table, identifiers: list[exp.Identifier], shown: str
    ) -> int | None:
        """Note where a relation is named."""
        first, last = self.record.tree.token_of(identifiers[0]), self.record.tree.token_of(identifiers[-1])
        if first is None or last is None:
            return None
        alias = node.args.get("alias")
        sampled = node.args.get("sample") or any(isinstance(c, exp.TableSample) for c in node.iter_expressions())
        plain, renamed = not (sampled or node.args.get("only")), bool(alias and alias.columns)
        self.record.tables.append(TableUse(relation, first, last, shown, alias is not None, plain, renamed))
        return len(self.record.tables) - 1

    def _view(
        self, shown: str, relation: Relation, lineage: ViewLineage, alias: exp.TableAlias | None, node: exp.Table
    ) -> Entry:
        self.record.spend(len(lineage.uses) + len(lineage.pairs) + len(lineage.united))
        self.record.views |= lineage.inside
        token = self.record.tree.token_of(node.this)
        assert token is not None
        # As if the definition stood here.
        self.record.uses += [ColumnUse(u.column, u.use, token, None) for u in lineage.uses]
        self.record.pairs += [Pair(p.left, p.right, token) for p in lineage.pairs]
        self.record.united += [Pair(p.left, p.right, token) for p in lineage.united]
        if not lineage.known:
            self.record.obstacle(
                f'the view "{relation.name}" reads protected columns in a form that is not analysed',
                "Query the tables that it reads.",
                self.record.tree.token_of(node.this),
                lineage.inside,
            )
        columns = [
            Named(c.name, Flow(o.column, o.touches, direct=True))
            for c, o in zip(relation.columns, lineage.columns, strict=False)
        ] or [Named(c.name, NOTHING) for c in relation.columns]
        return Entry(shown, renamed(columns, alias), relation.name)

    def _table(
        self, shown: str, relation: Relation, node: exp.Table, identifiers: list[exp.Identifier], *, target: bool
    ) -> Entry:
        protected = self.record.database.columns_of(relation)
        alias = node.args.get("alias")
        reference: int | None = None
        if protected and not target:
            first, last = self.record.tree.token_of(identifiers[0]), self.record.tree.token_of(identifiers[-1])
            assert first is not None
            assert last is not None
            made = Reference(relation.name, first, last, alias is not None, self.record.database.replaceable(relation))
            if node.args.get("sample") or any(isinstance(c, exp.TableSample) for c in node.iter_expressions()):
                made.obstacle = "a masking view can't be sampled"
            if node.args.get("only") and relation.children:
                made.obstacle = "a masking view includes the rows of child tables"
            if not made.replaceable:
                made.obstacle = "masking views are made for the table that the rules name, not for its partitions"
            reference = len(self.record.references)
            self.record.references.append(made)
        columns = [
            Named(c.name, _own(protected[c.name], reference) if c.name in protected else NOTHING)
            for c in relation.columns
        ]
        return Entry(shown, renamed(columns, alias), relation.name, reference, target=target)


def _own(column: ColumnName, reference: int | None) -> Flow:
    return Flow(column, frozenset({column}), reference, direct=True)
