"""The key hierarchy: data keys per domain and version, wrapped by a master key that its provider holds.

One directory, one file `ring.json` (0600): every key's id, domain, version and time of creation in clear, its material wrapped. A key's wrapping
is bound to all four, so no entry can be passed off as another. The whole is sealed as well (a digest, wrapped), so an entry can't be taken
away, and an id can't be given out twice, by an edit of the file. Putting back an older ring.json whole is seen by the processes that
hold the newer one, and by no other.

Ids are unique in the ring and never used again, so an id in a sealed value names exactly one domain and version.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from keys.durable import LockedError, create, locked, read_bounded, replace
from keys.providers import ProviderError, UnwrapError
from keys.sealed import MATERIAL_SIZE, MAX_KEY_ID, DataKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keys.providers import MasterKey

RING_FILE = "ring.json"
LOCK_FILE = "ring.lock"
MAX_KEYS = 10_000  # a domain for each column of a large database, rotated for years; bounds the time to open a ring
MAX_RING_BYTES = 16 << 20  # 10,000 keys, wrapped by a provider that adds a kilobyte to each
_FORMAT = "pgveil-ring-1"
_SEAL_PURPOSE = b"pgveil-ring-1 seal"
_NAMED = 10  # keys named in one message


class RingError(Exception):
    """A key ring cannot be used. Texts name files, domains and key ids, never key bytes."""


class UnknownDomainError(RingError):
    """The domain has no live key."""

    def __init__(self, domain: str) -> None:
        super().__init__(f"the key ring has no live key for domain {domain!r}")
        self.domain = domain


class UnknownKeyIdError(RingError):
    """The ring has no live key of that id."""

    def __init__(self, key_id: int) -> None:
        super().__init__(f"the key ring has no live key {key_id}")
        self.key_id = key_id


class RingFileError(RingError):
    """The ring's file is absent, unreadable, cut short or not a ring."""


class WrongMasterError(RingError):
    """Nothing in the ring opens with this master key."""


class RingAlteredError(RingError):
    """The ring's content is not what pgveil wrote. `key_ids`: the keys that do not open; empty where keys were added or taken away."""

    def __init__(self, message: str, key_ids: tuple[int, ...]) -> None:
        super().__init__(message)
        self.key_ids = key_ids


class RingBusyError(RingError):
    """Another process is changing the ring, and went on for longer than we wait."""


