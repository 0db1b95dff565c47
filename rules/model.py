"""The rules as frozen values: levels, columns, roles, masks and verdicts.

`rules.load` makes these from YAML; everything else reads them. Identifiers are kept in PostgreSQL's canonical form (case-folded
when they were not quoted, truncated to 63 bytes), so they compare equal to what `pg_class` and `pg_attribute` hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Level(StrEnum):
    """The policy's three levels of customer information (policy art. 3.1)."""

    CORE = "core"
    IMPORTANT = "important"
    GENERAL = "general"


class Protection(StrEnum):
    """How a column is kept: sealed (ciphertext in the database), masked (plain there, masked by role), or neither."""

    NONE = "none"
    SEALED = "sealed"
    MASKED = "masked"


class SealMode(StrEnum):
    """RFC 5297 without a nonce (equal values seal equal) or with one."""

    DETERMINISTIC = "deterministic"
    RANDOMIZED = "randomized"


class Verdict(StrEnum):
    """What a role gets of a column."""

    CLEAR = "clear"
    MASKED = "masked"
    REFUSED = "refused"

    @property
    def strictness(self) -> int:
        """0 for clear, 1 for masked, 2 for refused."""
        return ("clear", "masked", "refused").index(self.value)


class OnDamage(StrEnum):
    """What a value that does not open gives: a failed statement, or the column's placeholder."""

    FAIL = "fail"
    PLACEHOLDER = "placeholder"


