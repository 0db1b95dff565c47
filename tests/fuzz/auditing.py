"""The audit log as an intruder leaves it: single lines, and whole directories of segments that were edited."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, get_args

import msgspec

from audit.errors import AuditDamaged
from audit.event import (
    CatalogLoaded,
    ColumnAccess,
    Event,
    KeyUsed,
    LogClosed,
    LoggedOut,
    LoginFailed,
    LoginSucceeded,
    LogOpened,
    LogRecovered,
    LogRestored,
    Observing,
    Refused,
    RulesLoaded,
    ServiceStarted,
    ServiceStopped,
    StatementEnded,
    StatementStarted,
)
from audit.query import Damage, Follower, Query, search
from audit.record import GENESIS, Body, Decoder, Malformed, encode, printable, stamp
from audit.segments import heads, recover
from audit.storage import OsStorage
from audit.verify import verify
from tests.fuzz.target import Cursor, Target, promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audit.record import Record
    from audit.verify import Finding

_START: Final = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
_ENCODER: Final = msgspec.json.Encoder()
_HASH: Final = b',"hash":"'
_WORDS: Final = (
    *(f'"{name}":'.encode() for name in ("seq", "time", "writer", "prev", "event", "hash", "kind", "rows", "segment", "first")),
    *(f'"{kind}"'.encode() for kind in ("statement", "outcome", "refusal", "log_restored", "log_recovered", "log_closed")),
    GENESIS.encode(),
    b"null",
    b"\\ud800",
    b"\n",
    b"\0",
    b"}",
)  # fmt: skip


def _events() -> list[Event]:
    who = ("c1", "ann", ("clerk",), "abcdef012345", "shop", "192.0.2.1:5", "psql")
    access = ColumnAccess("public.customers.card", "core", "masked", True, False)
    return [
        LogOpened(1, 7),
        ServiceStarted("1.0", ("127.0.0.1:6432",)),
        RulesLoaded("0123456789abcdef", "rules.yaml", ("x",), None),
        CatalogLoaded("shop", "v", 3),
        LoginSucceeded(*who, tls="TLSv1.3"),
        KeyUsed("public.customers.card", "1"),
        StatementStarted(
            *who, "select", "select card from customers", ("public.customers",), (access,), False, 1
        ),
        StatementEnded("c1", 1, 3, 100, "suspended", None),
        StatementEnded("c1", 1, 4, 120, "ok", None),
        Refused(*who, "verdict", "42501", "public.customers.card", "select ?"),
        LoginFailed("c2", "eve", "shop", "192.0.2.2:5", "", "28P01"),
        Observing("shop", True),
        LoggedOut("c1", "ann", 5),
        ServiceStopped("sigterm"),
    ]  # fmt: skip


def _chain(events: list[Event], writer: str, seq: int = 1, prev: str = GENESIS) -> list[bytes]:
    """Lines that follow each other, as a writer makes them."""
    lines = []
    for event in events:
        moment = stamp(_START + timedelta(microseconds=seq))
        line, prev = encode(Body(seq, moment, writer, prev, event), _ENCODER)
        lines.append(line)
        seq += 1
    return lines


_EVERYTHING: Final = Query(kinds=frozenset(str(each.__struct_config__.tag) for each in get_args(Event)))


# -- single lines --------------------------------------------------------------------------------------------------------------------


def _line() -> Callable[[bytes], int]:
    decoder = Decoder()
    queries = (Query(), Query(kinds=frozenset({"statement", "outcome"}), columns=frozenset({"card"}), text="SELECT"))

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        line = cursor.rest() if cursor.byte() & 1 else _hashed(cursor.rest())
        try:
            record = decoder.decode(line)
        except Malformed as error:
            promise(len(str(error)) < len(line) + 500, "an error is longer than what it is about")
            return 1
        promise(encode(record.body, _ENCODER) == (line, record.hash), "a record is written otherwise than it was read")
        promise(printable(record.body.event) == record.body.event, "a record that can't be printed")
        for query in queries:
            query.matches(record.body)
        return 1

    return run


def _hashed(covered: bytes) -> bytes:
    """A line with the hash that an intruder would give it."""
    return covered + _HASH + hashlib.sha256(covered).hexdigest().encode() + b'"}\n'


def _line_seeds() -> Iterator[bytes]:
    for line in _chain([*_events(), LogRecovered(1, 5, GENESIS), LogRestored(1, 3, "EIO", 0), LogClosed()], "w0"):
        yield b"\1" + line
        yield b"\0" + line.rpartition(_HASH)[0]


# -- whole logs ----------------------------------------------------------------------------------------------------------------------


class _Storage(OsStorage):
    """Files that need not outlive a power failure."""

    def sync(self, handle: int) -> None:
        """Nothing."""

    def sync_directory(self, path: Path) -> None:
        """Nothing."""


_TORN: Final = b'{"seq":9,"ti'


def _base() -> dict[str, bytes]:
    """A log with all that can be in one: several segments, one begun after a crash, one after a failed write."""
    events = _events()
    first = _chain([*events[:6], LogClosed()], "w0")
    second = _chain([*events[6:], LogClosed()], "w0", 8, first[-1][-67:-3].decode())
    crash: list[Event] = [LogOpened(1, 8), *events[6:9]]
    recovered: list[Event] = [
        LogRecovered(1, len(_TORN), hashlib.sha256(_TORN).hexdigest()),
        LogOpened(1, 9),
        LogClosed(),
    ]
    third = _chain([*crash, *recovered], "w1")
    failed = _chain([*events[:5], LogRestored(1, 4, "EIO", 0), LogClosed()], "w2")
    return {
        "w0/00000001.jsonl": b"".join(first),
        "w0/00000002.jsonl": b"".join(second),
        "w1/00000001.jsonl": b"".join(third[:4]),
        "w1/00000001.torn": _TORN,
        "w1/00000002.jsonl": b"".join(third[4:]),
        "w2/00000001.jsonl": b"".join(failed[:5]) + failed[5][:20],
        "w2/00000002.jsonl": b"".join(failed[3:]),
    }


# Names that files may get or that may be made beside the base's own.
_ODD_NAMES: Final = (
    "w0/00000003.jsonl",
    "w0/00000000.jsonl",
    "w0/00000002.torn",
    "w0/00000003.part",
    "w0/notes.txt",
    "w3/00000001.jsonl",
    "README",
)


class _Edit:
    """An intruder's work on the files of a log, as an input says."""

    def __init__(self, files: dict[str, bytes], cursor: Cursor) -> None:
        self.files = dict(files)
        self.forged = False
        self.count = 0
        self._cursor = cursor
        self._names = (*files, *_ODD_NAMES)
        acts = (
            self._byte, self._delete, self._insert, self._cut, self._line_away, self._line_again, self._lines_exchanged,
            self._line_elsewhere, self._file_away, self._file_renamed, self._files_exchanged, self._forge, self._append,
        )  # fmt: skip
        while not cursor.empty and self.count < 40:
            self.count += 1
            cursor.pick(acts)()

    def _name(self) -> str:
        return self._cursor.pick(self._names)

    def _place(self, size: int) -> int:
        return int.from_bytes(self._cursor.take(2), "big") % (size + 1)

    def _content(self) -> tuple[str, bytes, int]:
        name = self._name()
        content = self.files.get(name, b"")
        return name, content, self._place(len(content))

    def _lines(self) -> tuple[str, list[bytes], int]:
        name = self._name()
        lines = self.files.get(name, b"").splitlines(keepends=True)
        return name, lines, self._cursor.byte() % (len(lines) or 1)

    def _byte(self) -> None:
        name, content, at = self._content()
        self.files[name] = content[:at] + self._cursor.take(1) + content[at + 1 :]

    def _delete(self) -> None:
        name, content, at = self._content()
        self.files[name] = content[:at] + content[at + self._cursor.byte() :]

    def _insert(self) -> None:
        name, content, at = self._content()
        self.files[name] = content[:at] + self._cursor.take(self._cursor.byte() % 64) + content[at:]

    def _append(self) -> None:
        name = self._name()
        self.files[name] = self.files.get(name, b"") + self._cursor.take(self._cursor.byte() % 64)

    def _cut(self) -> None:
        name, content, at = self._content()
        self.files[name] = content[:at]

    def _line_away(self) -> None:
        name, lines, at = self._lines()
        self.files[name] = b"".join(lines[:at] + lines[at + 1 :])

    def _line_again(self) -> None:
        name, lines, at = self._lines()
        to = self._cursor.byte() % (len(lines) + 1)
        self.files[name] = b"".join(lines[:to] + lines[at : at + 1] + lines[to:])

    def _lines_exchanged(self) -> None:
        name, lines, at = self._lines()
        other = self._cursor.byte() % (len(lines) or 1)
        if lines:
            lines[at], lines[other] = lines[other], lines[at]
            self.files[name] = b"".join(lines)

    def _line_elsewhere(self) -> None:
        _, lines, at = self._lines()
        name, others, to = self._lines()
        self.files[name] = b"".join(others[:to] + lines[at : at + 1] + others[to:])

    def _file_away(self) -> None:
        self.files.pop(self._name(), None)

    def _file_renamed(self) -> None:
        source, to = self._name(), self._name()
        if source in self.files:
            self.files[to] = self.files.pop(source)

    def _files_exchanged(self) -> None:
        one, other = self._name(), self._name()
        if one in self.files and other in self.files:
            self.files[one], self.files[other] = self.files[other], self.files[one]

    def _forge(self) -> None:
        """Give a line the hash of what it says now."""
        name, lines, at = self._lines()
        if lines:
            covered, found, _ = lines[at].rpartition(_HASH)
            if found:
                lines[at] = _hashed(covered)
                self.forged = True
                self.files[name] = b"".join(lines)