class RingFullError(RingError):
    """MAX_KEYS or MAX_KEY_ID is reached."""


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key as the file has it. `created`, `destroyed`: RFC 3339, UTC. `wrapped`: None once destroyed."""

    id: int
    domain: str
    version: int
    created: str
    wrapped: bytes | None
    destroyed: str | None = None

    @property
    def live(self) -> bool:
        """Whether the key still opens values."""
        return self.wrapped is not None

    @property
    def label(self) -> str:
        """Names the key to people and to the audit log."""
        return f"{self.domain} version {self.version} (key {self.id})"


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    next_id: int
    keys: tuple[KeyEntry, ...]

    def digest(self) -> bytes:
        return hashlib.sha256(msgspec.json.encode(self)).digest()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ring: _Body
    seal: bytes


@dataclass(frozen=True, slots=True)
class _State:
    """A ring as read: what the file says, and the live keys, unwrapped, by domain and id."""

    body: _Body
    keys: Mapping[str, Mapping[int, DataKey]]

    @classmethod
    def of(cls, body: _Body, keys: Mapping[int, DataKey]) -> _State:
        domains: dict[str, dict[int, DataKey]] = {}
        for key_id, key in keys.items():
            domains.setdefault(key.domain, {})[key_id] = key
        return cls(body, {domain: MappingProxyType(each) for domain, each in domains.items()})

    def by_id(self) -> dict[int, DataKey]:
        return {key_id: key for keys in self.keys.values() for key_id, key in keys.items()}


class KeyRing:
    """The data keys of one directory, unwrapped. Its methods read memory only, but for those that say that they read or write the file.

    `on_use` is told a key's label when this process first takes that key to seal or open something.
    """

    def __init__(
        self,
        path: Path,
        provider: MasterKey,
        state: _State,
        *,
        on_use: Callable[[str], None] | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._path = path
        self._provider = provider
        self._state = state
        self._on_use = on_use
        self._clock = clock
        self._sleep = sleep
        self._used: set[int] = set()

    @classmethod
    def initialise(cls, directory: Path, provider: MasterKey) -> KeyRing:
        """Write an empty ring into an existing directory. Raises RingFileError where it has one."""
        path = directory / RING_FILE
        body = _Body(_FORMAT, 1, ())
        try:
            create(path, _encode(body, provider))
        except FileExistsError:
            raise RingFileError(f"key ring {path} exists already") from None
        except OSError as error:
            raise RingFileError(f"key ring {path} cannot be written: {error.strerror}") from error
        return cls.open(directory, provider)

    @classmethod
    def open(
        cls,
        directory: Path,
        provider: MasterKey,
        *,
        on_use: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> KeyRing:
        """Read a ring and unwrap every live key. Raises RingFileError, WrongMasterError, RingAlteredError, ProviderError."""
        path = directory / RING_FILE
        return cls(path, provider, _load(path, provider, None), on_use=on_use, clock=clock, sleep=sleep)

    def domains(self) -> frozenset[str]:
        """Domains with a live key."""
        return frozenset(self._state.keys)

    def marks(self) -> Mapping[str, frozenset[str]]:
        """The keys that each domain has had, by their marks: id and check value, which tells a key from another of its id, or `ID:destroyed`."""
        found: dict[str, set[str]] = {}
        for entry in self._state.body.keys:
            key = self._state.keys.get(entry.domain, {}).get(entry.id)
            mark = "destroyed" if key is None else _check_value(key)
            found.setdefault(entry.domain, set()).add(f"{entry.id}:{mark}")
        return {domain: frozenset(marks) for domain, marks in found.items()}

    def entries(self) -> tuple[KeyEntry, ...]:
        """Every key that the ring ever had, by id, destroyed ones included."""
        return self._state.body.keys

    def newest(self, domain: str) -> DataKey:
        """The key to seal with: the newest live version. Raises UnknownDomainError."""
        keys = self._state.keys.get(domain)
        if keys is None:
            raise UnknownDomainError(domain)
        key = keys[max(keys)]
        self._tell(key)
        return key

    def keys(self, domain: str) -> Mapping[int, DataKey]:
        """Every live version by key id, to open with. Raises UnknownDomainError."""
        keys = self._state.keys.get(domain)
        if keys is None:
            raise UnknownDomainError(domain)
        return keys if self._on_use is None else _WatchedKeys(keys, self._tell)

    def create(self, domain: str, random: Callable[[int], bytes]) -> DataKey:
        """Add a new version of a domain's key (its first included), durably. Writes the file.

        Raises ValueError for a name that can't be a domain's, RingFullError, RingBusyError, and what `open` raises.
        """
        with self._changing():
            return self._add(domain, random)

    def ensure(self, domain: str, random: Callable[[int], bytes]) -> DataKey:
        """The newest key, made first where there is none. However many processes ask at once, one makes it. Raises as `create` does."""
        if domain not in self._state.keys:
            with self._changing():
                if domain not in self._state.keys:
                    self._add(domain, random)
        return self.newest(domain)

    def destroy(self, key_id: int) -> None:
        """Forget a key for ever: values sealed with it open no more, here or from a backup. Its entry stays, its id is not used again.

        Writes the file. Copies of the old file, and its freed disk blocks, still hold the wrapped key: those are the caller's to destroy.
        Raises UnknownKeyIdError and what `create` raises.
        """
        with self._changing():
            body = self._state.body
            if not any(e.id == key_id and e.live for e in body.keys):
                raise UnknownKeyIdError(key_id)
            gone = [self._without_material(e) if e.id == key_id else e for e in body.keys]
            left = {i: k for i, k in self._state.by_id().items() if i != key_id}
            self._write(_Body(_FORMAT, body.next_id, tuple(gone)), left)

    def rewrap(self, provider: MasterKey) -> None:
        """Put every live key under another master key, durably; data keys and ids stay as they are. Writes the file.

        Processes that hold the old master key can go on with the keys they have, and refresh no more. Raises what `create` raises.
        """
        with self._changing():
            keys = self._state.by_id()
            entries = [_wrap(e, keys[e.id], provider) if e.live else e for e in self._state.body.keys]
            body = _Body(_FORMAT, self._state.body.next_id, tuple(entries))
            replace(self._path, _encode(body, provider))
            self._provider, self._state = provider, _State.of(body, keys)

    def refresh(self) -> bool:
        """Read the file again, where another process may have added or destroyed keys: whether anything changed. Raises as `open` does.

        Raises RingAlteredError where keys that this process knows are gone: an older file was put in the ring's place.
        """
        fresh = _load(self._path, self._provider, self._state)
        changed = fresh.body != self._state.body
        self._state = fresh
        return changed

    def successor(self, provider: MasterKey) -> KeyRing:
        """The ring as its file is now, under a master key that may be another one; this one stays as it is. Raises as `refresh` does."""
        state = _load(self._path, provider, self._state, afresh=True)
        ring = KeyRing(self._path, provider, state, on_use=self._on_use, clock=self._clock, sleep=self._sleep)
        ring._used = self._used
        return ring

    def adopt(self, successor: KeyRing) -> None:
        """Become what `successor` is, at once. It was made by this ring, which has not changed since."""
        self._provider, self._state = successor._provider, successor._state

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with locked(self._path.with_name(LOCK_FILE), self._sleep):
                self.refresh()
                yield
        except LockedError:
            raise RingBusyError(f"key ring {self._path} is being changed by another process") from None
        except OSError as error:
            raise RingFileError(f"key ring {self._path} cannot be written: {error.strerror}") from error

    def _add(self, domain: str, random: Callable[[int], bytes]) -> DataKey:
        body = self._state.body
        if len(body.keys) >= MAX_KEYS or body.next_id > MAX_KEY_ID:
            raise RingFullError(
                f"key ring {self._path} is full: it has had {len(body.keys)} keys, the limit is {MAX_KEYS}"
            )
        if not domain.isprintable():
            raise ValueError("a key domain's name has printable characters only")
        key = DataKey(domain, body.next_id, random(MATERIAL_SIZE))
        version = 1 + max((e.version for e in body.keys if e.domain == domain), default=0)
        entry = _wrap(KeyEntry(key.key_id, domain, version, self._now(), None), key, self._provider)
        self._write(_Body(_FORMAT, body.next_id + 1, (*body.keys, entry)), {**self._state.by_id(), key.key_id: key})
        return key

    def _write(self, body: _Body, keys: Mapping[int, DataKey]) -> None:
        replace(self._path, _encode(body, self._provider))
        self._state = _State.of(body, keys)

    def _without_material(self, entry: KeyEntry) -> KeyEntry:
        return msgspec.structs.replace(entry, wrapped=None, destroyed=self._now())

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

    def _tell(self, key: DataKey) -> None:
        if self._on_use is None or key.key_id in self._used:
            return
        entry = next(e for e in self._state.body.keys if e.id == key.key_id)
        # First the record, then the mark: where the record fails, the key is not handed out, and the next try records again.
        self._on_use(entry.label)
        self._used.add(key.key_id)


def _check_value(key: DataKey) -> str:
    """16 hex digits that tell whether a key is the same, and nothing else of it."""
    return hmac.digest(key.material, b"pgveil key check", "sha256")[:8].hex()


class _WatchedKeys(Mapping[int, DataKey]):
    """A domain's keys that tell when one is taken."""

    __slots__ = ("_keys", "_tell")

    def __init__(self, keys: Mapping[int, DataKey], tell: Callable[[DataKey], None]) -> None:
        self._keys = keys
        self._tell = tell

    def __getitem__(self, key_id: int) -> DataKey:
        key = self._keys[key_id]
        self._tell(key)
        return key

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def read_entries(directory: Path) -> tuple[KeyEntry, ...]:
    """What the file says of its keys, without a master key and so not verified. Raises RingFileError."""
    return _read(directory / RING_FILE).ring.keys


