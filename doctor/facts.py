"""Everything that the checks look at, read beforehand: they judge, and touch nothing."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from doctor.model import NotChecked
from rules.model import Protection, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from doctor.hba import HbaLine
    from doctor.host import Host
    from doctor.live import Live
    from doctor.network import Wire
    from keys.ring import KeyRing
    from lifecycle.apply.copies import Kept
    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import ApplyPlan
    from lifecycle.apply.privileges import People
    from proxy.config import Config, Network
    from rules.model import ColumnName, Rules
    from rules.problems import Problem
    from rules.protect import ProtectionMap

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that could not be read: why, and what would help."""

    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Some stored values of a sealed column, as counts: looked at, opened, without a key, damaged, not sealed at all.

    `repeated`: of all values of a randomized column, texts that stand in more than one row; None where they were not counted.
    """

    column: str
    looked: int
    opened: int
    no_key: int
    damaged: int
    plain: int
    repeated: int | None = None


class OwnSetting(NamedTuple):
    """A setting of a role or a database (ALTER ROLE / DATABASE ... SET): whose it is, in words and as SQL."""

    whose: str
    alter: str
    name: str
    value: str


class DefaultGrant(NamedTuple):
    """New tables that `owner` makes (in `schema`; None: in any) are open to `grantee` ("": PUBLIC)."""

    owner: str
    grantee: str
    schema: str | None


class ChainProblem(NamedTuple):
    """Something wrong in the audit log: where, and what."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Role:
    """A role's attributes (pg_roles). `bootstrap`: the superuser that initdb made."""

    name: str
    can_login: bool
    superuser: bool
    create_role: bool
    replication: bool
    bypass_rls: bool
    bootstrap: bool


@dataclass(frozen=True, slots=True)
class Open:
    """Something that the server lets a login use, itself or as a role that it is a member of. `sql`: the object's name as SQL has it."""

    login: str
    through: str
    object: str
    sql: str
    column: str = ""
    privilege: str = "SELECT"


@dataclass(frozen=True, slots=True)
class Published:
    """A table in a publication, with the columns that it sends."""

    publication: str
    schema: str
    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Database:
    """One database and its server, read in one transaction."""

    name: str
    user: str
    superuser: bool
    version: int
    encoding: str
    our_address: str | None
    clock_ahead: float
    started: str
    state: State
    roles: Mapping[str, Role]
    settings: Mapping[str, str]
    own_settings: tuple[OwnSetting, ...]
    extensions: Mapping[str, str]
    default_grants: tuple[DefaultGrant, ...]
    publications: tuple[Published, ...]
    subscribed: tuple[tuple[str, str], ...]  # subscription, table
    slots: tuple[str, ...]
    foreign: tuple[Open, ...]
    triggers: tuple[tuple[str, str], ...]  # table, trigger
    hba: tuple[HbaLine, ...] | Missing
    md5_logins: tuple[str, ...] | Missing
    plan: ApplyPlan | Missing
    open_columns: tuple[Open, ...] = ()
    open_objects: tuple[Open, ...] = ()
    statistics: tuple[Kept, ...] = ()
    samples: tuple[Sample, ...] | Missing = ()
    server_rights: tuple[Open, ...] = ()  # `object`: of the server's own; `sql`: the privilege
    parameter_grants: tuple[tuple[str, str, str], ...] = ()  # login, through whom ("": PUBLIC), parameter
    open_schemas: frozenset[str] = frozenset()  # in which anyone may create
    readable: Mapping[int, frozenset[str]] = field(default_factory=dict)  # by table, logins that may read any column


@dataclass(frozen=True)
class Facts:
    """What is known. A part that could not be read says so when a check asks for it."""

    config: Config
    now: datetime
    url: str
    rules_problems: tuple[Problem, ...]
    rules_or: Rules | Missing
    ring_or: KeyRing | Missing
    database_or: Database | Missing
    host: Host
    wire: Wire
    live: Live
    catalog_login: str | None
    catalog_url: str | None = field(repr=False)
    own_version: str
    addresses: tuple[Network, ...] = ()
    agreement: tuple[Problem, ...] | Missing = ()
    audit_problems: tuple[ChainProblem, ...] | Missing = ()

    @property
    def rules(self) -> Rules:
        """The rules, as they hold in the database where that is known. Raises NotChecked."""
        from rules.derived import with_derived  # noqa: PLC0415

        rules = known(self.rules_or)
        return rules if isinstance(self.database_or, Missing) else with_derived(rules, self.database_or.state.catalog)

    @property
    def ring(self) -> KeyRing:
        """The key ring. Raises NotChecked."""
        return known(self.ring_or)

    @property
    def database(self) -> Database:
        """The database. Raises NotChecked."""
        return known(self.database_or)

    @cached_property
    def people(self) -> People:
        """Every login as it is under the rules. Raises NotChecked."""
        from lifecycle.apply.privileges import people_of  # noqa: PLC0415

        return people_of(self.database.state, self.rules)

    @cached_property
    def protection(self) -> ProtectionMap:
        """The rules over this database. Raises NotChecked."""
        from rules.protect import ProtectionMap  # noqa: PLC0415

        return ProtectionMap(self.rules, self.database.state.catalog, unknown=False)

    @cached_property
    def masked(self) -> tuple[ColumnName, ...]:
        """The masked columns of the rules. Raises NotChecked."""
        return tuple(c.name for c in self.rules.protected_columns() if c.protection is Protection.MASKED)

    @property
    def unreached(self) -> bool:
        """Whether there was no database to look at."""
        return isinstance(self.database_or, Missing)

    @property
    def addresses_apart(self) -> bool:
        """Whether pgveil comes to the server over a network, so that the server's own machine is another one."""
        return bool(self.addresses) and not all(a.is_loopback for a in self.addresses)

    @property
    def server_remote(self) -> bool:
        """Whether the configuration leads to another machine."""
        return any(not is_local(h.host) for h in self.config.server.hosts)

    def limited(self) -> Mapping[str, frozenset[ColumnName]]:
        """Logins that do not see every masked column clear, with those that they don't. Raises NotChecked."""
        return self._limited

    @cached_property
    def _limited(self) -> Mapping[str, frozenset[ColumnName]]:
        people, masked = self.people, self.masked
        found = {login: people.limited(login, masked) for login in sorted(self.database.state.logins)}
        return {login: columns for login, columns in found.items() if columns}

    def named(self, login: str) -> bool:
        """Whether a role of the rules is this login's: somebody uses it day by day. Raises NotChecked."""
        return bool(self.rules.roles_of(login, self.database.state.catalog.memberships(login)))

    def sees_less(self, login: str) -> bool:
        """Whether any protected column, masked or sealed, is not clear to a login. Raises NotChecked."""
        policy = self.people.principals[login].policy
        return any(v is not Verdict.CLEAR for v in policy.verdicts.values())


def is_local(host: str | None) -> bool:
    """Whether what goes to an address stays on this machine: a loopback address or the directory of a socket."""
    if host is None or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def known(part: T | Missing) -> T:
    """A part that was read. Raises NotChecked where it was not."""
    if isinstance(part, Missing):
        raise NotChecked(part.reason, part.fix)
    return part
