"""Recorded conversations: each is heard by a session as it was, so that none of them is a seed that leads nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.framing import Direction
from tests.fuzz.ground import SHOWN, Ground
from tests.fuzz.recorded import seeds, spoken
from tests.fuzz.registry import target
from tests.fuzz.sessions import Play, Table
from tests.fuzz.target import SEEDS, Cursor

if TYPE_CHECKING:
    from pathlib import Path

_CUT = 11_000  # bytes from which a recording is not the whole conversation
SESSIONS = sorted((SEEDS / "session").glob("*.bin"))


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground()


def test_recorded_sessions_come_to_rest(ground: Ground) -> None:
    lost = [path.stem for path in SESSIONS if not _comes_to_rest(path, ground)]
    # A session that asks the server other questions than before does not understand the old answers. A few such seeds do no harm.
    assert len(lost) <= len(SESSIONS) // 5, f"record anew with `python -m tests.fuzz.record`: {lost}"


def _comes_to_rest(path: Path, ground: Ground) -> bool:
    cursor = Cursor(path.read_bytes())
    table = Table(ground, cursor.byte())
    Play(table, (), hostile=True).run(cursor)
    state = table.session._state
    return state.closing is None and (state.pipeline.idle or path.stat().st_size > _CUT)


def test_recordings_hold_what_they_should() -> None:
    front = {chr(message.kind) for message in spoken(Direction.FRONTEND)}
    back = {chr(message.kind) for message in spoken(Direction.BACKEND)}
    assert front >= set("QPBDECSHdcX")
    assert back >= set("123tTnDCEZGHdcAI")
    opened = b"".join(path.read_bytes() for path in SESSIONS)
    assert not any(value in opened for value in SHOWN)  # the server holds sealed values only
    assert any(b"SCRAM-SHA-256" in seed for seed in seeds("login"))


@pytest.mark.parametrize("name", ["login", "framing", "messages", "copy-in", "copy-out", "engine"])
def test_other_targets_take_parts_of_them(name: str) -> None:
    found = list(seeds(name))
    assert found
    run = target(name).make()
    assert sum(run(seed) for seed in found) >= len(found)
