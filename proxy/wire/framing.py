"""The walk over one direction of a connection: message headers only, no object for what nobody interprets (PostgreSQL 55.7).

    feed(bytes) -> next_event() -> bytes      forward these; any number of messages, cut anywhere
                                   Message    one whole message of a type in `interpret`
                                   Batch      consecutive whole messages of one type in `batch`
                                   Head       the first bytes of a message of a type in `heads`; the rest follows
                                   Chunk      a piece of such a rest, after `stream_rest()`
                                   None       nothing more until the next `feed`

What is interpreted may be changed between any two events: the walk never looks past the event that it returns. A stream gives the same
events however it is cut, but for where forwarded bytes, batches and chunks are cut.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy import limits
from proxy.errors import LimitError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTH: Final = Struct("!i").unpack_from
_HEADER: Final = 5
_NOTHING: Final[frozenset[int]] = frozenset()
_NO_HEADS: Final[Mapping[int, int]] = MappingProxyType({})

# What to do with a message, by type.
_UNKNOWN, _FORWARD, _WHOLE, _HEAD, _BATCH = range(5)


class Direction(Enum):
    """Who speaks."""

    FRONTEND = "frontend"
    BACKEND = "backend"


class Message(NamedTuple):
    """One whole message. `kind` is its type byte; `raw` has type byte and length in front."""

    kind: int
    raw: bytes

    @property
    def body(self) -> bytes:
        """What follows the length."""
        return self.raw[_HEADER:]


class Batch(NamedTuple):
    """Consecutive whole messages of one type. Message i is `raw[starts[i]:starts[i + 1]]`; the last of `starts` is len(raw)."""

    kind: int
    raw: bytes
    starts: list[int]

    @property
    def messages(self) -> int:
        """How many messages."""
        return len(self.starts) - 1


class Head(NamedTuple):
    """The first bytes of a message whose size (type byte and length included) is `size`.

    One of `skip_rest`, `take_whole` and `stream_rest` may be called before the next event; without, the rest is forwarded. A `complete`
    one has no rest: only `take_whole` makes a difference then.
    """

    kind: int
    size: int
    raw: bytes

    @property
    def complete(self) -> bool:
        """Whether the message is all here."""
        return len(self.raw) == self.size


class Chunk(NamedTuple):
    """A piece of the message whose Head came before."""

    data: bytes
    last: bool


Event = bytes | Message | Batch | Head | Chunk


class _Rest(Enum):
    FORWARD = 1
    SKIP = 2
    CHUNK = 3


@lru_cache(maxsize=256)
def _actions(
    known: frozenset[int], interpret: frozenset[int], batch: frozenset[int], heads: frozenset[int]
) -> tuple[int, ...]:
    """The action for each of the 256 type bytes."""

    def action(kind: int) -> int:
        if kind not in known:
            return _UNKNOWN
        if kind in heads:
            return _HEAD
        if kind in batch:
            return _BATCH
        return _WHOLE if kind in interpret else _FORWARD

    return tuple(action(kind) for kind in range(256))


class Framer:
    """One direction's walk. Every method but `feed` and `next_event` is O(1).

    Raises ProtocolError on what is not a message of this direction, LimitError on an interpreted message that is too long; after
    either the framer raises the same again.
    """

    __slots__ = (
        "_action",
        "_batch",
        "_broken",
        "_buffer",
        "_head",
        "_heads",
        "_interpret",
        "_known",
        "_maximum",
        "_mode",
        "_need",
        "_partial",
        "_partial_action",
        "_position",
        "_rest",
        "_size",
        "_whole",
        "direction",
    )

    def __init__(
        self,
        direction: Direction,
        *,
        interpret: frozenset[int] = _NOTHING,
        batch: frozenset[int] = _NOTHING,
        heads: Mapping[int, int] = _NO_HEADS,
        whole_limits: Mapping[int, int] | None = None,
    ) -> None:
        front = direction is Direction.FRONTEND
        maximum = limits.FRONTEND_MAXIMUM if front else limits.BACKEND_MAXIMUM
        whole = limits.FRONTEND_WHOLE if front else limits.BACKEND_WHOLE
        self.direction = direction
        self._maximum = maximum
        self._whole = whole if whole_limits is None else {**whole, **whole_limits}
        self._known = frozenset(maximum)
        self._interpret = interpret
        self._batch = batch
        self._heads = heads
        self._buffer = b""
        self._position = 0
        self._partial: bytearray | None = None  # an interpreted message, or its head, that is not all here yet
        self._partial_action = _WHOLE
        self._need = 0  # bytes that `_partial` grows to
        self._size = 0  # size of the message that `_partial` or `_head` belongs to
        self._head: bytes | None = None  # the Head just returned, while its rest may still be claimed
        self._rest = 0  # bytes of the current message still to come
        self._mode = _Rest.FORWARD
        self._broken: ProtocolError | None = None
        self._reset()

    @property
    def interpret(self) -> frozenset[int]:
        """Types delivered whole, one by one."""
        return self._interpret

    @interpret.setter
    def interpret(self, kinds: frozenset[int]) -> None:
        self._interpret = kinds
        self._reset()

    @property
    def batch(self) -> frozenset[int]:
        """Types delivered whole, consecutive ones together. Goes before `interpret`."""
        return self._batch

    @batch.setter
    def batch(self, kinds: frozenset[int]) -> None:
        self._batch = kinds
        self._reset()

    @property
    def heads(self) -> Mapping[int, int]:
        """Types of which only the first n bytes (header included, at least 5) are delivered. Goes before the others."""
        return self._heads

    @heads.setter
    def heads(self, sizes: Mapping[int, int]) -> None:
        self._heads = sizes
        self._reset()

    def _reset(self) -> None:
        self._action = _actions(self._known, self._interpret, self._batch, frozenset(self._heads))

    @property
    def buffered(self) -> int:
        """Bytes held: not yet walked, or of a message that is not all here."""
        return len(self._buffer) - self._position + (0 if self._partial is None else len(self._partial))

    @property
    def at_boundary(self) -> bool:
        """Whether everything fed has been delivered and the next byte starts a message."""
        return not (self._rest or self._partial is not None or self._position < len(self._buffer))

    @property
    def upcoming(self) -> int | None:
        """The type of the message that the next bytes begin; None where there are none yet, or one is in the middle."""
        if self._rest or self._partial is not None or self._position >= len(self._buffer):
            return None
        return self._buffer[self._position]

    def take_unread(self) -> bytes:
        """What has been fed and not walked, given up by the framer. Only at a message boundary."""
        assert not self._rest
        assert self._partial is None
        unread = self._buffer[self._position :]
        self._buffer, self._position = b"", 0
        return unread

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream, cut anywhere."""
        left = self._buffer[self._position :] if self._position < len(self._buffer) else b""
        self._buffer = left + data if left else data
        self._position = 0

    def next_event(self) -> Event | None:
        """The next event, or None when more bytes are needed."""
        if self._broken is not None:
            raise self._broken
        try:
            return self._next()
        except ProtocolError as error:
            self._broken = error
            raise

    def skip_rest(self) -> None:
        """Drop what remains of the message whose Head was just returned."""
        assert self._head is not None
        self._mode = _Rest.SKIP

    def stream_rest(self) -> None:
        """Deliver what remains of the message whose Head was just returned as Chunks."""
        assert self._head is not None
        self._mode = _Rest.CHUNK

    def take_whole(self) -> None:
        """Deliver the message whose Head was just returned once more, whole, as a Message. Raises LimitError where it is too long."""
        assert self._head is not None
        try:
            self._check_whole(self._head[0], self._size)
        except LimitError as error:
            self._broken = error
            raise
        self._partial = bytearray(self._head)
        self._partial_action = _WHOLE
        self._need = self._size
        self._rest = 0
        self._head = None

    def _next(self) -> Event | None:
        self._head = None
        if self._partial is not None:
            return self._fill()
        start = self._position
        if self._rest:
            piece = self._pass_rest()
            if piece is not None:
                return piece
            if self._rest:
                return None
            if self._mode is _Rest.SKIP:
                start = self._position
            self._mode = _Rest.FORWARD
        return self._walk(start)

    def _pass_rest(self) -> Event | None:
        """Move over what is here of the current message's rest. None: it ended and the walk goes on, or nothing is here."""
        start = self._position
        taken = min(self._rest, len(self._buffer) - start)
        self._position += taken
        self._rest -= taken
        if self._mode is _Rest.CHUNK:
            if not taken:
                return None
            last = not self._rest
            if last:
                self._mode = _Rest.FORWARD
            return Chunk(self._buffer[start : start + taken], last)
        if self._mode is _Rest.FORWARD and self._rest and taken:
            return self._buffer[start : start + taken]
        return None

    def _walk(self, start: int) -> Event | None:
        """Walk headers from the current position; bytes from `start` up to it are forwarded with what is walked over."""
        buffer = self._buffer
        position = self._position
        end = len(buffer)
        actions = self._action
        maximum = self._maximum
        while end - position >= _HEADER:
            kind = buffer[position]
            action = actions[kind]
            size = _LENGTH(buffer, position + 1)[0] + 1
            if action == _UNKNOWN or size < _HEADER or size > maximum[kind]:
                if start < position:
                    break  # what came before is good; the next call meets the bad message first
                raise self._bad(kind, size, known=action != _UNKNOWN)
            if action != _FORWARD:
                if start < position:
                    break
                return self._deliver(action, kind, size)
            position += size
            if position >= end:
                self._rest = position - end
                self._mode = _Rest.FORWARD
                position = end
        self._position = position
        return buffer[start:position] if start < position else None

    def _deliver(self, action: int, kind: int, size: int) -> Event | None:
        """An interpreted message starts at the current position: deliver it, or begin to collect it."""
        need = size
        if action == _HEAD:
            need = min(size, max(self._heads[kind], _HEADER))
        else:
            self._check_whole(kind, size)
        start = self._position
        stop = start + need
        self._size = size
        if stop > len(self._buffer):
            self._partial = bytearray(memoryview(self._buffer)[start:])
            self._position = len(self._buffer)
            self._partial_action = action
            self._need = need
            return None
        if action == _BATCH:
            return self._collect(kind, size)
        self._position = stop
        raw = self._buffer[start:stop]
        return Message(kind, raw) if action == _WHOLE else self._begin_head(kind, raw)

    def _collect(self, kind: int, size: int) -> Batch:
        """Every whole message of `kind` from the current position on."""
        buffer = self._buffer
        start = position = self._position
        end = len(buffer)
        limit = self._whole[kind]
        starts = [0]
        while True:
            position += size
            starts.append(position - start)
            if end - position < _HEADER or buffer[position] != kind:
                break
            size = _LENGTH(buffer, position + 1)[0] + 1
            if size < _HEADER or size > limit or position + size > end:
                break  # the next call judges it
        self._position = position
        return Batch(kind, buffer[start:position], starts)

    def _fill(self) -> Event | None:
        """Go on collecting a message that was not all here."""
        partial = self._partial
        assert partial is not None
        start = self._position
        stop = min(start + self._need - len(partial), len(self._buffer))
        partial += memoryview(self._buffer)[start:stop]
        self._position = stop
        if len(partial) < self._need:
            return None
        self._partial = None
        raw = bytes(partial)
        if self._partial_action == _HEAD:
            return self._begin_head(raw[0], raw)
        return Batch(raw[0], raw, [0, len(raw)]) if self._partial_action == _BATCH else Message(raw[0], raw)

    def _begin_head(self, kind: int, raw: bytes) -> Head:
        self._head = raw
        self._rest = self._size - len(raw)
        self._mode = _Rest.FORWARD
        return Head(kind, self._size, raw)

    def _check_whole(self, kind: int, size: int) -> None:
        limit = self._whole[kind]
        if size > limit:
            raise LimitError(
                f"a {self.direction.value} message of type {chr(kind)!r} has {size} bytes, more than the {limit} that can be held",
                hint="Send bulk data with COPY, or in several statements.",
            )

    def _bad(self, kind: int, size: int, *, known: bool) -> ProtocolError:
        side = self.direction.value
        if not known:
            return ProtocolError(f"unknown {side} message type 0x{kind:02x}")
        return ProtocolError(f"invalid length {size - 1} of a {side} message of type {chr(kind)!r}")