class TableName(NamedTuple):
    """A relation's canonical name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class ColumnName(NamedTuple):
    """A column's canonical name; the key of every per-column mapping."""

    schema: str
    table: str
    column: str

    @property
    def relation(self) -> TableName:
        """The table that the column belongs to."""
        return TableName(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """A mask's kind and parameters as the rules name them; `keys.mask` gives it meaning. `params` is sorted by name."""

    kind: str
    params: tuple[tuple[str, str | int | bool | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One classified column.

    `type` is the logical type as clients see it ("varchar(19)", "numeric(12,2)", "date", "text[]"); always present for sealed columns.
    `domain` is the key domain's name, by default the column's own full name. `derived`: no rules file names it, the database makes it of others
    (`rules.derived`).
    """

    name: ColumnName
    level: Level
    protection: Protection = Protection.NONE
    mode: SealMode | None = None
    type: str | None = None
    domain: str | None = None
    mask: MaskSpec | None = None
    on_damage: OnDamage = OnDamage.FAIL
    placeholder: str | None = None
    derived: bool = False

    @property
    def key_domain(self) -> str:
        """The key domain whose keys seal the column: `domain`, or its own full name."""
        return self.domain or str(self.name)

    @property
    def protected(self) -> bool:
        """Whether any verdict but clear can mean something for the column."""
        return self.protection is not Protection.NONE


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the rules: its classified columns by name, and the column that tells whose row it is."""

    name: TableName
    columns: Mapping[str, Column]
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """A post. A login holds it by being listed or by membership (direct or not) in one of `member_of`.

    The verdict on a column is `columns[column]` where given, else `levels[level]`, else the column's strictest. `lookups`: columns that it
    sees masked and may search by their real value all the same; `writes`: those that it does not see clear and may change all the same; together
    at most `lookups_per_minute` values a minute and login (None: as many as it likes). `mixed_domains`: key domains of which it is meant to see
    some columns clear and others not (`rules.mixed`).
    """

    name: str
    logins: frozenset[str] = frozenset()
    member_of: frozenset[str] = frozenset()
    levels: Mapping[Level, Verdict] = field(default_factory=dict)
    columns: Mapping[ColumnName, Verdict] = field(default_factory=dict)
    lookups: frozenset[ColumnName] = frozenset()
    lookups_per_minute: int | None = None
    writes: frozenset[ColumnName] = frozenset()
    mixed_domains: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PolicyClass:
    """A distinct set of verdicts. Logins of one class share plans and masking views.

    `id` is 12 hex digits of a digest over the verdicts, so it names the same set wherever it is computed. `lookups`: masked columns that may be
    searched by their real value. `shown`: a digest like `id` of what its masking views show and its look-up functions find, masks included: what
    is made for other rules has another name, so both can stand side by side (ADR 0029). `writes`: columns that are not clear and may be changed (ADR 0027).
    """

    id: str
    verdicts: Mapping[ColumnName, Verdict]
    lookups: frozenset[ColumnName] = frozenset()
    writes: frozenset[ColumnName] = frozenset()
    shown: str = ""

    @property
    def schema(self) -> str:
        """The schema of this class's masking views."""
        return f"pgveil_{self.shown or self.id}"

    def verdict(self, column: ColumnName) -> Verdict:
        """The verdict on a protected column; refused for one the class does not know."""
        return self.verdicts.get(column, Verdict.REFUSED)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the authenticated login, the rules' roles that it holds (sorted), and the class these make.

    `exposed`: some column is not clear to it and no privilege keeps it from that (an owner, a superuser), so the server's own texts may hold
    values that it may not see. `lookups_per_minute`: the least that its roles allow, None where none of them has a limit.
    """

    login: str
    roles: tuple[str, ...]
    policy: PolicyClass
    exposed: bool = False
    lookups_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """A rules file, loaded. `version` is 16 hex digits of the digest of the canonical file content."""

    version: str
    tables: Mapping[TableName, Table]
    roles: Mapping[str, Role]

    def column(self, name: ColumnName) -> Column | None:
        """The classified column of that name, if the rules have it."""
        table = self.tables.get(name.relation)
        return None if table is None else table.columns.get(name.column)

    def is_masked(self, name: ColumnName) -> bool:
        """Whether the rules have a column of that name as one that is kept plain and shown masked."""
        column = self.column(name)
        return column is not None and column.protection is Protection.MASKED

    def protected_columns(self) -> tuple[Column, ...]:
        """Every sealed or masked column, sorted by name."""
        found = [c for t in self.tables.values() for c in t.columns.values() if c.protected]
        return tuple(sorted(found, key=lambda c: c.name))

    def protected_tables(self) -> frozenset[TableName]:
        """Tables with at least one protected column."""
        return frozenset(c.name.relation for c in self.protected_columns())

    def role_verdict(self, role: Role, column: Column) -> Verdict:
        """What `role` alone gets of `column`."""
        own = role.columns.get(column.name)
        if own is not None:
            return own
        level = role.levels.get(column.level)
        return self.strictest(column) if level is None else _no_mask_no_look(level, column)

    def strictest(self, column: Column) -> Verdict:
        """What a login that no role names gets: the strictest verdict any role has on it, never clear."""
        given = [Verdict.MASKED]
        for role in self.roles.values():
            own = role.columns.get(column.name, role.levels.get(column.level))
            if own is not None:
                given.append(own)
        return _no_mask_no_look(max(given, key=lambda v: v.strictness), column)

    def roles_of(self, login: str, memberships: Iterable[str]) -> tuple[Role, ...]:
        """The roles of a login, given every database role that it is a member of (directly or not), sorted by name."""
        held = frozenset(memberships) | {login}
        return tuple(
            sorted(
                (r for r in self.roles.values() if login in r.logins or not r.member_of.isdisjoint(held)),
                key=lambda r: r.name,
            )
        )

    def principal(self, login: str, memberships: Iterable[str]) -> Principal:
        """Who `login` is. With several roles the strictest verdict holds, column by column."""
        roles = self.roles_of(login, memberships)
        verdicts: dict[ColumnName, Verdict] = {}
        for column in self.protected_columns():
            if roles:
                each = [self.role_verdict(r, column) for r in roles]
                verdicts[column.name] = max(each, key=lambda v: v.strictness)
            else:
                verdicts[column.name] = self.strictest(column)
        lookups = frozenset(
            name
            for name, verdict in verdicts.items()
            if verdict is Verdict.MASKED and roles and all(self._may_look_up(r, name) for r in roles)
        )
        writes = frozenset(
            name
            for name, verdict in verdicts.items()
            if verdict is not Verdict.CLEAR and roles and all(self._may_write(r, name) for r in roles)
        )
        limits = [r.lookups_per_minute for r in roles if r.lookups_per_minute is not None]
        # What the database derives of the rules' columns follows from these, and comes and goes with its DDL.
        named = tuple(c for c in self.protected_columns() if not c.derived)
        shown = views_id(named, verdicts, lookups)
        policy = PolicyClass(class_id(verdicts, lookups, writes), verdicts, lookups, writes, shown)
        counted = bool((lookups or writes) and limits)
        return Principal(
            login, tuple(r.name for r in roles), policy, lookups_per_minute=min(limits) if counted else None
        )

    def _may_write(self, role: Role, name: ColumnName) -> bool:
        """Whether one of several roles is no obstacle to changing a column."""
        column = self.column(name)
        assert column is not None
        return name in role.writes or self.role_verdict(role, column) is Verdict.CLEAR

    def _may_look_up(self, role: Role, name: ColumnName) -> bool:
        """Whether one of several roles is no obstacle to finding rows by a column's real value."""
        column = self.column(name)
        assert column is not None
        return name in role.lookups or self.role_verdict(role, column) is Verdict.CLEAR


def _no_mask_no_look(verdict: Verdict, column: Column) -> Verdict:
    """A masked verdict on a column without a mask is a refusal: there is nothing that could be shown."""
    return Verdict.REFUSED if verdict is Verdict.MASKED and column.mask is None else verdict


def class_id(
    verdicts: Mapping[ColumnName, Verdict], lookups: Iterable[ColumnName] = (), writes: Iterable[ColumnName] = ()
) -> str:
    """12 hex digits that name a set of verdicts, look-ups and columns that may be changed."""
    return _named(
        [
            *(f"{c}={v}" for c, v in sorted(verdicts.items())),
            *(f"{c}=?" for c in sorted(lookups)),
            *(f"{c}=!" for c in sorted(writes)),
        ]
    )


def views_id(
    columns: Iterable[Column], verdicts: Mapping[ColumnName, Verdict], lookups: Iterable[ColumnName] = ()
) -> str:
    """12 hex digits that name what masking views show under these verdicts. Sealed columns are in them as they are stored."""
    masked = [c for c in columns if c.protection is Protection.MASKED and verdicts[c.name] is not Verdict.CLEAR]
    masks = {c.name: c.mask if verdicts[c.name] is Verdict.MASKED else None for c in masked}
    return _named(
        [
            *(f"{name}={'' if mask is None else (mask.kind, mask.params)}" for name, mask in sorted(masks.items())),
            *(f"{c}=?" for c in sorted(lookups)),
        ]
    )


def _named(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def view_name(table: TableName) -> str:
    """The masking view's name inside a class's schema: the table's own in `public`, else `schema.table`.

    Longer than an identifier may be (63 bytes) it is cut and a digest keeps it unique.
    """
    plain = table.name if table.schema == "public" else f"{table.schema}.{table.name}"
    raw = plain.encode()
    if len(raw) <= 63:
        return plain
    return raw[:50].decode(errors="ignore") + "_" + hashlib.sha256(raw).hexdigest()[:12]


def quote_ident(name: str) -> str:
    """An identifier as SQL text, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    """A string constant as SQL text, right whatever standard_conforming_strings is."""
    body = value.replace("'", "''")
    return "E'" + body.replace("\\", "\\\\") + "'" if "\\" in body else "'" + body + "'"
