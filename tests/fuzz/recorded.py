"""Recorded conversations (`tests.fuzz.record` makes them) as seeds for the targets that read a part of what was said."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proxy.errors import ProtocolError
from proxy.wire import messages as m
from proxy.wire.framing import Direction, Framer, Message
from tests.fuzz.target import SEEDS, Cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ALL: Final = frozenset(range(256))
# Events of a recording; `tests.fuzz.sessions` gives them their meaning.
CLIENT_SAYS, SERVER_SAYS = 1, 3
# The place of a message's parser in `tests.fuzz.wire`, by direction and kind.
_FRONT: Final = {"Q": 0, "P": 1, "B": 2, "D": 4, "C": 4, "E": 5, "F": 6, "p": 7}
_BACK: Final = {
    "R": 9,
    "K": 12,
    "S": 13,
    "Z": 14,
    "T": 15,
    "t": 16,
    "D": 17,
    "C": 18,
    "E": 19,
    "N": 19,
    "G": 20,
    "H": 20,
    "A": 21,
}
_FRAMED: Final = 2000


@lru_cache(maxsize=1)
def streams() -> tuple[tuple[bytes, bytes], ...]:
    """What client and server said, of each connection."""
    found = []
    for path in sorted((SEEDS / "session").glob("*.bin")):
        cursor = Cursor(path.read_bytes())
        cursor.byte()
        said = {CLIENT_SAYS: b"", SERVER_SAYS: b""}
        while not cursor.empty:
            event = cursor.byte()
            said[event] += cursor.take(int.from_bytes(cursor.take(2), "big"))
        if all(said.values()):
            found.append((said[CLIENT_SAYS], said[SERVER_SAYS]))
    return tuple(found)


def spoken(direction: Direction) -> Iterator[Message]:
    """Every whole message of that direction."""
    for pair in streams():
        framer = Framer(direction, interpret=_ALL)
        framer.feed(pair[0 if direction is Direction.FRONTEND else 1])
        try:
            while (event := framer.next_event()) is not None:
                assert isinstance(event, Message)
                yield event
        except ProtocolError:
            continue


def _framing() -> Iterator[bytes]:
    for number, (client, server) in enumerate(streams()):
        yield bytes((0, 1, number % 4, 6)) + client[:_FRAMED]
        yield bytes((1, 2, number % 4, 60)) + server[:_FRAMED]


def _messages() -> Iterator[bytes]:
    for direction, places in ((Direction.FRONTEND, _FRONT), (Direction.BACKEND, _BACK)):
        for message in spoken(direction):
            place = places.get(chr(message.kind))
            if place is not None and len(message.body) < _FRAMED:
                yield bytes((place,)) + message.body


def texts() -> Iterator[bytes]:
    """Every text that a client sent."""
    for message in spoken(Direction.FRONTEND):
        if message.kind == m.Front.QUERY:
            yield m.parse_query(message.body)
        elif message.kind == m.Front.PARSE:
            yield m.parse_parse(message.body).text


def _copied(direction: Direction, head: bytes) -> Iterator[bytes]:
    for message in spoken(direction):
        if message.kind == m.Front.COPY_DATA:
            yield head + message.body


def _engine() -> Iterator[bytes]:
    for _, server in streams():
        yield b"\0\xff" + server[:_FRAMED]


_DERIVED: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "framing": _framing,
    "messages": _messages,
    "lexer": lambda: (b"\0\1" + text for text in texts()),
    "gate": lambda: (b"\0\0" + text for text in texts()),
    "copy": lambda: _copied(Direction.FRONTEND, b"\0\6"),
    "copy-in": lambda: _copied(Direction.FRONTEND, bytes((0, 0, 0, 0, 0, 40))),
    "copy-out": lambda: _copied(Direction.BACKEND, bytes((0, 0, 0, 0, 1, 200))),
    "engine": _engine,
}


def seeds(name: str) -> Iterator[bytes]:
    """What recordings hold for a target, each seed once: whole files of its own, and parts of the sessions."""
    found = [path.read_bytes() for path in sorted((SEEDS / name).glob("*.bin"))]
    derive = _DERIVED.get(name)
    if derive is not None:
        found += derive()
    yield from dict.fromkeys(found)
