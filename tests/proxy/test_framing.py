"""The walk over a stream: nothing lost, nothing invented, whatever the cuts."""

from __future__ import annotations

from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import limits
from proxy.errors import LimitError, ProtocolError
from proxy.wire.framing import Batch, Chunk, Direction, Framer, Head, Message
from proxy.wire.messages import message

BACK = Direction.BACKEND
FRONT = Direction.FRONTEND

BACKEND_KINDS = b"123ACDEGHIKNRSTVZcdnstv"


def drain(framer: Framer, pieces: list[bytes], after_head: str = "") -> list[object]:
    """All events, with neighbouring forwarded bytes, batches and chunks joined."""
    events: list[object] = []
    for piece in pieces:
        framer.feed(piece)
        while (event := framer.next_event()) is not None:
            last = events[-1] if events else None
            if isinstance(event, bytes) and isinstance(last, bytes):
                events[-1] = last + event
            elif isinstance(event, Batch) and isinstance(last, Batch) and last.kind == event.kind:
                starts = last.starts[:-1] + [len(last.raw) + start for start in event.starts]
                events[-1] = Batch(event.kind, last.raw + event.raw, starts)
            elif isinstance(event, Chunk) and isinstance(last, Chunk) and not last.last:
                events[-1] = Chunk(last.data + event.data, event.last)
            else:
                events.append(event)
            if isinstance(event, Head) and after_head and (after_head == "take_whole" or not event.complete):
                getattr(framer, after_head)()
    return events


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


messages_of = st.lists(
    st.tuples(st.sampled_from(list(BACKEND_KINDS)), st.binary(max_size=40)).map(lambda pair: message(*pair)),
    max_size=12,
)
cuts = st.lists(st.integers(0, 400), max_size=12)
kinds = st.frozensets(st.sampled_from(list(BACKEND_KINDS)), max_size=6)
heads = st.dictionaries(st.sampled_from(list(BACKEND_KINDS)), st.integers(5, 30), max_size=3)


@given(messages_of, cuts, kinds, kinds, heads, st.sampled_from(["", "skip_rest", "take_whole", "stream_rest"]))
@settings(max_examples=200, deadline=None)
def test_any_split_gives_the_same_events(
    sent: list[bytes],
    places: list[int],
    interpret: frozenset[int],
    batch: frozenset[int],
    heads: dict[int, int],
    after_head: str,
) -> None:
    stream = b"".join(sent)

    def events(pieces: list[bytes]) -> list[object]:
        framer = Framer(BACK, interpret=interpret, batch=batch, heads=heads)
        found = drain(framer, pieces, after_head)
        assert framer.at_boundary
        assert framer.buffered == 0
        return found

    whole = events([stream])
    assert events(cut(stream, places)) == whole
    assert events([stream[i : i + 1] for i in range(len(stream))]) == whole


@given(messages_of, cuts, kinds, kinds)
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost(
    sent: list[bytes], places: list[int], interpret: frozenset[int], batch: frozenset[int]
) -> None:
    stream = b"".join(sent)
    framer = Framer(BACK, interpret=interpret, batch=batch)
    out = b""
    for event in drain(framer, cut(stream, places)):
        assert isinstance(event, bytes | Message | Batch)
        out += event if isinstance(event, bytes) else event.raw
        if isinstance(event, Message):
            assert event.raw in sent
            assert event.raw == message(event.kind, event.body)
        if isinstance(event, Batch):
            pieces = [event.raw[a:b] for a, b in pairwise(event.starts)]
            assert all(piece in sent and piece[0] == event.kind for piece in pieces)
            assert event.messages == len(pieces)
    assert out == stream


