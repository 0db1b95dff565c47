"""The key ring: what it promises about ids, versions and uses, and what it survives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import types
from typing import TYPE_CHECKING, Any

import pytest

from keys import durable, ring
from keys.providers import ProviderError, UnwrapError
from keys.providers.file import FileMasterKey
from keys.ring import (
    KeyRing,
    RingAlteredError,
    RingBusyError,
    RingError,
    RingFileError,
    RingFullError,
    UnknownDomainError,
    UnknownKeyIdError,
    WrongMasterError,
    read_entries,
)
from keys.sealed import DataKey, open_batch, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAN, NAME = "public.cards.pan", "public.customers.name"
CLOCK = 1_800_000_000.0


@pytest.fixture
def master(tmp_path: Path) -> FileMasterKey:
    return FileMasterKey(tmp_path / "master.key", bytes(32))


@pytest.fixture
def keyring(tmp_path: Path, master: FileMasterKey) -> KeyRing:
    KeyRing.initialise(tmp_path, master)
    return KeyRing.open(tmp_path, master, clock=lambda: CLOCK)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_an_empty_ring(keyring: KeyRing, tmp_path: Path) -> None:
    assert keyring.domains() == frozenset()
    assert keyring.entries() == ()
    for ask in (keyring.newest, keyring.keys):
        with pytest.raises(UnknownDomainError) as caught:
            ask(PAN)
        assert caught.value.domain == PAN
    assert stat.S_IMODE((tmp_path / "ring.json").stat().st_mode) == 0o600


def test_versions_and_ids(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    first, other, second = (keyring.create(d, os.urandom) for d in (PAN, NAME, PAN))
    assert [k.key_id for k in (first, other, second)] == [1, 2, 3]
    assert keyring.newest(PAN) == second
    assert dict(keyring.keys(PAN)) == {1: first, 3: second}
    again = KeyRing.open(tmp_path, master)
    assert again.domains() == {PAN, NAME}
    assert again.newest(PAN) == second
    assert dict(again.keys(NAME)) == {2: other}
    assert [(e.id, e.domain, e.version, e.created, e.live) for e in again.entries()] == [
        (1, PAN, 1, "2027-01-15T08:00:00+00:00", True),
        (2, NAME, 1, "2027-01-15T08:00:00+00:00", True),
        (3, PAN, 2, "2027-01-15T08:00:00+00:00", True),
    ]
    assert read_entries(tmp_path) == again.entries()
    sealed = [seal(k, b"x", nonce=None) for k in (first, second)]
    assert open_batch(again.keys(PAN), sealed) == [b"x", b"x"]


def test_the_ring_is_not_initialised_twice(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    keyring.create(PAN, os.urandom)
    before = (tmp_path / "ring.json").read_bytes()
    with pytest.raises(RingFileError, match="exists already"):
        KeyRing.initialise(tmp_path, master)
    assert (tmp_path / "ring.json").read_bytes() == before


def test_no_material_in_the_file(keyring: KeyRing, tmp_path: Path) -> None:
    material = bytes(range(64))
    keyring.create(PAN, lambda size: material[:size])
    content = (tmp_path / "ring.json").read_bytes()
    wrapped = read_entries(tmp_path)[0].wrapped
    assert wrapped is not None
    assert material[:8] not in wrapped
    assert b"AAECAwQF" not in content


def test_ensure_makes_a_key_once(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    other = KeyRing.open(tmp_path, master)
    key = keyring.ensure(PAN, os.urandom)
    assert keyring.ensure(PAN, os.urandom) == key
    # The other ring has not looked at the file since; it must find the key there, not make a second.
    assert other.ensure(PAN, os.urandom) == key
    assert len(read_entries(tmp_path)) == 1


def test_refresh(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    other = KeyRing.open(tmp_path, master)
    assert other.refresh() is False
    keyring.create(PAN, os.urandom)
    assert other.domains() == frozenset()
    assert other.refresh() is True
    assert other.newest(PAN) == keyring.newest(PAN)
    held = other.newest(PAN)
    keyring.create(PAN, os.urandom)
    assert other.refresh() is True
    assert other.keys(PAN)[1] is held


def test_create_builds_on_what_others_wrote(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    other = KeyRing.open(tmp_path, master)
    keyring.create(PAN, os.urandom)
    assert other.create(PAN, os.urandom).key_id == 2
    assert set(other.keys(PAN)) == {1, 2}


def test_destroy(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    old, new = keyring.create(PAN, os.urandom), keyring.create(PAN, os.urandom)
    other = KeyRing.open(tmp_path, master)
    keyring.destroy(old.key_id)
    assert dict(keyring.keys(PAN)) == {2: new}
    with pytest.raises(UnknownKeyIdError, match="1"):
        keyring.destroy(old.key_id)
    other.refresh()
    assert dict(other.keys(PAN)) == {2: new}
    entry = other.entries()[0]
    assert (entry.live, entry.destroyed, entry.wrapped) == (False, "2027-01-15T08:00:00+00:00", None)
    keyring.destroy(new.key_id)
    assert keyring.domains() == frozenset()
    # Neither ids nor versions come back.
    assert keyring.create(PAN, os.urandom).key_id == 3
    assert keyring.entries()[-1].version == 3


def test_rewrap_under_another_master(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    for domain in (PAN, NAME, PAN):
        keyring.create(domain, os.urandom)
    keyring.destroy(2)
    held = dict(keyring.keys(PAN))
    stale = KeyRing.open(tmp_path, master)
    fresh = FileMasterKey(tmp_path / "fresh.key", bytes(range(32)))
    keyring.rewrap(fresh)
    assert dict(KeyRing.open(tmp_path, fresh).keys(PAN)) == held == dict(keyring.keys(PAN))
    assert keyring.create(NAME, os.urandom).key_id == 4
    with pytest.raises(WrongMasterError):
        KeyRing.open(tmp_path, master)
    with pytest.raises(WrongMasterError):
        stale.refresh()
    assert dict(stale.keys(PAN)) == held


def test_each_key_s_first_use_is_told(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    for domain in (PAN, PAN, NAME):
        keyring.create(domain, os.urandom)
    told: list[str] = []
    watched = KeyRing.open(tmp_path, master, on_use=told.append)
    keys = watched.keys(PAN)
    assert (len(keys), list(keys), 1 in keys, 3 in keys) == (2, [1, 2], True, False)
    told.clear()
    watched = KeyRing.open(tmp_path, master, on_use=told.append)
    watched.newest(PAN)
    watched.newest(PAN)
    assert told == ["public.cards.pan version 2 (key 2)"]
    sealed = [seal(k, b"x", nonce=None) for k in keyring.keys(PAN).values()]
    for _ in range(2):
        assert open_batch(watched.keys(PAN), sealed * 40) == [b"x"] * 80
    assert told == ["public.cards.pan version 2 (key 2)", "public.cards.pan version 1 (key 1)"]


def test_a_key_whose_use_cannot_be_recorded_is_not_handed_out(
    tmp_path: Path, master: FileMasterKey, keyring: KeyRing
) -> None:
    keyring.create(PAN, os.urandom)
    failures = iter([True, True, False])
    told: list[str] = []

    def record(label: str) -> None:
        if next(failures):
            raise OSError("the audit log is full")
        told.append(label)

    watched = KeyRing.open(tmp_path, master, on_use=record)
    with pytest.raises(OSError, match="audit log"):
        watched.newest(PAN)
    with pytest.raises(OSError, match="audit log"):
        watched.keys(PAN)[1]
    watched.newest(PAN)
    assert len(told) == 1


@pytest.mark.parametrize("domain", ["", "d" * 256, "a\nb", "a\0b", "a\x1b[31m"])
def test_what_is_no_domain(keyring: KeyRing, domain: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        keyring.create(domain, os.urandom)
    assert keyring.entries() == ()


def test_limits(keyring: KeyRing, tmp_path: Path, master: FileMasterKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "MAX_KEYS", 2)
    keyring.create(PAN, os.urandom)
    keyring.create(PAN, os.urandom)
    with pytest.raises(RingFullError, match="2 keys"):
        keyring.create(PAN, os.urandom)
    monkeypatch.setattr(ring, "MAX_KEYS", 10)
    monkeypatch.setattr(ring, "MAX_RING_BYTES", 900)
    with pytest.raises(RingFullError, match="900 bytes"):
        keyring.create(PAN, os.urandom)
    monkeypatch.setattr(ring, "MAX_RING_BYTES", 300)
    with pytest.raises(RingFileError, match="longer than 300"):
        KeyRing.open(tmp_path, master)


# What is wrong with the file


def test_another_ring_s_master(keyring: KeyRing, tmp_path: Path) -> None:
    other = FileMasterKey(tmp_path / "other.key", bytes(range(32)))
    for _ in range(2):
        with pytest.raises(WrongMasterError, match=re.escape(f"{tmp_path / 'ring.json'}")):
            KeyRing.open(tmp_path, other)
        keyring.create(PAN, os.urandom)


def test_a_file_cut_anywhere(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    keyring.create(PAN, os.urandom)
    path = tmp_path / "ring.json"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 5):
        path.write_bytes(whole[:size])
        with pytest.raises(RingFileError, match=re.escape(str(path))):
            KeyRing.open(tmp_path, master)
        with pytest.raises(RingFileError):
            keyring.refresh()
    # What this process has, it keeps.
    assert keyring.newest(PAN).key_id == 1


def test_any_byte_changed(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    for domain in (PAN, NAME):
        keyring.create(domain, os.urandom)
    path = tmp_path / "ring.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(RingError):
            # Where it opens, it was a bit that JSON or base64 does not read.
            assert KeyRing.open(tmp_path, master).entries() == keyring.entries()


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (lambda d: d["keys"].pop(0), ()),
        (lambda d: d["keys"].reverse(), ()),
        (lambda d: d.update(next_id=2), ()),
        (lambda d: d["keys"][1].update(wrapped=None, destroyed="2027-01-01T00:00:00+00:00"), ()),
        (lambda d: d["keys"][0].update(domain=NAME), (1,)),
        (lambda d: d["keys"][0].update(version=9), (1,)),
        (lambda d: d["keys"][0].update(id=9), (9,)),
        (lambda d: d["keys"][0].update(created="1999"), (1,)),
        (lambda d: d["keys"][0].update(wrapped=d["keys"][1]["wrapped"]), (1,)),
        (lambda d: d["keys"][0].update(wrapped=""), (1,)),
    ],
)
def test_an_edited_ring(
    keyring: KeyRing, tmp_path: Path, master: FileMasterKey, change: Callable[[Any], None], failing: tuple[int, ...]
) -> None:
    for domain in (PAN, NAME, PAN):
        keyring.create(domain, os.urandom)
    edit(tmp_path / "ring.json", lambda document: change(document["ring"]))
    with pytest.raises(RingAlteredError, match=re.escape(str(tmp_path / "ring.json"))) as caught:
        KeyRing.open(tmp_path, master)
    assert caught.value.key_ids == failing
    for key_id in failing:
        assert f"(key {key_id})" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["ring"].update(format="pgveil-ring-2"),
        lambda d: d["ring"].update(more=1),
        lambda d: d["ring"]["keys"].append({}),
        lambda d: d["ring"].update(next_id="1"),
        lambda d: d.pop("seal"),
    ],
)
def test_what_is_no_ring(
    keyring: KeyRing, tmp_path: Path, master: FileMasterKey, change: Callable[[Any], None]
) -> None:
    edit(tmp_path / "ring.json", change)
    with pytest.raises(RingFileError):
        KeyRing.open(tmp_path, master)


@pytest.mark.parametrize("bad", [b'"\xf1"', b'"pgveil\xff"'])
def test_a_ring_of_bytes_that_are_no_text(keyring: KeyRing, tmp_path: Path, master: FileMasterKey, bad: bytes) -> None:
    path = tmp_path / "ring.json"
    path.write_bytes(path.read_bytes().replace(b'"pgveil-ring-1"', bad))
    with pytest.raises(RingFileError, match="damaged or not a key ring"):
        KeyRing.open(tmp_path, master)
    with pytest.raises(RingFileError, match="damaged or not a key ring"):
        read_entries(tmp_path)


def test_what_is_no_file(tmp_path: Path, master: FileMasterKey) -> None:
    with pytest.raises(RingFileError, match="No such file"):
        KeyRing.open(tmp_path, master)
    (tmp_path / "ring.json").mkdir()
    with pytest.raises(RingFileError, match="not a regular file"):
        KeyRing.open(tmp_path, master)
    with pytest.raises(RingFileError, match="cannot be written"):
        KeyRing.initialise(tmp_path / "nowhere", master)


def test_an_older_file_put_back(keyring: KeyRing, tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    keyring.create(PAN, os.urandom)
    older = path.read_bytes()
    keyring.create(NAME, os.urandom)
    path.write_bytes(older)
    for act in (keyring.refresh, lambda: keyring.create(PAN, os.urandom)):
        with pytest.raises(RingAlteredError, match="changed under us") as caught:
            act()
        assert caught.value.key_ids == (2,)
    assert path.read_bytes() == older


def test_a_destroyed_key_that_comes_back(keyring: KeyRing, tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    keyring.create(PAN, os.urandom)
    older = path.read_bytes()
    keyring.destroy(1)
    path.write_bytes(older)
    with pytest.raises(RingAlteredError, match="changed under us"):
        keyring.refresh()


def test_another_key_under_an_id_that_is_known(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    path = tmp_path / "ring.json"
    empty = path.read_bytes()
    keyring.create(PAN, os.urandom)
    path.write_bytes(empty)
    KeyRing.open(tmp_path, master, clock=lambda: CLOCK).create(PAN, os.urandom)
    with pytest.raises(RingAlteredError, match="changed under us"):
        keyring.refresh()


# Providers that fail


class Flaky:
    """A master key that wraps well and unwraps as it is told."""

    name = "flaky"

    def __init__(self, unwrap: Callable[[bytes], bytes]) -> None:
        self._unwrap = unwrap

    def wrap(self, plaintext: bytes, associated: bytes) -> bytes:
        return plaintext[::-1]

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        return self._unwrap(wrapped[::-1])


def test_a_provider_that_cannot_undo_its_wrapping_adds_no_key(tmp_path: Path) -> None:
    bad = Flaky(lambda plain: plain if len(plain) == 32 else bytes(64))
    made = KeyRing.initialise(tmp_path, bad)
    before = (tmp_path / "ring.json").read_bytes()
    with pytest.raises(ProviderError, match="flaky does not unwrap"):
        made.create(PAN, os.urandom)
    assert (tmp_path / "ring.json").read_bytes() == before


def test_a_provider_out_of_reach_is_not_a_wrong_master(tmp_path: Path) -> None:
    KeyRing.initialise(tmp_path, Flaky(lambda plain: plain))

    def unreachable(plain: bytes) -> bytes:
        raise ProviderError("the key service does not answer")

    with pytest.raises(ProviderError, match="does not answer") as caught:
        KeyRing.open(tmp_path, Flaky(unreachable))
    assert not isinstance(caught.value, UnwrapError)


# Many at once, and a kill at any step


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its exit status as waitpid gives it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def test_many_processes_at_once(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    def work() -> None:
        mine = KeyRing.open(tmp_path, master)
        for number in range(4):
            mine.ensure(f"shared {number}", os.urandom)
            mine.create(PAN, os.urandom)

    children = [in_child(work) for _ in range(4)]
    assert [os.waitpid(c, 0)[1] for c in children] == [0] * 4
    keyring.refresh()
    entries = keyring.entries()
    assert [e.id for e in entries] == list(range(1, 21))
    assert sorted(e.version for e in entries if e.domain == PAN) == list(range(1, 17))
    assert [e.version for e in entries if e.domain != PAN] == [1] * 4


class FaultyOs(types.SimpleNamespace):
    """The `os` of keys.durable with one call that goes wrong: the `at`-th of those that change something."""

    STEPS = ("open", "write", "fsync", "close", "rename")

    def __init__(self, at: int, fault: Callable[[str, Callable[[], Any], tuple[Any, ...]], Any]) -> None:
        super().__init__(**{n: getattr(os, n) for n in dir(os) if not n.startswith("_")})
        self.calls: list[str] = []
        for name in self.STEPS:
            setattr(self, name, self._counted(name, at, fault))

    def _counted(self, name: str, at: int, fault: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == at:
                return fault(name, lambda: getattr(os, name)(*arguments), arguments)
            return getattr(os, name)(*arguments)

        return call


def kill_before(name: str, step: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(name: str, step: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
    if name == "write":
        # Killed in the middle of it: half of the bytes are there.
        os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
    else:
        step()
    os.kill(os.getpid(), signal.SIGKILL)


def steps_of_a_create(keyring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with monkeypatch.context() as patch:
        watched = FaultyOs(0, kill_before)
        patch.setattr(durable, "os", watched)
        keyring.create(NAME, os.urandom)
    return watched.calls


def test_the_order_of_the_steps(keyring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes are durable before its name is, and the name before the caller hears of success."""
    calls = steps_of_a_create(keyring, monkeypatch)
    lock, reading = ["open"], ["open", "close"]
    assert calls == [*lock, *reading, "open", "write", "fsync", "close", "rename", "open", "fsync", "close", "close"]


