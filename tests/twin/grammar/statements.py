"""Queries and writing statements, composed from tables and expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.twin.grammar.expressions import ANY, DEPTH, PLAIN, Expressions
from tests.twin.grammar.tables import ALIASES, JOINS, KEYS, TABLES, WRITTEN, Column, Item, Kind, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Columns = list[Column]
_SORTED: Final = (*PLAIN, Kind.UUID)  # what every ORDER BY can do the same way
_PARAMETER: Final = re.compile(r"\$([0-9]+)")
_NUMBERED: Final = (Kind.INT, Kind.NUM)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its parameters in text form. `writes`: it is an INSERT, UPDATE or DELETE."""

    sql: str
    params: tuple[str | None, ...]
    writes: bool


def compose(pick: Callable[[Sequence[Any]], Any]) -> Statement:
    """One statement."""
    composer = Composer(pick)
    writes = composer.chance(5)
    sql = composer.write() if writes else composer.statement()
    # What was composed and not chosen has left its parameters behind.
    used = sorted({int(n) for n in _PARAMETER.findall(sql)})
    sql = _PARAMETER.sub(lambda found: f"${used.index(int(found[1])) + 1}", sql)
    return Statement(sql, tuple(composer.params[n - 1] for n in used), writes)


class Composer(Expressions):
    """Composes one statement."""

    def statement(self) -> str:
        """A query."""
        if self.chance(30):
            return f"table {self.pick(tuple(TABLES))}"
        return self.query(None, 0)[0]

    # -- queries

    def query(self, outer: Level | None, depth: int, kinds: Sequence[Kind] = ()) -> tuple[str, Columns]:
        """A query's text and its columns. `kinds`: what its columns have to be."""
        level = Level(outer)
        prefix = self.with_clause(level, depth) if depth < DEPTH - 1 and self.chance(6) else ""
        if depth < DEPTH and self.chance(9):
            text, columns = self.union(level, depth, kinds)
        else:
            text, columns = self.select(level, depth, kinds)
        return prefix + text, columns

    def with_clause(self, level: Level, depth: int) -> str:
        """One or two common table expressions."""
        parts = []
        recursive = self.chance(5)
        if recursive:
            parts.append("r(n) as (values (1) union all select n + 1 from r where n < 4)")
            level.ctes["r"] = [Column("n", Kind.INT)]
        for name in self.pick((("q",), ("q",), ("q", "cards"), ("customers",))):
            text, columns = self.query(Level(level.outer, ctes=dict(level.ctes)), depth + 1)
            named = self.renamed(columns)
            listed = ", ".join(c.name for c in named)
            parts.append(f"{name} ({listed}) as {self.pick(('', 'materialized ', 'not materialized '))}({text})")
            level.ctes[name] = named
        return f"with {'recursive ' if recursive else ''}{', '.join(parts)} "

    def renamed(self, columns: Columns) -> Columns:
        """The columns under names of their own."""
        first = self.pick(("c", "pan_", "k"))
        return [Column(f"{first}{i}", c.kind) for i, c in enumerate(columns)]

    def union(self, level: Level, depth: int, kinds: Sequence[Kind]) -> tuple[str, Columns]:
        """A set operation, its columns cast, so that both arms agree."""
        wanted = tuple(kinds) or tuple(self.pick(_SORTED) for _ in range(self.pick((1, 1, 2, 3))))
        word = self.pick(("union all", "union", "union", "except", "intersect", "except all"))
        arms = [self.simple(Level(level, ctes=level.ctes), depth + 1, wanted, cast=True) for _ in range(2)]
        if depth == 0 and self.chance(2):
            arms[1] = f"{arms[1]} order by {_places(len(wanted))}{self.limit()}"
            return f"{arms[0]} {word} {arms[1]}", [Column(f"c{i}", k) for i, k in enumerate(wanted)]
        return f"({arms[0]}) {word} ({arms[1]})", [Column(f"c{i}", k) for i, k in enumerate(wanted)]

    def simple(self, level: Level, depth: int, kinds: Sequence[Kind], *, cast: bool = False) -> str:
        """A SELECT with columns c0, c1... of the given kinds."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        values = [self.value(level, k, 1) for k in kinds]
        shown = ", ".join(
            f"{f'({v})::{k}' if cast else v} as c{i}" for i, (k, v) in enumerate(zip(kinds, values, strict=True))
        )
        return f"select {shown}{source}{where}"

    def select(self, level: Level, depth: int, kinds: Sequence[Kind]) -> tuple[str, Columns]:
        """A SELECT in one of its shapes."""
        if kinds:
            return self.simple(level, depth, kinds), [Column(f"c{i}", k) for i, k in enumerate(kinds)]
        shape = self.pick(
            (self.plain, self.plain, self.plain, self.grouped, self.windowed, self.starred, self.distinct)
        )
        text, columns = shape(level, depth)
        return str(text), list(columns)

    def where(self, level: Level, depth: int) -> str:
        """A WHERE clause, often none."""
        if not self.chance(2):
            return ""
        condition = self.condition(level, 1)
        if depth < DEPTH - 1 and self.chance(3):
            condition = f"{condition} {self.pick(('and', 'or'))} {self.subquery_test(level, depth)}"
        return f" where {condition}"

    def subquery_test(self, level: Level, depth: int) -> str:
        """A condition with a subquery."""
        kind = self.kind_of(level, PLAIN)
        inner = self.simple(Level(level), depth + 1, (kind,))
        left = self.leaf(level, kind)
        return str(
            self.pick(
                (
                    f"exists ({inner})",
                    f"not exists ({inner})",
                    f"{left} in ({inner})",
                    f"{left} not in ({inner})",
                    f"{left} = any ({inner})",
                    f"{left} >= all ({inner})",
                    f"{left} = ({inner} order by 1 limit 1)",
                )
            )
        )

    def output(self, level: Level, depth: int, kind: Kind) -> str:
        """A value, sometimes of a subquery."""
        if depth < DEPTH - 1 and self.chance(9):
            inner = Level(level)
            source = self.from_clause(inner, depth + 1)
            return f"(select {self.aggregate(inner, kind)}{source}{self.where(inner, depth + 1)})"
        return self.value(level, kind)

    def plain(self, level: Level, depth: int) -> tuple[str, Columns]:
        """Values of rows."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        kinds = [self.kind_of(level, ANY) if self.chance(2) else self.kind() for _ in range(self.pick((1, 2, 2, 3)))]
        shown = []
        columns = []
        for i, kind in enumerate(kinds):
            text = self.output(level, depth, kind)
            name = f"c{i}"
            shown.append(f"{text} {self.pick(('as ', ''))}{name}")
            columns.append(Column(name, kind))
        if depth == 0 and self.chance(8):
            shown.append(self.row_of(level.items))
        return f"select {', '.join(shown)}{source}{where}{self.ordered(shown, kinds, depth)}", columns

    def distinct(self, level: Level, depth: int) -> tuple[str, Columns]:
        """DISTINCT, or DISTINCT ON."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        kinds = [self.kind_of(level, _SORTED) for _ in range(self.pick((1, 2, 3)))]
        shown = [f"{self.value(level, k, 1)} as c{i}" for i, k in enumerate(kinds)]
        columns = [Column(f"c{i}", k) for i, k in enumerate(kinds)]
        if self.chance(2):
            order = _places(len(kinds))
            return f"select distinct on (c0) {', '.join(shown)}{source}{where} order by {order}".replace(
                "on (c0)", f"on ({shown[0].rpartition(' as ')[0]})"
            ), columns
        return f"select distinct {', '.join(shown)}{source}{where}{self.ordered(shown, kinds, depth)}", columns

    def starred(self, level: Level, depth: int) -> tuple[str, Columns]:
        """Everything."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        if self.chance(2) or level.merged:
            item = self.pick(level.items)
            return f"select {item.name}.*{source}{where}", list(item.columns)
        return f"select *{source}{where}", [c for item in level.items for c in item.columns]

    def grouped(self, level: Level, depth: int) -> tuple[str, Columns]:
        """GROUP BY, grouping sets, HAVING; or aggregates alone."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        kinds = [self.kind_of(level, _SORTED) for _ in range(self.pick((0, 1, 1, 2)))]
        keys = [self.leaf(level, k) if self.chance(2) else self.value(level, k, 2) for k in kinds]
        columns = [Column(f"g{i}", k) for i, k in enumerate(kinds)]
        shown = [f"{key} as g{i}" for i, key in enumerate(keys)]
        for i in range(self.pick((1, 1, 2))):
            kind = self.kind_of(level, (*PLAIN, Kind.JSON))
            shown.append(f"{self.aggregate(level, kind)} as x{i}")
            columns.append(Column(f"x{i}", kind))
        group = f" group by {self.grouping(keys)}" if keys else ""
        having = f" having {self.aggregate(level, Kind.INT)} {self.pick(('>', '<=', '<>'))} 1" if self.chance(4) else ""
        order = self.ordered(shown, [c.kind for c in columns], depth)
        return f"select {', '.join(shown)}{source}{where}{group}{having}{order}", columns

    def grouping(self, keys: Sequence[str]) -> str:
        """What stands behind GROUP BY: places or names, since an expression twice with parameters is two."""
        places = [str(i + 1) for i in range(len(keys))]
        if any("$" in key for key in keys) or not self.chance(3):
            return ", ".join(places)
        if len(keys) > 1 and keys[0] != keys[1]:
            sets = (
                f"rollup ({', '.join(keys)})",
                f"cube ({', '.join(keys)})",
                f"grouping sets (({keys[0]}), ({keys[1]}), ())",
            )
            return str(self.pick(sets))
        return (
            str(self.pick((f"rollup ({keys[0]})", f"grouping sets (({keys[0]}), ())"))) if len(keys) == 1 else places[0]
        )

    def aggregate(self, level: Level, kind: Kind) -> str:
        """An aggregate of a kind, of this level's own columns: one of a level around would belong there."""
        level = Level(items=level.items, merged=level.merged)
        inner = self.kind_of(level, PLAIN)
        of = self.leaf(level, inner)
        text = self.leaf(level, Kind.TEXT)
        number = self.leaf(level, self.kind_of(level, _NUMBERED))
        own = self.leaf(level, kind)
        condition = self.condition(level, DEPTH)
        table: dict[Kind, tuple[str, ...]] = {
            Kind.INT: (
                "count(*)",
                f"count({of})",
                f"count(distinct {of})",
                f"count(*) filter (where {condition})",
                f"max({self.value(level, Kind.INT, 2)})",
                f"sum(length({text}))",
            ),
            Kind.NUM: (f"sum({number})", f"avg({number})", f"sum(distinct {number})", f"max({own})"),
            Kind.TEXT: (
                f"min({text})",
                f"max(upper({text}))",
                f"string_agg({text}, ',' order by {text})",
                f"string_agg(distinct {text}, ';')",
                f"(array_agg({text} order by {text}))[1]",
                f"array_to_string(array_agg({of}::text order by {of}), '+')",
                f"percentile_disc(0.5) within group (order by {text})",
            ),
            Kind.BOOL: (f"bool_and({condition})", f"every({own})"),
            Kind.JSON: (f"jsonb_agg({of} order by {of})", f"to_jsonb(array_agg({text} order by {text} desc))"),
            Kind.DATE: (f"min({own})", f"max({own})"),
            Kind.TIME: (f"min({own})", f"max({own})"),
            Kind.FLOAT: (f"min({own})", f"max({own})"),
        }
        return str(self.pick(table.get(kind, (f"(array_agg({own} order by {own}))[1]",))))

    def windowed(self, level: Level, depth: int) -> tuple[str, Columns]:
        """Window functions whose answers don't depend on the order of peers."""
        source = self.from_clause(level, depth)
        where = self.where(level, depth)
        by = self.leaf(level, self.kind_of(level, _SORTED))
        over = self.leaf(level, self.kind_of(level, _SORTED))
        named = self.chance(3)
        part = f"partition by {by} " if self.chance(2) else ""
        frame = f"{part}order by {over}{self.pick(('', ' desc', ' nulls first'))}"
        window = "w" if named else f"({frame})"
        of = self.leaf(level, self.kind_of(level, _NUMBERED))
        text = self.leaf(level, Kind.TEXT)
        function = self.pick(
            (
                ("rank()", Kind.INT),
                ("dense_rank()", Kind.INT),
                ("count(*)", Kind.INT),
                (f"sum({of})", Kind.OTHER),
                (f"max({text})", Kind.TEXT),
                (f"min({of})", Kind.OTHER),
                (f"count({text}) filter (where {self.condition(level, DEPTH)})", Kind.INT),
                ("ntile(1)", Kind.INT),
                ("cume_dist()", Kind.FLOAT),
            )
        )
        kind = self.kind_of(level, _SORTED)
        shown = f"{self.value(level, kind, 2)} as c0, {function[0]} over {window} as w0"
        clause = f" window w as ({frame})" if named else ""
        return f"select {shown}{source}{where}{clause}", [Column("c0", kind), Column("w0", function[1])]

    def ordered(self, shown: Sequence[str], kinds: Sequence[Kind], depth: int) -> str:
        """An ORDER BY on all outputs, so that ties are equal rows, perhaps with a limit; often none."""
        if depth > 1 or len(shown) != len(kinds) or not self.chance(2):
            return ""
        if any(k not in {*_SORTED, Kind.JSON, Kind.BYTES, Kind.FLOAT} for k in kinds):
            return ""
        places = list(range(1, len(shown) + 1))
        if self.chance(3):
            places.reverse()
        suffix = self.pick(("", "", " desc", " nulls first", " desc nulls last"))
        return f" order by {', '.join(f'{p}{suffix}' for p in places)}{self.limit()}"

    def limit(self) -> str:
        """What may stand behind a full order."""
        return str(
            self.pick(
                (
                    "",
                    "",
                    " limit 3",
                    " limit 2 offset 1",
                    " offset 2",
                    " fetch first 2 rows only",
                    " fetch first row with ties",
                )
            )
        )

    # -- FROM

    def from_clause(self, level: Level, depth: int) -> str:
        """FROM with one to three items."""
        parts = [self.item(level, depth)]
        parts += [self.join(level, depth) for _ in range(self.pick((0, 0, 0, 1, 1, 2)))]
        return " from " + "".join(parts)

    def join(self, level: Level, depth: int) -> str:
        """A join with one more item."""
        kind = self.pick(
            (
                ", ",
                " join ",
                " join ",
                " left join ",
                " right join ",
                " full join ",
                " cross join ",
                " natural left join ",
            )
        )
        before = list(level.items)
        item = self.item(level, depth, lateral=kind in {", ", " join ", " left join ", " cross join "})
        new = level.items[-1]
        left = {c.name: c.kind for each in before for c in each.columns}
        shared = [c.name for c in new.columns if left.get(c.name) is c.kind]
        counts = [sum(c.name == name for i in before for c in i.columns) for name in shared]
        if kind == " natural left join ":
            if any(count > 1 for count in counts) or any(
                c.name in left and left[c.name] is not c.kind for c in new.columns
            ):
                return f" cross join {item}"
            level.merged |= set(shared)
            return f"{kind}{item}"
        if kind in {", ", " cross join "}:
            return f"{kind}{item}"
        single = [name for name, count in zip(shared, counts, strict=True) if count == 1 and name not in level.merged]
        if single and self.chance(3):
            name = self.pick(single)
            level.merged.add(name)
            return f"{kind}{item} using ({name})"
        return f"{kind}{item} on {self.on(level, before, new, full=kind == ' full join ')}"

    def on(self, level: Level, before: Sequence[Item], new: Item, *, full: bool) -> str:
        """A join condition: mostly of columns that belong together. FULL JOIN takes only those that can be merged or hashed."""
        pairs = [
            f"{old.name}.{c.name} = {new.name}.{d.name}"
            for old in before
            for c in old.columns
            for d in new.columns
            if c.kind is d.kind and ((c.name, d.name) in JOINS or (d.name, c.name) in JOINS)
        ]
        if not pairs:
            same = [
                f"{old.name}.{c.name} = {new.name}.{d.name}"
                for old in before
                for c in old.columns
                for d in new.columns
                if c.kind is d.kind and c.kind in PLAIN
            ]
            if not same:
                return "true"
            pairs = same
        condition = str(self.pick(pairs))
        if not full and self.chance(4):
            condition += f" and {self.condition(level, DEPTH)}"
        return condition

    def item(self, level: Level, depth: int, *, lateral: bool = False) -> str:
        """One item of FROM: a table, a view, a CTE, a subquery, VALUES or a function."""
        if depth < DEPTH - 1 and self.chance(7):
            use = lateral and bool(level.items) and self.chance(2)
            text, columns = self.query(level if use else level_around(level), depth + 1)
            return f"{'lateral ' if use else ''}({text}) as {self.enter(level, self.renamed(columns))}"
        if self.chance(16):
            kinds = (Kind.INT, Kind.TEXT)
            rows = ", ".join(f"({', '.join(self.constant(k) for k in kinds)})" for _ in range(2))
            return f"(values {rows}) as {self.enter(level, [Column('k0', Kind.INT), Column('k1', Kind.TEXT)])}"
        if self.chance(24):
            return f"generate_series(1, 3) as {self.enter(level, [Column('n', Kind.INT)])}"
        ctes = level.all_ctes()
        name = str(self.pick((*ctes, *ctes, *TABLES, "customers", "cards", "accounts", "profiles", "payments")))
        columns = ctes.get(name) or list(TABLES[name])
        own = name.rpartition(".")[2]
        if name not in ctes and "." not in name and self.chance(5):
            name = f"public.{name}"
        if self.chance(2) or own in {i.name for i in level.items}:
            alias = self.alias(level)
            level.items.append(Item(alias, columns, table=True))
            return f"{name} {self.pick(('as ', ''))}{alias}"
        level.items.append(Item(own, columns, table=True))
        return name

    def enter(self, level: Level, columns: Columns) -> str:
        """An alias with a list of columns, which the level knows from now on."""
        alias = self.alias(level)
        level.items.append(Item(alias, columns))
        return f"{alias}({', '.join(c.name for c in columns)})"

    def alias(self, level: Level) -> str:
        """An alias that the level has not got yet, nor one of its columns."""
        used = {item.name for item in level.items} | {c.name for item in level.items for c in item.columns}
        return str(self.pick([a for a in ALIASES if a not in used] or [f"t{len(level.items)}"]))

    # -- writing

    def write(self) -> str:
        """An INSERT, UPDATE or DELETE."""
        return str(self.pick((self.insert, self.insert, self.update, self.update, self.delete))())

    def insert(self) -> str:
        """INSERT with VALUES or a query."""
        table = str(self.pick(tuple(WRITTEN)))
        kinds = {c.name: c.kind for c in TABLES[table]}
        names = [n for n in WRITTEN[table] if n in _NEEDED or not self.chance(3)]
        if self.chance(3):
            level = Level()
            source = self.from_clause(level, 1)
            values = [self.new(table, n, kinds[n]) if n in _FIXED else self.assigned(level, n, kinds[n]) for n in names]
            body = f"select {', '.join(values)}{source} where {self.condition(level, DEPTH)} order by {_places(len(values))} limit 1"
        else:
            rows = [
                ", ".join(self.new(table, n, kinds[n], i) if n in _FIXED else self.given(kinds[n]) for n in names)
                for i in range(self.pick((1, 1, 2)))
            ]
            body = f"values {', '.join(f'({r})' for r in rows)}"
        conflict = self.conflict(table, names)
        return f"insert into {table} ({', '.join(names)}) {body}{conflict}{self.returning(table)}"

    def conflict(self, table: str, names: Sequence[str]) -> str:
        """ON CONFLICT; mostly none."""
        if not self.chance(4):
            return ""
        if table not in KEYS or self.chance(2):
            return " on conflict do nothing"
        name = self.pick([n for n in names if n != "id"] or ["id"])
        return f" on conflict (id) do update set {name} = excluded.{name}"

    def new(self, table: str, name: str, kind: Kind, row: int = 0) -> str:
        """A key that is free, or a reference that holds."""
        fixed = _FIXED[name]
        if name == "id" or (table == "profiles" and name == "customer_id"):
            return str(self.pick((900 + row, 901 + row, 21))) if name == "id" else "4"
        return str(self.pick(fixed))

    def given(self, kind: Kind) -> str:
        """A value for a column: a literal, a parameter, NULL, DEFAULT or an expression of constants."""
        if self.chance(10):
            return str(self.pick(("null", "default")))
        if self.chance(4) and kind in {Kind.TEXT, Kind.INT, Kind.NUM}:
            return self.value(Level(), kind, 2)
        return self.comparable(kind) if kind is not Kind.OTHER else "null"

    def assigned(self, level: Level, name: str, kind: Kind) -> str:
        """An expression for a column: often the same column of another table."""
        same = [f"{i.name}.{c.name}" for i in level.items for c in i.columns if c.name == name and c.kind is kind]
        if same and self.chance(2):
            return str(self.pick(same))
        return self.value(level, kind, 2)

    def update(self) -> str:
        """UPDATE, with FROM sometimes."""
        table = str(self.pick(tuple(WRITTEN)))
        level = Level(items=[Item(table, list(TABLES[table]), table=True)])
        kinds = {c.name: c.kind for c in TABLES[table]}
        names = [n for n in WRITTEN[table] if n not in {"id", "customer_id", "day"}]
        chosen = dict.fromkeys(self.pick(names) for _ in range(self.pick((1, 1, 2))))
        source = ""
        condition = self.condition(level, 1)
        if self.chance(4):
            # By the other's key, so that no row is updated by either of two.
            other = self.pick([t for t in KEYS if t != table])
            item = Item("o", [c for c in TABLES[other] if c.name == KEYS[other]])
            source = f" from {other} as o"
            condition = f"{self.on(level, level.items, item, full=True)} and ({condition})"
        sets = []
        for name in chosen:
            value = self.given(kinds[name]) if not self.chance(3) else self.assigned(level, name, kinds[name])
            sets.append(f"{name} = {value}")
        return f"update {table} set {', '.join(sets)}{source} where {condition}{self.returning(table)}"

    def delete(self) -> str:
        """DELETE, with USING sometimes."""
        table = str(self.pick(("payments", "profiles", "orders", "visits", "people", "archive", "cards")))
        level = Level(items=[Item(table, list(TABLES[table]), table=True)])
        condition = self.condition(level, 1)
        if self.chance(3):
            condition = f"{condition} and {self.subquery_test(level, 1)}"
        return f"delete from {table} where {condition}{self.returning(table)}"

    def returning(self, table: str) -> str:
        """RETURNING; often none."""
        if not self.chance(2):
            return ""
        level = Level(items=[Item(table, list(TABLES[table]), table=True)])
        if self.chance(3):
            return " returning *"
        return f" returning {self.value(level, self.kind_of(level, PLAIN), 1)}"


# Columns that an INSERT has to give, and those whose values have to fit other tables.
_NEEDED: Final = frozenset(
    {"id", "customer_id", "product_id", "pan", "number", "name", "amount", "unit_price", "day", "account_id"}
)
_FIXED: Final[dict[str, tuple[str, ...]]] = {
    "id": ("900",),
    "customer_id": ("4", "1"),
    "account_id": ("11", "null"),
    "product_id": ("31", "32"),
    "day": ("'2026-05-05'",),
    "kind": ("'gift'", "'debit'"),
    "quantity": ("1", "2"),
    "amount": ("1.25", "7"),
    "unit_price": ("4.50",),
}


def level_around(level: Level) -> Level:
    """What a subquery of FROM sees that is not lateral."""
    return Level(level.outer, ctes=level.ctes)


def _places(count: int) -> str:
    return ", ".join(str(i + 1) for i in range(count))
