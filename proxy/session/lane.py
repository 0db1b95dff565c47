"""The fast lane: whole requests that only pass, recognised by their first bytes, and their answers by theirs.

    client  Bind(unnamed portal), [Describe,] Execute, Sync   of a prepared statement that is known to pass
            Query                                             whose text, but for its numbers, is known to pass
    server  the answers to these, each whole, with the very RowDescription that the witness has agreed to

What is known was found out by the slow lane (frontend, backend), under one generation of rules and catalog and one set of settings, and holds
for these alone. Anything else, in either direction, goes to the slow lane at a message boundary: what has been sent is put into the pipeline
as the slow lane would have put it there, and what has not been looked at is given to it (docs/adr/0039). The slow lane is the reference:
tests/session/test_lane.py plays the same conversations with and without this one, cut anywhere.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from proxy.session.gate import Pass
from proxy.session.judging import indifferent
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Admit, Settings
    from proxy.session.state import State
    from proxy.session.statements import Portal, PreparedStatement
    from proxy.session.witness import Shown

_LENGTH: Final = Struct("!i").unpack_from
_HEADER: Final = 5
_QUERY, _BIND = messages.Front.QUERY, messages.Front.BIND
_ROW, _COMPLETE, _READY = messages.Back.DATA_ROW, messages.Back.COMMAND_COMPLETE, messages.Back.READY

_DESCRIBE: Final = messages.build_describe(b"P", b"")
_EXECUTE_SYNC: Final = messages.build_execute(b"") + messages.SYNC
_ASKED: Final = _DESCRIBE + _EXECUTE_SYNC
_BOUND: Final = messages.BIND_COMPLETE
_NO_ROWS: Final = messages.NO_DATA
# After these nothing of the session is another than before; CREATE TABLE AS, which says SELECT, is not known to pass.
_TAGS: Final = (b"SELECT ", b"INSERT ", b"UPDATE ", b"DELETE ", b"BEGIN\x00", b"COMMIT\x00", b"MERGE ")
_STATUS: Final = frozenset(b"IT")

UNITS: Final = 256  # requests under way before the slow lane makes the client wait
SHAPES: Final = 256  # texts known to pass, of one login under one generation and settings
SHAPE_BYTES: Final = 512  # of one of them
ROW_BYTES: Final = 2048  # of a description that is kept for a text or statement
SETS: Final = 32  # logins, settings and generations of which texts are known
_NUMBER: Final = re.compile(rb"\b[0-9]+\b").sub
# Without what a digit could be part of besides a number: constants, quoted names, names with a dollar or beyond ASCII. (Nor comments.)
_PLAIN: Final = re.compile(rb"[\t\n\r !#%&(-\[\]-~]*").fullmatch


def shape_of(text: bytes) -> bytes | None:
    """A text with all its numbers alike; None where that is not certain to leave its meaning to pgveil as it is."""
    if len(text) > SHAPE_BYTES or _PLAIN(text) is None or b"--" in text or b"/*" in text:
        return None
    return _NUMBER(b"0", text)


def plain(decision: object) -> bool:
    """Whether a decision lets one statement pass that changes nothing which a session keeps in its books."""
    return (
        isinstance(decision, Pass)
        and decision.statements == 1
        and decision.noted is None
        and decision.copies is None
        and not (decision.unsettles or decision.ddl or decision.names or decision.by_name or decision.unshown)
    )


class PassingTexts:
    """For all sessions of a worker on one database: shapes that pass, with the RowDescription agreed for each (b"": it returns no rows)."""

    __slots__ = ("_sets",)

    def __init__(self) -> None:
        self._sets: OrderedDict[tuple[int, str, Settings], dict[bytes, bytes]] = OrderedDict()

    def of(self, generation: int, login: str, settings: Settings) -> dict[bytes, bytes]:
        """The texts of one login under one generation and these settings."""
        key = (generation, login, settings)
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = {}
            if len(self._sets) > SETS:
                self._sets.popitem(last=False)
        else:
            self._sets.move_to_end(key)
        return found


class Unit:
    """One request on its way: a batch that bound `portal`, the unnamed one, or (None) a simple Query.

    `generation`: the judge's, under which it passes. `row`: the RowDescription that its answer must have, b"" where it returns no rows. `asked`: the client has sent the Describe itself.
    `undo`: as of Expectation.
    """

    __slots__ = ("asked", "generation", "portal", "row", "undo")

    def __init__(
        self,
        generation: int,
        row: bytes,
        asked: bool,  # positional: by name it costs twice as much
        portal: Portal | None,
        undo: Callable[[], None] | None,
    ) -> None:
        self.generation = generation
        self.row = row
        self.asked = asked
        self.portal = portal
        self.undo = undo


class Lane:
    """The fast lane of one session. `units` are under way; while there are any, nothing else is."""

    __slots__ = ("_enabled", "_generation", "_known", "_login", "_settings", "_state", "_texts", "is_open", "units")

    def __init__(self, state: State, known: PassingTexts, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._state = state
        self._known = known
        self._login = state.identity.login
        self._generation = -1
        self._settings: Settings | None = None
        self._texts: dict[bytes, bytes] = {}
        self.units: deque[Unit] = deque()
        self.is_open = False

    # -- between the lanes -----------------------------------------------------------------------------------------------------------

    def look(self, *, quiet: bool) -> None:
        """See whether the next bytes may come this way. `quiet`: neither direction holds anything, or waits.

        To be called whenever the slow lane has done something: all that this rests on, but the generation, changes there.
        """
        state = self._state
        tracker = state.tracker
        self.is_open = (
            quiet
            and self._enabled
            and state.pipeline.at_ease
            and state.closing is None
            and state.successor is None
            and state.fatal_allowed
            and not (state.hold_client or state.broken or state.catalog_stale or state.unknown_executes)
            and not (state.ddl_in_flight or state.ddl_ran or state.new_views)
            and not (tracker.doubt or tracker.touched)
            and state.trail.durable(state.trail.last_write)
        )

    def leave(self) -> None:
        """Something comes that the slow lane is to see: what is under way is put into the pipeline."""
        self.is_open = False
        while self.units:
            self._hand_over(self.units.popleft())

    def _hand_over(self, unit: Unit) -> None:
        """Leave the expectations that the slow lane would have left."""
        sent = self._state.pipeline.sent
        portal = unit.portal
        if portal is None:
            sent(Expectation(Kind.QUERY, undo=unit.undo))
            return
        portal.bound()
        sent(Expectation(Kind.BIND, portal=portal, undo=unit.undo))
        if unit.asked or unit.row:
            route = Route.FORWARD if unit.asked else Route.GUARD
            portal.fresh = portal.trusted = True
            sent(Expectation(Kind.DESCRIBE_PORTAL, route, portal=portal, undo=portal.not_asked))
        sent(Expectation(Kind.EXECUTE, portal=portal))
        sent(Expectation(Kind.SYNC))

    # -- what is known to pass -------------------------------------------------------------------------------------------------------

    def learner(self, text: bytes, decision: Pass | Admit) -> Callable[[bytes], None] | None:
        """What is to be told the description of a Query's answer, by which the next one of its shape comes this way."""
        same = plain(decision) and isinstance(decision, Pass) and decision.instead is None
        shape = shape_of(text) if same else None
        if shape is None:
            return None
        texts = self._known.of(self._state.judge.generation, self._login, self._state.tracker.settings)

        def learn(row: bytes) -> None:
            if len(row) > ROW_BYTES:
                return
            if len(texts) >= SHAPES:
                texts.pop(next(iter(texts)))
            texts[shape] = row

        return learn

    def described(self, statement: PreparedStatement, kind: Kind, shown: Shown | None) -> None:
        """The witness agrees to what the server has said of a statement or its portal; the next Bind of it may come this way."""
        settings = self._state.tracker.settings
        row = b"" if shown is None else shown.message
        if row and kind is not Kind.DESCRIBE_PORTAL:
            return  # its formats are not known yet
        kept = (
            len(row) <= ROW_BYTES
            and plain(statement.decision)
            and statement.generation == self._state.judge.generation
            and (statement.settings == settings or indifferent(statement, settings))
            and not (statement.dropped_name or statement.made or statement.judge or statement.computed)
            and statement.names is None
        )
        statement.row, statement.row_under = (row, settings) if kept else (None, None)

    # -- the client's direction ------------------------------------------------------------------------------------------------------

    def client(self, data: bytes) -> int:
        """Send on the requests at the beginning of `data`; how many bytes that were."""
        state = self._state
        units = self.units
        end = len(data)
        position = done = 0  # of what has gone to the server
        while position < end and len(units) < UNITS:
            kind = data[position]
            if kind == _QUERY:
                unit, after = self._query(data, position, end)
            elif kind == _BIND:
                unit, after = self._batch(data, position, end)
            else:
                break
            if unit is None:
                break
            if unit.portal is not None and unit.row and not unit.asked:
                # The server looks at names again with each Bind, so it is asked what they mean each time.
                middle = after - len(_EXECUTE_SYNC)
                state.to_server.append(data[done:middle])
                state.to_server.append(_DESCRIBE)
                done = middle
            units.append(unit)
            position = after
        if done < position:
            state.to_server.append(data if not done and position == end else data[done:position])
        if position and state.witnessed:
            state.witnessed.clear()
        return position

    def _query(self, data: bytes, position: int, end: int) -> tuple[Unit | None, int]:
        state = self._state
        if end - position < _HEADER:
            return None, 0
        after = position + 1 + _LENGTH(data, position + 1)[0]
        if (
            after > end
            or after - position <= _HEADER
            or after - position > SHAPE_BYTES + _HEADER + 1
            or data[after - 1]
        ):
            return None, 0
        shape = shape_of(data[position + _HEADER : after - 1])
        if shape is None:
            return None, 0
        settings, generation = state.tracker.settings, state.judge.generation
        if generation != self._generation or settings is not self._settings:
            self._texts = self._known.of(generation, self._login, settings)
            self._generation, self._settings = generation, settings
        row = self._texts.get(shape)
        if row is None or state.statements.get(b"") is not None or state.portals.get(b"") is not None:
            return None, 0
        return Unit(generation, row, False, None, None), after

    def _batch(self, data: bytes, position: int, end: int) -> tuple[Unit | None, int]:
        state = self._state
        # Bind: length, portal, statement; the rest is between the client and the server.
        if end - position < _HEADER + 2 or data[position + _HEADER]:
            return None, 0
        behind = position + 1 + _LENGTH(data, position + 1)[0]
        if behind >= end or behind < position + _HEADER + 2:
            return None, 0
        name_end = data.find(0, position + _HEADER + 1, behind)
        statement = state.statements.get(data[position + _HEADER + 1 : name_end]) if name_end > 0 else None
        if statement is None:
            return None, 0
        row = statement.row
        if (
            row is None
            or statement.generation != state.judge.generation
            or statement.row_under is not state.tracker.settings
        ):
            return None, 0
        if data.startswith(_ASKED, behind):
            asked, after = True, behind + len(_ASKED)
        elif data.startswith(_EXECUTE_SYNC, behind):
            asked, after = False, behind + len(_EXECUTE_SYNC)
        else:
            return None, 0
        portal = statement.plain_portal
        if portal is None or portal.name:
            return None, 0
        undo = None
        if len(state.portals):
            if len(state.portals) >= state.limits.portals:
                return None, 0
            undo = state.portals.put(b"", portal)
        return Unit(statement.generation, row, asked, portal, undo), after

    # -- the server's direction ------------------------------------------------------------------------------------------------------

    def server(self, data: bytes) -> int:
        """Send on the answers at the beginning of `data` that are whole; how many bytes that were."""
        state = self._state
        units = self.units
        generation = state.judge.generation
        end = len(data)
        position = done = 0  # of what has gone to the client
        answered = 0
        while units and position < end:
            unit = units[0]
            after = self._answer(data, position, end, unit) if unit.generation == generation else 0
            if not after:
                break
            if unit.row and unit.portal is not None and not unit.asked:
                start = position + len(_BOUND)
                state.to_client.append(data[done:start])
                done = start + len(unit.row)
            units.popleft()
            answered += 1
            position = after
            state.pipeline.status = data[after - 1 : after]
            if len(state.portals) and state.pipeline.status == b"I" and not units:
                state.end_portals()
        if done < position:
            state.to_client.append(data if not done and position == end else data[done:position])
        if answered:
            state.observer.passed(answered)
        return position

    @staticmethod
    def _answer(data: bytes, position: int, end: int, unit: Unit) -> int:
        """Where a request's answers end, if they are all here and are as they should be; else 0."""
        if unit.portal is not None:
            if not data.startswith(_BOUND, position):
                return 0
            position += len(_BOUND)
        row = unit.row
        if row:
            if not data.startswith(row, position):
                return 0
            position += len(row)
        elif unit.asked:
            if not data.startswith(_NO_ROWS, position):
                return 0
            position += len(_NO_ROWS)
        while end - position >= _HEADER and data[position] == _ROW and row:
            size = _LENGTH(data, position + 1)[0]
            if size < _HEADER + 1:
                return 0
            position += 1 + size
        # CommandComplete and ReadyForQuery; the shortest tag that is known has six bytes.
        if (
            end - position < _HEADER + 12
            or data[position] != _COMPLETE
            or not data.startswith(_TAGS, position + _HEADER)
        ):
            return 0
        size = _LENGTH(data, position + 1)[0]
        position += 1 + size
        if end - position < 6 or data[position - 1] or not data.startswith(b"Z\x00\x00\x00\x05", position):
            return 0
        position += 6
        return position if data[position - 1] in _STATUS else 0
