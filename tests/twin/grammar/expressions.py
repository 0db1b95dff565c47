"""Expressions of each kind over what a query level knows. None fails on values that the shop holds, and none depends on chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.twin.grammar.tables import CONSTANTS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.twin.grammar.tables import Item, Level

DEPTH: Final = 3
# What has an order and equality.
PLAIN: Final = (Kind.TEXT, Kind.INT, Kind.NUM, Kind.DATE, Kind.TIME, Kind.BOOL)
ANY: Final = (*PLAIN, Kind.FLOAT, Kind.UUID, Kind.JSON, Kind.BYTES)
_OFTEN: Final = (Kind.TEXT, Kind.TEXT, Kind.TEXT, Kind.INT, Kind.NUM, Kind.DATE, *ANY)


class Expressions:
    """Composes expressions; `pick` chooses one of several. `params`: values for the parameters that were written."""

    def __init__(self, pick: Callable[[Sequence[Any]], Any]) -> None:
        self.pick = pick
        self.params: list[str | None] = []

    def chance(self, of: int) -> bool:
        """True once in `of` times."""
        return bool(self.pick(range(of)) == of - 1)

    def kind(self) -> Kind:
        """A kind, text most often."""
        kind: Kind = self.pick(_OFTEN)
        return kind

    # -- what stands for itself

    def constant(self, kind: Kind) -> str:
        """A literal, sometimes a parameter."""
        value = str(self.pick(CONSTANTS[kind]))
        if self.chance(8):
            self.params.append(value)
            return f"${len(self.params)}::{kind}"
        quoted = "'" + value.replace("'", "''") + "'"
        if kind in {Kind.INT, Kind.NUM, Kind.BOOL}:
            return value if not value.startswith("-") else f"({value})"
        if kind is Kind.TEXT:
            return quoted if not self.chance(10) else f"E{quoted}"
        return str(self.pick((f"{quoted}::{kind}", f"cast({quoted} as {kind})")))

    def comparable(self, kind: Kind) -> str:
        """A literal to compare a column with, whose type the column gives."""
        value = str(self.pick(CONSTANTS[kind]))
        if self.chance(6):
            self.params.append(value)
            return f"${len(self.params)}"
        return "'" + value.replace("'", "''") + "'" if kind not in {Kind.INT, Kind.NUM, Kind.BOOL} else f"({value})"

    def column(self, level: Level, kind: Kind) -> str | None:
        """A column's reference, sometimes of a level around."""
        seen = level
        while seen.outer is not None and seen.outer.items and self.chance(4):
            seen = seen.outer
        found = [(item, c) for item in seen.items for c in item.columns if c.kind is kind]
        if not found:
            return None
        item, column = self.pick(found)
        alone = sum(c.name == column.name for i in seen.items for c in i.columns) == 1
        hidden = seen is not level and any(c.name == column.name for i in level.items for c in i.columns)
        if alone and not hidden and column.name not in {i.name for i in seen.items} and self.chance(2):
            return str(column.name)
        return f"{item.name}.{column.name}"

    def leaf(self, level: Level, kind: Kind) -> str:
        """A column where there is one."""
        return self.column(level, kind) or self.constant(kind)

    # -- values

    def value(self, level: Level, kind: Kind, depth: int = 0) -> str:
        """An expression of a kind."""
        if depth >= DEPTH or not self.chance(2):
            return self.leaf(level, kind)
        common = (
            lambda: f"coalesce({self.value(level, kind, depth + 1)}, {self.constant(kind)})",
            lambda: f"nullif({self.value(level, kind, depth + 1)}, {self.constant(kind)})",
            lambda: self.case(level, kind, depth + 1),
        )
        own = self._own(level, kind, depth + 1)
        return str(self.pick((*own, *own, *common))())

    def case(self, level: Level, kind: Kind, depth: int) -> str:
        """CASE in one of its forms."""
        then = self.value(level, kind, depth)
        if self.chance(2):
            subject = self.kind_of(level, PLAIN)
            of = self.column(level, subject) or self.constant(subject)
            return f"case {of} when {self.comparable(subject)} then {then} else {self.constant(kind)} end"
        return f"case when {self.condition(level, depth)} then {then} else {self.value(level, kind, depth)} end"

    def kind_of(self, level: Level, kinds: Sequence[Kind]) -> Kind:
        """One of the kinds, of which the level has a column if it can be."""
        there = [k for k in kinds if any(c.kind is k for i in level.items for c in i.columns)]
        kind: Kind = self.pick(there or kinds)
        return kind

    def _own(self, level: Level, kind: Kind, depth: int) -> tuple[Callable[[], str], ...]:
        def v(of: Kind = kind) -> str:
            return self.value(level, of, depth)

        table: dict[Kind, tuple[Callable[[], str], ...]] = {
            Kind.TEXT: (
                lambda: f"upper({v()})",
                lambda: f"lower({v()})",
                lambda: f"initcap({v()})",
                lambda: f"{v()} || {v()}",
                lambda: f"({v()} || '-' || {v(Kind.INT)})",
                lambda: f"left({v()}, {self.pick((1, 3, -2))})",
                lambda: f"right({v()}, {self.pick((1, 4))})",
                lambda: f"substr({v()}, {self.pick((1, 2, 5))}, 4)",
                lambda: f"substring({v()} from 2 for 3)",
                lambda: f"substring({v()} from '[0-9]+')",
                lambda: f"trim({v()})",
                lambda: f"trim(both 'A' from {v()})",
                lambda: f"replace({v()}, '0', 'o')",
                lambda: f"translate({v()}, 'aeiou', '12345')",
                lambda: f"overlay({v()} placing '**' from 2 for 3)",
                lambda: f"lpad({v()}, 6, '.')",
                lambda: f"reverse({v()})",
                lambda: f"split_part({v()}, ' ', 1)",
                lambda: f"concat({v()}, '/', {v(self.kind())})",
                lambda: f"concat_ws(',', {v()}, {v()})",
                lambda: f"format('%s|%L', {v()}, {v(Kind.INT)})",
                lambda: f"regexp_replace({v()}, '[0-9]', '#', 'g')",
                lambda: f"md5({v()})",
                lambda: f"greatest({v()}, {v()})",
                lambda: f"least({v()}, {v()})",
                lambda: f"({v(self.kind())})::text",
                lambda: f"cast({v(self.kind())} as varchar(5))",
                lambda: f"to_char({v(Kind.DATE)}, 'YYYY-MM')",
                lambda: f"to_char({v(Kind.NUM)}, 'FM999990.00')",
                lambda: f"({v(Kind.JSON)} ->> 'lang')",
                lambda: f"({v(Kind.JSON)} #>> '{{address,zip}}')",
                lambda: f"encode({v(Kind.BYTES)}, 'hex')",
            ),
            Kind.INT: (
                lambda: f"length({v(Kind.TEXT)})",
                lambda: f"char_length({v(Kind.TEXT)})",
                lambda: f"{v()} + {self.pick((1, 2, 10))}",
                lambda: f"({v()} - 1)",
                lambda: f"abs({v()})",
                lambda: f"{v()} % 7",
                lambda: f"-({v()})",
                lambda: f"extract(year from {v(Kind.DATE)})::int",
                lambda: f"date_part('month', {v(Kind.TIME)})::int",
                lambda: f"position('0' in {v(Kind.TEXT)})",
                lambda: f"strpos({v(Kind.TEXT)}, '1')",
                lambda: f"ascii({v(Kind.TEXT)})",
                lambda: f"({v(Kind.DATE)} - {self.constant(Kind.DATE)})",
                lambda: f"length({v(Kind.BYTES)})",
                lambda: f"coalesce({v()}, 0)",
            ),
            Kind.NUM: (
                lambda: f"round({v()}, 1)",
                lambda: f"{v()} * 1.1",
                lambda: f"{v()} + {v(Kind.INT)}",
                lambda: f"trunc({v()})",
                lambda: f"ceil({v()})",
                lambda: f"-{v()}",
                lambda: f"({v(Kind.INT)})::numeric",
                lambda: f"{v()} / nullif({v()}, 0)",
                lambda: f"greatest({v()}, 0)",
            ),
            Kind.FLOAT: (
                lambda: f"{v()} * 2",
                lambda: f"abs({v()})",
                lambda: f"({v(Kind.INT)})::float8",
                lambda: f"floor({v()})",
            ),
            Kind.DATE: (
                lambda: f"{v()} + 1",
                lambda: f"({v()} - 30)",
                lambda: f"({v()} + interval '1 month')::date",
                lambda: f"date_trunc('month', {v()})::date",
                lambda: f"({v(Kind.TIME)})::date",
                lambda: f"greatest({v()}, {v()})",
            ),
            Kind.TIME: (
                lambda: f"{v()} + interval '1 hour'",
                lambda: f"date_trunc('day', {v()})",
                lambda: f"({v(Kind.DATE)})::timestamptz",
            ),
            Kind.BOOL: (
                lambda: f"({self.condition(level, depth)})",
                lambda: f"not {v()}",
                lambda: f"({v()} and {v()})",
                lambda: f"({v()} is not true)",
            ),
            Kind.UUID: (lambda: f"({v()}::text)::uuid",),
            Kind.JSON: (
                lambda: f"({v()} -> 'address')",
                lambda: f"to_jsonb({v(Kind.TEXT)})",
                lambda: f"jsonb_build_object('a', {v(self.kind())}, 'b', {v(Kind.INT)})",
                lambda: f"jsonb_build_array({v(self.kind())}, {v(Kind.TEXT)})",
            ),
            Kind.BYTES: (lambda: f"({v()} || '\\x01'::bytea)", lambda: f"substring({v()} from 1 for 4)"),
            Kind.TEXTS: (
                lambda: f"array[{v(Kind.TEXT)}, {v(Kind.TEXT)}]",
                lambda: f"string_to_array({v(Kind.TEXT)}, ' ')",
                lambda: f"({v()} || {v(Kind.TEXT)}::text)",
            ),
        }
        return table[kind]

    # -- conditions

    def condition(self, level: Level, depth: int = 0) -> str:
        """A condition; without parentheses where PostgreSQL's precedence makes do."""
        if depth < DEPTH and self.chance(4):
            word = self.pick(("and", "or", "and not"))
            return f"{self.condition(level, depth + 1)} {word} {self.condition(level, depth + 1)}"
        kind = self.kind_of(level, (Kind.TEXT, Kind.TEXT, *PLAIN))
        left = self.leaf(level, kind) if self.chance(2) else self.value(level, kind, depth + 1)
        return str(self.pick(self._tests(level, kind, left, depth))())

    def _tests(self, level: Level, kind: Kind, left: str, depth: int) -> tuple[Callable[[], str], ...]:
        equality: tuple[Callable[[], str], ...] = (
            lambda: f"{left} = {self.comparable(kind)}",
            lambda: f"{self.constant(kind)} = {left}",
            lambda: f"{left} <> {self.comparable(kind)}",
            lambda: f"{left} in ({self.comparable(kind)}, {self.comparable(kind)})",
            lambda: f"{left} not in ({self.comparable(kind)})",
            lambda: f"{left} is distinct from {self.comparable(kind)}",
            lambda: f"{left} is not distinct from {self.constant(kind)}",
            lambda: f"{left} = any (array[{self.constant(kind)}, {self.constant(kind)}])",
            lambda: f"{left} is null",
            lambda: f"{left} is not null",
            lambda: f"({left}, 1) = ({self.constant(kind)}, 1)",
        )
        order: tuple[Callable[[], str], ...] = (
            lambda: f"{left} > {self.comparable(kind)}",
            lambda: f"{left} <= {self.value(level, kind, depth + 1)}",
            lambda: f"{left} between {self.constant(kind)} and {self.constant(kind)}",
        )
        text: tuple[Callable[[], str], ...] = (
            lambda: f"{left} like '%{self.pick('A1e0')}%'",
            lambda: f"{left} ilike 'a%'",
            lambda: f"{left} not like '_9%'",
            lambda: f"{left} ~ '^[0-9]'",
            lambda: f"{left} similar to '%(1|2)'",
            lambda: f"starts_with({left}, '4')",
        )
        more = {
            Kind.TEXT: text,
            Kind.BOOL: (
                lambda: f"({left}) is true",
                lambda: f"not ({left})",
            ),
        }.get(kind, ())
        return (*equality, *order, *more)

    def row_of(self, items: Sequence[Item]) -> str:
        """A use of a whole row."""
        item = self.pick(items)
        return str(
            self.pick(
                (f"to_jsonb({item.name})", f"row_to_json({item.name})::text", f"{item.name}", f"({item.name})::text")
            )
        )