class _Place:
    """A directory that holds what it is told, written only where it differs."""

    def __init__(self) -> None:
        self._holder = TemporaryDirectory(prefix="pgveil-fuzz-")
        self.path = Path(self._holder.name)

    def hold(self, files: dict[str, bytes]) -> None:
        """Have these files and no others."""
        there = {str(p.relative_to(self.path)): p for p in self.path.rglob("*") if p.is_file()}
        for name, path in there.items():
            if name not in files:
                path.unlink()
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(exist_ok=True)
            if name not in there or path.read_bytes() != content:
                path.write_bytes(content)
        for path in self.path.iterdir():
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _told(directory: Path) -> dict[str, list[bytes]]:
    """The lines that readers of the log are shown, by writer."""
    shown: dict[str, list[bytes]] = {}
    for found in search(directory, _EVERYTHING, Damage()):
        shown.setdefault(found.record.body.writer, []).append(encode(found.record.body, _ENCODER)[0])
        found.as_json()
    return shown


def _log() -> Callable[[bytes], int]:
    place = _Place()
    base = _base()
    place.hold(base)
    expected = _told(place.path)
    storage = _Storage()
    marks = heads(place.path, storage)
    digests, seqs = [h.hash for h in marks.values()], {w: h.seq for w, h in marks.items()}
    promise(verify(place.path, expect_heads=digests, expect_seqs=seqs).ok, "the log is not whole to begin with")

    known = {line for lines in expected.values() for line in lines}

    def check(*, forgery: bool) -> None:
        """Where the log is said to be whole, it is."""
        shown = _told(place.path)
        forged = any(line not in known for lines in shown.values() for line in lines)
        promise(forgery or not forged, "a line is made up")
        report = verify(place.path, expect_heads=digests, expect_seqs=seqs)
        if report.ok:
            for writer, lines in expected.items():
                promise(shown.get(writer, [])[: len(lines)] == lines, "a changed log passes with its heads")
        # What is found without knowing the heads.
        if not report.untold and all(_about_heads(finding) for finding in report.findings) and not forged:
            for writer, lines in shown.items():
                promise(lines == expected.get(writer, [])[: len(lines)], "a changed log passes")
        _follow(place.path)

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        restarted = bool(cursor.byte() & 1)
        edit = _Edit(base, cursor)
        place.hold(edit.files)
        check(forgery=edit.forged)
        with suppress(AuditDamaged):
            heads(place.path, storage)
        if restarted:
            for writer in ("w0", "w1", "w2"):
                if (place.path / writer).is_dir():
                    with suppress(AuditDamaged):
                        recover(storage, place.path / writer, writer)
            check(forgery=edit.forged)
        return sum(content.count(b"\n") for content in edit.files.values()) or 1

    return run


def _about_heads(finding: Finding) -> bool:
    return finding.message.startswith(("no record has the expected hash", "the chain ends at"))


def _follow(directory: Path) -> list[Record]:
    follower = Follower(directory)
    newest = follower.tail(3)
    promise(len(newest) <= 3, "more records than were asked for")
    promise(not follower.poll(), "a record is new that was there")
    return newest


def _log_seeds() -> Iterator[bytes]:
    yield b"\0"
    for act in range(13):
        for name in range(len(_base()) + 2):
            yield bytes((1, act, name, 0, 40, 3, 1, 2, 7))
            yield bytes((0, act, name, 1, 1, 0, 9, 11, name, 1))
    yield bytes((0, 0, 0, 0, 30, 65, 11, 0, 0))


TARGETS: Final = (
    Target(
        "audit-line", "lines of the audit log, honest and forged", _line, _line_seeds, longest=2048, dictionary=_WORDS
    ),
    Target("audit-log", "the audit log's directory, edited by an intruder", _log, _log_seeds, longest=256, blind=40),
)
