"""Rules and keys in force: read together, held against each other, and replaced together or not at all."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from keys.lookup import LOOKUP_DOMAIN
from keys.providers.file import MASTER_FILE, FileMasterKey, KeyFileError
from keys.ring import KeyRing, RingError
from proxy.errors import ConfigError
from proxy.session.values import ValueCodec
from rules.difference import lost_keys
from rules.load import RulesError, load_rules
from rules.model import SealMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keys.providers import MasterKey
    from rules.model import Rules
    from rules.record import Record

PSEUDONYM_DOMAIN = "pgveil:pseudonym"


class InForce:
    """One worker's. `codec`, made by `begin`, seals and opens with the keys in force, whichever they are. Raises ConfigError."""

    def __init__(self, rules: Path, keys: Path, key_used: Callable[[str], None]) -> None:
        self._keys = keys
        self._log = structlog.get_logger("guard")
        self._prepared = 0
        self._refresh_wanted = False
        self.rules = _read_rules(rules)
        with _key_troubles(keys):
            self._ring = KeyRing.open(keys, _master_key(keys), on_use=key_used)
        _one_key_each(self.rules, self._ring)
        self.codec: ValueCodec

    def begin(self) -> None:
        """Make the codec. A key's first use is told, so whoever is told must be there."""
        self.codec = ValueCodec(
            self._ring,
            random=secrets.token_bytes,
            pseudonym_key=_key_of(self._ring, PSEUDONYM_DOMAIN),
            lookup_key=_key_of(self._ring, LOOKUP_DOMAIN),
            clock=time.time,
        )

    def prepare(self, rules: Path, *, every_key: bool = False) -> tuple[Rules, Callable[[], None]]:
        """Rules and keys as the files have them now, and what puts them in force. Raises ConfigError; nothing has changed then.

        `every_key`: refuse rules that seal a column for which there has never been a key. One of the two follows: that call, or `forget`. Until then the keys are not read again for any other reason.
        """
        fresh = _read_rules(rules)
        with _key_troubles(self._keys):
            ring = self._ring.successor(_master_key(self._keys))
        _one_key_each(fresh, ring)
        if every_key:
            _a_key_each(fresh, ring)
        # Asked now: the record of a key's first use can fail, and what is prepared must not.
        pseudonym_key, lookup_key = _key_of(ring, PSEUDONYM_DOMAIN), _key_of(ring, LOOKUP_DOMAIN)
        self._prepared += 1

        def commit() -> None:
            self.rules = fresh
            self._ring.adopt(ring)
            self.codec.rekey(pseudonym_key=pseudonym_key, lookup_key=lookup_key)
            self.forget()

        return fresh, commit

    def forget(self) -> None:
        """What was prepared is in force, or will not be."""
        self._prepared -= 1
        if self._refresh_wanted and not self._prepared:
            self._refresh_wanted = False
            self.refresh()

    def marks(self) -> Mapping[str, frozenset[str]]:
        """What tells the keys in force from others: `keys.ring.KeyRing.marks`."""
        return self._ring.marks()

    def refresh(self, record: Record | None = None) -> None:
        """Whoever has just applied the rules has made keys that were not there before: take them up, if they are all right.

        `record`: what is applied in a database whose catalog has changed.
        """
        if self._prepared:
            self._refresh_wanted = True
            return
        marks = self._ring.marks()
        sealed = {c.key_domain for c in self.rules.protected_columns() if c.mode is not None}
        recorded = () if record is None else record.columns
        if sealed <= self._ring.domains() and not any(
            lost_keys(c.keys, marks.get(c.domain, frozenset())) for c in recorded
        ):
            return
        try:
            with _key_troubles(self._keys):
                ring = self._ring.successor(_master_key(self._keys))
            _one_key_each(self.rules, ring)
        except ConfigError:
            self._log.exception("keys.not_refreshed")
            return
        self._ring.adopt(ring)
        self.codec.rekey(
            pseudonym_key=_key_of(self._ring, PSEUDONYM_DOMAIN), lookup_key=_key_of(self._ring, LOOKUP_DOMAIN)
        )


@contextmanager
def _key_troubles(directory: Path) -> Iterator[None]:
    """What is wrong with a key directory, as a ConfigError."""
    try:
        yield
    except (RingError, KeyFileError, OSError) as error:
        raise ConfigError(
            f"the keys can't be used: {error}\nMake a key directory with: pgveil keys init {directory}"
        ) from error


def _master_key(directory: Path) -> MasterKey:
    return FileMasterKey.load(directory / MASTER_FILE)


def _read_rules(path: Path) -> Rules:
    try:
        return load_rules(path)
    except RulesError as error:
        raise ConfigError(f"the rules can't be used:\n{error}") from error


def _key_of(ring: KeyRing, domain: str) -> bytes | None:
    return ring.newest(domain).material if domain in ring.domains() else None


def _one_key_each(rules: Rules, ring: KeyRing) -> None:
    """Refuse where equal values could be sealed differently: comparisons would miss rows. Raises ConfigError."""
    live = Counter(entry.domain for entry in ring.entries() if entry.live)
    for column in rules.protected_columns():
        if column.mode is SealMode.DETERMINISTIC and live[column.key_domain] > 1:
            raise ConfigError(
                f"the key domain of {column.name} has several live keys, and comparisons under more than one are not supported yet: "
                "seal the column under its newest key, and destroy the older ones"
            )


def _a_key_each(rules: Rules, ring: KeyRing) -> None:
    """Refuse rules that nobody has applied yet: what is in force can be served, and they can't. Raises ConfigError."""
    known = {entry.domain for entry in ring.entries()}
    for column in rules.protected_columns():
        domain = column.key_domain
        if column.mode is not None and domain not in known:
            raise ConfigError(
                f"the key ring has no key for {column.name} (key domain {domain}): these rules are not applied yet\n"
                "Apply them, which makes the key, and reload: pgveil apply --reload"
            )


def differences(before: Rules, after: Rules) -> tuple[str, ...]:
    """Names of the columns and roles that are not the same in both."""
    names: set[str] = set()
    for one, other in ((before, after), (after, before)):
        names |= {str(c.name) for c in one.protected_columns() if other.column(c.name) != c}
        names |= {name for name, role in one.roles.items() if other.roles.get(name) != role}
    return tuple(sorted(names))
