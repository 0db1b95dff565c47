"""SELECTs over the twins' schema, composed at random: names reused and shadowed at every level, aliases, joins, subqueries, set operations.

`Composer` takes the function that chooses, so Hypothesis can drive it, and so can `random`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TABLES: Final = {
    "customers": ("id", "name", "phone", "id_number", "notes"),
    "cards": ("id", "customer_id", "pan", "cvv", "credit", "kind"),
    "payments": ("id", "pan", "amount"),
    "orders": ("id", "customer_id", "item"),
    "visits": ("id", "guest", "day"),
    "vips": ("id", "name", "level"),
    "people": ("id", "home", "tags", "nick", "secret"),
    "crm.customers": ("id", "name", "phone"),
    "crm.orders": ("id", "pan"),
    "v_cards": ("id", "pan"),
    "v_over": ("p", "id"),
    "v_notes": ("id", "notes"),
}
SEALED: Final = frozenset({"pan", "cvv", "credit", "id_number", "secret"})
NUMBERS: Final = frozenset({"id", "customer_id", "day", "level", "amount", "n"})
# Few names for many things, so that they meet.
ALIASES: Final = ("a", "b", "customers", "cards", "pan", "phone", "id", '"Q"', "x")
NAMES: Final = ("a", "pan", "phone", "id", "name", "n", "kind", "x")
CONSTANTS: Final = ("'4111'", "'4333'", "'A***'", "'M11'", "'tea'", "null", "'id-1001'", "'100'", "'s-1'")
_DEPTH: Final = 3


@dataclass
class Item:
    """What FROM knows by a name: its columns, each with the name of the column that it comes from, as far as the composer knows."""

    name: str
    columns: list[tuple[str, str]]


@dataclass
class Level:
    """A query level: its items, and the level around."""

    outer: Level | None = None
    items: list[Item] = field(default_factory=list)
    ctes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def all_ctes(self) -> dict[str, list[tuple[str, str]]]:
        """The CTEs in sight."""
        return (self.outer.all_ctes() if self.outer is not None else {}) | self.ctes


class Composer:
    """Composes one statement; `pick` chooses one of several."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any]) -> None:
        self.pick = pick

    def chance(self, of: int) -> bool:
        """True once in `of` times."""
        return bool(self.pick(range(of)) == 0)

    def statement(self) -> str:
        """A query, perhaps with CTEs."""
        text, _ = self.query(None, 0)
        return text

    # -- queries

    def query(self, outer: Level | None, depth: int, width: int | None = None) -> tuple[str, list[tuple[str, str]]]:
        """A query's text and its columns (name, origin). `width`: how many columns it must have."""
        level = Level(outer)
        prefix = self.with_clause(level, depth) if depth < _DEPTH - 1 and self.chance(4) else ""
        if depth < _DEPTH and self.chance(8):
            text, columns = self.union(level, depth, width)
        else:
            text, columns = self.select(level, depth, width)
        return prefix + text, columns

    def with_clause(self, level: Level, depth: int) -> str:
        parts = []
        for _ in range(self.pick((1, 1, 2))):
            name = self.pick(("q", "customers", "cards", "a", "r"))
            if name in level.ctes:
                continue
            text, columns = self.query(level, depth + 1)
            renamed, columns = self.renamed(columns)
            parts.append(f"{name}{renamed} as {self.pick(('', 'materialized ', 'not materialized '))}({text})")
            level.ctes[name] = columns
        return f"with {self.pick(('', '', 'recursive '))}{', '.join(parts)} "

    def renamed(self, columns: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        """A list of column aliases, shorter than or as long as the columns; often none."""
        if not columns or not self.chance(3):
            return "", columns
        width = self.pick(range(1, len(columns) + 1))
        first = self.pick(range(len(NAMES)))
        names = [NAMES[(first + i) % len(NAMES)] for i in range(width)]
        kept = [(names[i] if i < len(names) else name, origin) for i, (name, origin) in enumerate(columns)]
        return f"({', '.join(names)})", kept

    def union(self, level: Level, depth: int, width: int | None) -> tuple[str, list[tuple[str, str]]]:
        kind = self.pick(("union all", "union all", "union", "except", "intersect"))
        left, columns = self.select(Level(level), depth + 1, width)
        right, _ = self.select(Level(level), depth + 1, len(columns))
        return f"({left}) {kind} ({right})", columns

    def select(self, level: Level, depth: int, width: int | None) -> tuple[str, list[tuple[str, str]]]:
        source = self.from_clause(level, depth)
        where = f" where {self.condition(level, depth)}" if self.chance(2) else ""
        columns: list[tuple[str, str]] = []
        shown = []
        if width is None and self.chance(4):
            shown.append("*")
            columns = [c for item in level.items for c in item.columns]
        for _ in range(width or self.pick((1, 1, 2, 3))):
            text, name, origin = self.output(level, depth)
            shown.append(text)
            columns.append((name, origin))
        grouped = ""
        if width is None and shown[0] != "*" and self.chance(6):
            grouped = f" group by {', '.join(str(i + 1) for i in range(len(shown)))}"
        ordered = f" order by {self.order(level, columns)}" if self.chance(5) else ""
        distinct = "distinct " if self.chance(8) else ""
        return f"select {distinct}{', '.join(shown)}{source}{where}{grouped}{ordered}", columns

    def order(self, level: Level, columns: list[tuple[str, str]]) -> str:
        return str(self.pick((self.column(level)[0], "1", (self.pick(columns)[0] if columns else "") or "1")))

    # -- FROM

    def from_clause(self, level: Level, depth: int) -> str:
        parts = [self.item(level, depth)]
        parts += [self.join(level, depth) for _ in range(self.pick((0, 0, 1, 1, 2)))]
        return " from " + "".join(parts)

    def join(self, level: Level, depth: int) -> str:
        kind = self.pick(
            (", ", " join ", " left join ", " right join ", " full join ", " cross join ", " natural join ")
        )
        item = self.item(level, depth)
        if kind in {", ", " cross join ", " natural join "}:
            return f"{kind}{item}"
        left = {name for each in level.items[:-1] for name, _ in each.columns}
        common = [name for name, _ in level.items[-1].columns if name in left]
        if common and self.chance(2):
            return f"{kind}{item} using ({self.pick(common)})"
        return f"{kind}{item} on {self.condition(level, depth)}"

    def item(self, level: Level, depth: int) -> str:
        if depth < _DEPTH and self.chance(5):
            text, columns = self.query(level, depth + 1)
            lateral = self.pick(("", "lateral ")) if level.items else ""
            alias = self.alias(level)
            renamed, columns = self.renamed(columns)
            level.items.append(Item(alias, columns))
            return f"{lateral}({text}) {self.pick(('as ', ''))}{alias}{renamed}"
        if depth < _DEPTH and self.chance(12):
            return self.parenthesised(level, depth)
        ctes = level.all_ctes()
        table = self.pick((*TABLES, *("customers", "cards"), *ctes, *ctes))
        columns = ctes.get(table) or [(c, c) for c in TABLES.get(table, ())]
        shown = (
            table if table in ctes or "." in table or table.startswith("v_") or self.chance(2) else f"public.{table}"
        )
        if self.chance(2) or table.rpartition(".")[2] in {item.name for item in level.items}:
            alias = self.alias(level)
            renamed, columns = self.renamed(columns)
            level.items.append(Item(alias, columns))
            return f"{shown} {self.pick(('as ', ''))}{alias}{renamed}"
        level.items.append(Item(table.rpartition(".")[2], columns))
        return shown

    def alias(self, level: Level) -> str:
        """An alias that the level has not got yet, mostly."""
        used = {item.name for item in level.items}
        free = [alias for alias in ALIASES if alias not in used]
        return str(self.pick(ALIASES if not free or self.chance(40) else free))

    def parenthesised(self, level: Level, depth: int) -> str:
        inner = Level(level.outer, ctes=level.ctes)
        text = self.item(inner, depth + 1) + self.join(inner, depth + 1)
        if self.chance(2):
            level.items += inner.items
            return f"({text})"
        alias = self.alias(level)
        columns = [c for item in inner.items for c in item.columns]
        renamed, columns = self.renamed(columns)
        level.items.append(Item(alias, columns))
        return f"({text}) as {alias}{renamed}"

    # -- expressions

    def column(self, level: Level) -> tuple[str, str]:
        """A column's reference and its origin; sometimes one of a level around, sometimes one that may not be there."""
        seen = level
        while seen.outer is not None and seen.outer.items and (not seen.items or self.chance(6)):
            seen = seen.outer
        if not seen.items or self.chance(60):
            return str(self.pick(NAMES)), ""
        item = self.pick(seen.items)
        if not item.columns:
            return str(self.pick(NAMES)), ""
        name, origin = self.pick(item.columns)
        alone = sum(n == name for i in seen.items for n, _ in i.columns) == 1
        return (name if self.chance(2 if alone else 20) else f"{item.name}.{name}"), origin

    def output(self, level: Level, depth: int) -> tuple[str, str, str]:
        """An item of a select list: its text, its name, its origin."""
        text, origin = self.column(level)
        name = text.rpartition(".")[2]
        if self.chance(3):
            text, origin, name = self.value(level, depth), "", ""
        if not name or self.chance(3):
            name = self.pick(NAMES)
            return f"{text} {self.pick(('as ', ''))}{name}", name, origin
        return text, name, origin

    def value(self, level: Level, depth: int) -> str:
        """An expression, mostly of columns that the database may work on."""
        text, origin = self.column(level)
        item = self.pick(level.items).name if level.items else "x"
        if depth < _DEPTH and self.chance(4):
            inner, _ = self.query(level, depth + 1, 1)
            return f"({inner}{self.pick(('', ' limit 1'))})"
        if origin in SEALED:
            return str(
                self.pick(
                    (
                        text,
                        f"({text})",
                        f"{text} = {self.pick(CONSTANTS)}",
                        f"{text} is null",
                        f"count({text})",
                        f"count({text}) over ()",
                        f"case when {text} = '4111' then 1 end",
                        f"({item}).id",
                    )
                )
            )
        return str(
            self.pick(
                (
                    f"upper({text}::text)",
                    f"coalesce({text}::text, 'none')",
                    f"({item}).id",
                    f"length({text}::text) + 1",
                    f"{text} || 'x'",
                    f"case when {self.condition(level, _DEPTH)} then {text} end",
                    f"max({text}) over ()",
                    f"row_number() over (order by {text})",
                    f"to_json({text})",
                    f"array[{text}]",
                    f"row({text}, 1)",
                    f"{item}",
                    f"count({item}.*) over ()",
                    f"min({text})",
                    self.pick(CONSTANTS),
                    "1",
                )
            )
        )

    def condition(self, level: Level, depth: int) -> str:
        """A condition without parentheses where PostgreSQL's precedence makes do, so that it is tested too."""
        if depth < _DEPTH and self.chance(6):
            inner, _ = self.query(level, depth + 1, 1)
            text, _origin = self.column(level)
            return str(
                self.pick(
                    (f"exists ({inner})", f"{text} in ({inner})", f"{text} = any ({inner})", f"{text} not in ({inner})")
                )
            )
        if self.chance(4):
            return (
                f"{self.condition(level, _DEPTH)} {self.pick(('and', 'or', 'and not'))} {self.condition(level, _DEPTH)}"
            )
        text, origin = self.column(level)
        if origin in SEALED:
            constant = self.pick(CONSTANTS)
            other, theirs = self.column(level)
            return str(
                self.pick(
                    (
                        f"{text} = {constant}",
                        f"{constant} = {text}",
                        f"{text} <> {constant}",
                        f"not {text} = {constant}",
                        f"{text} in ({constant}, '4333')",
                        f"{text} not in ('4222')",
                        f"{text} is not distinct from {constant}",
                        f"{text} = any ('{{4111,4333}}')",
                        f"{text} = any (array[{constant}])",
                        f"{text} is not null",
                        f"{text} is null = false",
                        f"{text} = {constant} is true",
                        f"({text}, 1) = ({constant}, 1)",
                        f"{text} = {other}" if theirs == origin else f"{text} is null",
                    )
                )
            )
        return str(
            self.pick(
                (
                    f"{text}::text like '%a%'",
                    f"{text}::text = {self.pick(CONSTANTS)}",
                    f"{text} is not null",
                    f"{text}::text > '2'",
                    f"{text}::text in ('1', '2', 'tea')",
                    f"length({text}::text) between 1 and 5",
                    f"{text}::text || 'x' <> 'yx'",
                    f"{text} = {self.column(level)[0]}",
                    f"{text} is distinct from {self.column(level)[0]}",
                    "true",
                )
            )
        )
