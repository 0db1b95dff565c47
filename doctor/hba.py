"""pg_hba.conf as the server has read it, and who may come from where by it (PostgreSQL documentation, chapter 21.1)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.config import Network

EVERYWHERE: Final[tuple[Network, ...]] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True, slots=True)
class HbaLine:
    """One line. `place`: file and line; `networks`: None where its address is a name, whose addresses nobody can know."""

    place: str
    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str | None
    networks: tuple[Network, ...] | None
    method: str
    options: tuple[str, ...] = ()
    error: str | None = None

    @property
    def remote(self) -> bool:
        """Whether it is about TCP."""
        return self.type.startswith("host")

    @property
    def only_loopback(self) -> bool:
        """Whether only processes of the server's own machine match."""
        return not self.remote or (
            self.networks is not None and all(any(_inside(n, wide) for wide in LOOPBACK) for n in self.networks)
        )

    @property
    def text(self) -> str:
        """The line, as one would write it."""
        parts = [self.type, ",".join(self.databases), ",".join(self.users), self.address or "", self.method]
        return " ".join(p for p in (*parts, *self.options) if p)

    @property
    def lets_in(self) -> bool:
        """Whether anybody logs in by it."""
        return self.error is None and self.method != "reject"

    def is_for(self, login: str, memberships: frozenset[str], database: str) -> bool:
        """Whether a login that connects to a database meets it. Patterns that we can't be sure of count as met."""
        return any(_user(word, login, memberships) for word in self.users) and any(
            _database(word, login, memberships, database) for word in self.databases
        )


def networks_of(address: str | None, netmask: str | None) -> tuple[Network, ...] | None:
    """An address as the view shows it. None for a host name, and for words that stand for the server's own networks."""
    if address is None or address == "all":
        return EVERYWHERE
    try:
        text = f"{address}/{_prefix(netmask)}" if netmask else address
        return (ipaddress.ip_network(text, strict=False),)
    except ValueError:
        return None


def _prefix(netmask: str) -> int:
    return int(ipaddress.ip_address(netmask)).bit_count()


def remaining(line: HbaLine, taken: Iterable[Network]) -> tuple[Network, ...] | None:
    """The addresses of a line without those that are taken already; None: a name, so that it can't be said."""
    if line.networks is None:
        return None
    left: list[Network] = list(line.networks)
    for network in taken:
        left = [part for each in left for part in _without(each, network)]
    return tuple(left)


def ways_past(
    lines: Iterable[HbaLine],
    login: str,
    memberships: frozenset[str],
    database: str,
    own: Iterable[Network],
) -> Iterator[HbaLine]:
    """Lines that let a login in from a machine that is neither pgveil's nor the server's itself. The first line that matches decides."""
    taken: list[Network] = [*own, *LOOPBACK]
    for line in lines:
        if not line.remote or line.error is not None or not line.is_for(login, memberships, database):
            continue
        left = remaining(line, taken)
        if line.lets_in and (left is None or left):
            yield line
        # A line for one kind of connection only (hostssl) leaves the other to those below.
        if line.type == "host" and line.networks is not None:
            taken.extend(line.networks)


def _without(network: Network, other: Network) -> tuple[Network, ...]:
    if network.version != other.version or not network.overlaps(other):
        return (network,)
    if _inside(network, other):
        return ()
    return tuple(network.address_exclude(other))  # type: ignore[arg-type]


def _inside(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]


def _user(word: str, login: str, memberships: frozenset[str]) -> bool:
    if word == "all":
        return True
    if word.startswith("+"):
        return word[1:] == login or word[1:] in memberships
    return _matches(word, login)


def _database(word: str, login: str, memberships: frozenset[str], database: str) -> bool:
    if word == "all":
        return True
    if word == "sameuser":
        return login == database
    if word in {"samerole", "samegroup"}:
        return database == login or database in memberships
    if word == "replication":
        return False
    return _matches(word, database)


def _matches(word: str, name: str) -> bool:
    """A name, or since PostgreSQL 16 a regular expression behind a slash; one that Python reads otherwise is taken to match."""
    if not word.startswith("/"):
        return word == name
    try:
        return re.search(word[1:], name) is not None
    except re.error:
        return True