@given(st.binary(max_size=300), cuts, kinds, kinds, heads, st.sampled_from([FRONT, BACK]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_events_or_protocol_error(
    data: bytes,
    places: list[int],
    interpret: frozenset[int],
    batch: frozenset[int],
    heads: dict[int, int],
    direction: Direction,
) -> None:
    framer = Framer(direction, interpret=interpret, batch=batch, heads=heads)
    try:
        drain(framer, cut(data, places), "stream_rest")
    except ProtocolError:
        with pytest.raises(ProtocolError):
            framer.next_event()


def test_interpretation_switches_between_events() -> None:
    framer = Framer(BACK, interpret=frozenset(b"T"))
    framer.feed(message(0x54, b"x") + message(0x44, b"row") + message(0x5A, b"I"))
    assert framer.next_event() == Message(0x54, message(0x54, b"x"))
    framer.interpret = frozenset(b"D")
    assert framer.interpret == frozenset(b"D")
    assert framer.next_event() == Message(0x44, message(0x44, b"row"))
    framer.interpret = frozenset()
    assert framer.next_event() == message(0x5A, b"I")
    assert framer.next_event() is None
    framer.batch = frozenset(b"D")
    framer.heads = {0x43: 6}
    assert (framer.batch, dict(framer.heads)) == (frozenset(b"D"), {0x43: 6})
    framer.feed(message(0x44, b"") * 2 + message(0x43, b"done"))
    event = framer.next_event()
    assert isinstance(event, Batch)
    assert event.starts == [0, 5, 10]
    assert framer.next_event() == Head(0x43, 9, b"C\0\0\0\x08d")


def test_a_huge_body_streams() -> None:
    """1 GB goes through in pieces and nothing is held."""
    framer = Framer(BACK)
    size = 0x3FFFFFFE
    framer.feed(pack("!Bi", 0x44, size + 4))
    assert framer.next_event() == pack("!Bi", 0x44, size + 4)
    piece = bytes(1 << 24)
    left = size
    while left:
        part = piece[: min(left, len(piece))]
        framer.feed(part)
        assert framer.next_event() is part  # not even copied
        assert framer.next_event() is None
        assert framer.buffered == 0
        left -= len(part)
    assert framer.at_boundary


def test_head_then_skip_whole_or_stream() -> None:
    bind = message(0x42, b"portal\0statement\0" + b"v" * 100)
    rest = message(0x53, b"")
    for how, expected in {
        "": [Head(0x42, len(bind), bind[:20]), bind[20:] + rest],
        "skip_rest": [Head(0x42, len(bind), bind[:20]), rest],
        "stream_rest": [Head(0x42, len(bind), bind[:20]), Chunk(bind[20:], last=True), rest],
        "take_whole": [Head(0x42, len(bind), bind[:20]), Message(0x42, bind), rest],
    }.items():
        framer = Framer(FRONT, heads={0x42: 20})
        assert drain(framer, [bind + rest], how) == expected


@pytest.mark.parametrize(
    ("direction", "data", "words"),
    [
        (BACK, b"\0\0\0\0\4", "unknown backend message type 0x00"),
        (FRONT, b"D\0\0\0\3", "invalid length 3"),
        (FRONT, b"Q\xff\xff\xff\xff", "invalid length -1"),
        (FRONT, b"Q\x7f\xff\xff\xff", "invalid length 2147483647"),
        (FRONT, b"S\0\0\x30\0", "invalid length 12288"),
        (FRONT, b"R\0\0\0\x08\0\0\0\0", "unknown frontend message type 0x52"),
    ],
)
def test_what_is_no_message(direction: Direction, data: bytes, words: str) -> None:
    framer = Framer(direction)
    framer.feed(data)
    with pytest.raises(ProtocolError, match=words):
        framer.next_event()


def test_good_messages_before_a_bad_one_are_delivered() -> None:
    framer = Framer(BACK)
    good = message(0x5A, b"I")
    framer.feed(good + b"\xff\0\0\0\4")
    assert framer.next_event() == good
    with pytest.raises(ProtocolError):
        framer.next_event()


def test_interpreted_messages_are_bounded() -> None:
    framer = Framer(FRONT, interpret=frozenset(b"Q"))
    framer.feed(pack("!Bi", 0x51, limits.STATEMENT))
    with pytest.raises(LimitError, match="more than the"):
        framer.next_event()
    with pytest.raises(LimitError):
        framer.next_event()
    framer = Framer(FRONT, interpret=frozenset(b"Q"), whole_limits={0x51: 20})
    framer.feed(message(0x51, b"x" * 15))
    assert isinstance(framer.next_event(), Message)
    framer.feed(message(0x51, b"x" * 16))
    with pytest.raises(LimitError):
        framer.next_event()


def test_taking_an_overlong_message_whole_is_refused() -> None:
    framer = Framer(FRONT, heads={0x42: 10}, whole_limits={0x42: 50})
    framer.feed(message(0x42, b"x" * 100))
    assert isinstance(framer.next_event(), Head)
    with pytest.raises(LimitError):
        framer.take_whole()
    with pytest.raises(LimitError):
        framer.next_event()


def test_unread_bytes_can_be_taken_over() -> None:
    framer = Framer(BACK, interpret=frozenset(b"R"))
    framer.feed(message(0x52, b"\0\0\0\0") + b"S\0\0")
    assert isinstance(framer.next_event(), Message)
    assert not framer.at_boundary
    assert framer.take_unread() == b"S\0\0"
    assert framer.at_boundary