def read_ring(path: Path, content: bytes, provider: MasterKey) -> KeyRing:
    """A ring from the bytes of its file, wherever they come from; `path` names it in errors. Raises what `KeyRing.open` raises."""
    state = _verified(path, _decode(path, content), provider, None)
    return KeyRing(path, provider, state, on_use=None, clock=time.time, sleep=time.sleep)


def _read(path: Path) -> _File:
    return _decode(path, read_bounded(path, MAX_RING_BYTES, f"key ring {path}", RingFileError))


def _decode(path: Path, content: bytes) -> _File:
    if len(content) > MAX_RING_BYTES:
        raise RingFileError(f"key ring {path} is longer than {MAX_RING_BYTES} bytes")
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RingFileError(f"key ring {path} is cut short, damaged or not a key ring ({len(content)} bytes)") from None
    if file.ring.format != _FORMAT:
        raise RingFileError(f"key ring {path} has another format than {_FORMAT}")
    return file


def _load(path: Path, provider: MasterKey, known: _State | None, *, afresh: bool = False) -> _State:
    """`afresh`: every key is unwrapped, those that are known too, as the master key may be another one."""
    return _verified(path, _read(path), provider, known, afresh=afresh)


def _verified(path: Path, file: _File, provider: MasterKey, known: _State | None, *, afresh: bool = False) -> _State:
    at_hand = {} if known is None or afresh else _unchanged(known, file.ring)
    keys: dict[int, DataKey] = {}
    failing: list[KeyEntry] = []
    for entry in file.ring.keys:
        if not entry.live:
            continue
        key = at_hand.get(entry.id) or _unwrap(entry, provider)
        if key is None:
            failing.append(entry)
        else:
            keys[entry.id] = key
    sealed = _seal_holds(file, provider)
    if not sealed and not keys:
        raise WrongMasterError(
            f"nothing in key ring {path} opens with master key {provider.name}: it is another ring's master key, or the file was altered"
        )
    if failing:
        named = ", ".join(e.label for e in failing[:_NAMED]) + (" and more" if len(failing) > _NAMED else "")
        raise RingAlteredError(f"key ring {path}: does not open: {named}", tuple(e.id for e in failing))
    if not sealed:
        raise RingAlteredError(f"key ring {path}: every key opens, but entries were added, taken away or altered", ())
    if known is not None:
        _check_succession(path, known, file.ring, keys)
    return _State.of(file.ring, keys)