@pytest.mark.parametrize("kill", [kill_before, kill_after])
def test_killed_at_any_step_the_ring_is_the_old_one_or_the_new(
    keyring: KeyRing, tmp_path: Path, master: FileMasterKey, monkeypatch: pytest.MonkeyPatch, kill: Callable[..., None]
) -> None:
    keyring.create(PAN, os.urandom)
    count = len(steps_of_a_create(keyring, monkeypatch))
    seen = set()
    for at in range(1, count + 1):
        before = dict(KeyRing.open(tmp_path, master).keys(PAN))

        def work(at: int = at) -> None:
            mine = KeyRing.open(tmp_path, master)
            monkeypatch.setattr(durable, "os", FaultyOs(at, kill))
            mine.create(PAN, os.urandom)

        assert os.WTERMSIG(os.waitpid(in_child(work), 0)[1]) == signal.SIGKILL
        after = dict(KeyRing.open(tmp_path, master).keys(PAN))
        assert before.items() <= after.items()
        seen.add(len(after) - len(before))
        # And the next one is not in the way of what was left behind.
        keyring.create(PAN, os.urandom)
    assert seen == {0, 1}


def disk_full(name: str, step: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
    if name == "close":
        step()
    raise OSError(28, "No space left on device")


def test_a_failing_disk_is_told_and_the_ring_stays_whole(
    keyring: KeyRing, tmp_path: Path, master: FileMasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.create(PAN, os.urandom)
    steps = steps_of_a_create(keyring, monkeypatch)
    renamed = steps.index("rename") + 1
    for at in range(1, len(steps) + 1):
        before = dict(keyring.keys(PAN))
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", FaultyOs(at, disk_full))
            with pytest.raises(RingFileError, match="No space left"):
                keyring.create(PAN, os.urandom)
        assert {p.name for p in tmp_path.iterdir()} == {"ring.json", "ring.lock"}
        after = dict(KeyRing.open(tmp_path, master).keys(PAN))
        assert len(after) - len(before) == (1 if at > renamed else 0)
        keyring.refresh()
        assert dict(keyring.keys(PAN)) == after


def test_short_writes(keyring: KeyRing, tmp_path: Path, master: FileMasterKey, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("keys.durable.os.write", lambda descriptor, data: real(descriptor, data[:7]))
    key = keyring.create(PAN, os.urandom)
    assert KeyRing.open(tmp_path, master).newest(PAN) == key


def test_a_lock_that_is_not_given_back(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    pauses: list[float] = []
    waiting = KeyRing.open(tmp_path, master, sleep=pauses.append)
    with (tmp_path / "ring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RingBusyError, match="another process"):
            waiting.create(PAN, os.urandom)
    assert sum(pauses) == pytest.approx(10)
    assert waiting.create(PAN, os.urandom).key_id == 1


def test_a_lock_that_is_given_back_in_time(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    with (tmp_path / "ring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = KeyRing.open(tmp_path, master, sleep=lambda _: fcntl.flock(lock, fcntl.LOCK_UN))
        assert waiting.create(PAN, os.urandom).key_id == 1


def test_no_error_shows_material(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    material = bytes(range(64))
    keyring.create(PAN, lambda size: material[:size])
    edit(tmp_path / "ring.json", lambda d: d["ring"]["keys"][0].update(version=2))
    with pytest.raises(RingError) as caught:
        keyring.refresh()
    shown = str(caught.value) + repr(caught.value) + repr(vars(caught.value)) + repr(keyring)
    assert material[:4].hex() not in shown
    assert repr(material[:4])[2:-1] not in shown


def test_a_copied_ring_is_a_backup(keyring: KeyRing, tmp_path: Path, master: FileMasterKey) -> None:
    key = keyring.create(PAN, os.urandom)
    (tmp_path / "backup").mkdir()
    shutil.copy(tmp_path / "ring.json", tmp_path / "backup")
    assert KeyRing.open(tmp_path / "backup", master).newest(PAN) == key == DataKey(PAN, 1, key.material)