def _unchanged(known: _State, body: _Body) -> dict[int, DataKey]:
    """Keys at hand whose entries are still the same, by id."""
    keys = known.by_id()
    entries = frozenset(known.body.keys)
    return {e.id: keys[e.id] for e in body.keys if e.id in keys and e in entries}


def _check_succession(path: Path, before: _State, after: _Body, keys: Mapping[int, DataKey]) -> None:
    """A ring only grows, and keys in it only die."""
    now = {e.id: e for e in after.keys}
    held = before.by_id()
    for entry in before.body.keys:
        successor = now.get(entry.id)
        if (
            successor is None
            or _associated(successor) != _associated(entry)
            or (successor.live and keys[entry.id] != held.get(entry.id))
        ):
            raise RingAlteredError(
                f"key ring {path} changed under us: {entry.label} is not as this process knew it; was an older file put back?",
                (entry.id,),
            )


def _seal_holds(file: _File, provider: MasterKey) -> bool:
    try:
        return hmac.compare_digest(provider.unwrap(file.seal, _SEAL_PURPOSE), file.ring.digest())
    except UnwrapError:
        return False


def _unwrap(entry: KeyEntry, provider: MasterKey) -> DataKey | None:
    """A live entry's key; None where it does not open, or what opens is no key."""
    assert entry.wrapped is not None
    try:
        return DataKey(entry.domain, entry.id, provider.unwrap(entry.wrapped, _associated(entry)))
    except (UnwrapError, ValueError):
        return None


def _wrap(entry: KeyEntry, key: DataKey, provider: MasterKey) -> KeyEntry:
    """The entry with `key` wrapped in it. What a provider gave back wrong now would be values lost later, so that is tried out."""
    wrapped = msgspec.structs.replace(entry, wrapped=provider.wrap(key.material, _associated(entry)))
    if _unwrap(wrapped, provider) != key:
        raise ProviderError(
            f"master key {provider.name} does not unwrap what it has wrapped; the key ring is unchanged"
        )
    return wrapped


def _associated(entry: KeyEntry) -> bytes:
    """What a key's wrapping is bound to: JSON, so that no two entries have the same bytes."""
    return b"pgveil-ring-1 key " + msgspec.json.encode([entry.id, entry.domain, entry.version, entry.created])


def _encode(body: _Body, provider: MasterKey) -> bytes:
    file = _File(body, provider.wrap(body.digest(), _SEAL_PURPOSE))
    content = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    if len(content) > MAX_RING_BYTES:
        raise RingFullError(f"the key ring would be longer than {MAX_RING_BYTES} bytes")
    return content
