"""The fast lane: whole requests that are known, recognised by their first bytes, and their answers by theirs.

    client  Bind(unnamed portal), [Describe,] Execute, Sync   of a prepared statement that is known to pass, or a planned read
            the same behind Parse of the unnamed statement    if that is known, text and types byte for byte
            Query                                             whose text, but for its numbers, is known to pass
    server  the answers to these, each whole, with the very RowDescription that the witness has agreed to

A planned read has its record when it is sent, and its answer waits here until that is durable; then sealed values in it are opened. What is known was found out by the slow lane (frontend, backend), under one generation of rules and catalog and one set of settings, and holds
for these alone. Anything else, in either direction, goes to the slow lane at a message boundary: what has been sent is put into the pipeline
as the slow lane would have put it there, and what has not been looked at is given to it (docs/adr/0039). The slow lane is the reference:
tests/session/test_lane.py plays the same conversations with and without this one, cut anywhere.
"""

from __future__ import annotations

import re
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache

from audit.errors import AuditUnavailable
from proxy.errors import ProtocolError
from proxy.session.gate import Admit, BadValue, Pass
from proxy.session.judging import indifferent
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.renewing import sent
from proxy.session.results import opened
from proxy.session.statements import Portal, Run
from proxy.wire import messages
from proxy.wire.framing import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.gate import Settings
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement
    from proxy.session.witness import Shown

_LENGTH: Final = Struct("!i").unpack_from
_HEADER: Final = 5
_QUERY, _PARSE, _BIND = messages.Front.QUERY, messages.Front.PARSE, messages.Front.BIND
_ROW, _COMPLETE = messages.Back.DATA_ROW, messages.Back.COMMAND_COMPLETE

_DESCRIBE: Final = messages.build_describe(b"P", b"")
_EXECUTE_SYNC: Final = messages.build_execute(b"") + messages.SYNC
_ASKED: Final = _DESCRIBE + _EXECUTE_SYNC
_PARSED: Final = messages.PARSE_COMPLETE
_BOUND: Final = messages.BIND_COMPLETE
_NO_ROWS: Final = messages.NO_DATA
# After these nothing of the session is another than before; CREATE TABLE AS, which says SELECT, is not known to pass.
_TAGS: Final = (b"SELECT ", b"INSERT ", b"UPDATE ", b"DELETE ", b"BEGIN\x00", b"COMMIT\x00", b"MERGE ")
_STATUS: Final = frozenset(b"IT")
# So begin the last words of a server that ends. It is not read then while an answer waits, as its end would come before that.
_LAST: Final = (b"E", b"N")

UNITS: Final = 256  # requests under way before the slow lane makes the client wait
HELD: Final = 64 << 10  # bytes of answers that wait for records, before the slow lane stops reading
SHAPES: Final = 256  # texts known to pass, of one login under one generation and settings
SHAPE_BYTES: Final = 512  # of one of them
ROW_BYTES: Final = 2048  # of a description that is kept for a text or statement
UNNAMED: Final = 16  # unnamed statements that a session knows
UNNAMED_BYTES: Final = 2048  # of the Parse of one
SETS: Final = 32  # logins, settings and generations of which texts are known
_NUMBER: Final = re.compile(rb"\b[0-9]+\b").sub
# Without what a digit could be part of besides a number: constants, quoted names, names with a dollar or beyond ASCII. (Nor comments.)
_PLAIN: Final = re.compile(rb"[\t\n\r !#%&(-\[\]-~]*").fullmatch


def shape_of(text: bytes) -> bytes | None:
    """A text with all its numbers alike; None where that is not certain to leave its meaning to pgveil as it is."""
    if len(text) > SHAPE_BYTES or _PLAIN(text) is None or b"--" in text or b"/*" in text:
        return None
    return _NUMBER(b"0", text)


def _changes_nothing(decision: Pass | Admit) -> bool:
    """Whether nothing that a session keeps in its books is another afterwards, and the description shows all that matters."""
    return not (decision.unsettles or decision.ddl or decision.names or decision.by_name or decision.unshown)


def plain(decision: object) -> bool:
    """Whether a decision lets one statement pass that changes nothing which a session keeps in its books."""
    return (
        isinstance(decision, Pass)
        and decision.statements == 1
        and decision.noted is None
        and decision.copies is None
        and _changes_nothing(decision)
    )


class PassingTexts:
    """For all sessions of a worker on one database: shapes that pass, with the RowDescription agreed for each (b"": it returns no rows)."""

    __slots__ = ("_sets",)

    def __init__(self) -> None:
        self._sets: LRUCache[tuple[int, str, Settings], dict[bytes, bytes]] = LRUCache(SETS)

    def of(self, generation: int, login: str, settings: Settings) -> dict[bytes, bytes]:
        """The texts of one login under one generation and these settings."""
        key = (generation, login, settings)
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = {}
        return found


def reads(decision: object) -> bool:
    """Whether a decision is to run one statement that only reads what is protected, with nothing to be sealed, counted or asked for it."""
    if not isinstance(decision, Admit) or len(decision.plans) != 1:
        return False
    plan = decision.plans[0]
    return (
        plan is not None
        and bool(plan.touched)
        and plan.results is not None
        and not (
            plan.later
            or plan.copy
            or plan.storing
            or plan.writes
            or plan.params
            or plan.metered
            or plan.explains
            or decision.witness
            or decision.probes
        )
        and _changes_nothing(decision)
    )


class Unit:
    """One request on its way: a batch that bound `portal`, the unnamed one, or (None) a simple Query.

    Of a planned read `run` is the execution, `ticket` the record that must be durable before its answer passes (0: it is), `shown` what the client
    is told of the rows, and `bind` its Bind.

    `generation`: the judge's, under which it passes. `row`: the RowDescription that its answer must have, b"" where it returns no rows; `head`: what its answer begins with. `asked`: the client has sent the Describe itself.
    `undo`: as of Expectation. `parsed`: the unnamed statement, where the batch began with its Parse, and `unparse` what takes that back;
    `instead`: another Parse that goes to the server, in place of `replaced` bytes.
    """

    __slots__ = (
        "asked",
        "bind",
        "generation",
        "head",
        "instead",
        "parsed",
        "portal",
        "replaced",
        "row",
        "run",
        "shown",
        "ticket",
        "undo",
        "unparse",
    )

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
        self.head = row if portal is None else _BOUND + (row or (_NO_ROWS if asked else b""))
        self.asked = asked
        self.portal = portal
        self.undo = undo
        self.parsed: PreparedStatement | None = None
        self.unparse: Callable[[], None] | None = None
        self.instead: bytes | None = None
        self.replaced = 0
        self.run: Run | None = None
        self.ticket = 0
        self.shown: Shown | None = None
        self.bind = b""


class Lane:
    """The fast lane of one session. `units` are under way; while there are any, nothing else is."""

    __slots__ = (
        "_enabled",
        "_generation",
        "_known",
        "_login",
        "_settings",
        "_state",
        "_texts",
        "_unnamed",
        "is_open",
        "kept",
        "units",
    )

    def __init__(self, state: State, known: PassingTexts, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._state = state
        self._known = known
        self._login = state.identity.login
        self._generation = -1
        self._settings: Settings | None = None
        self._texts: dict[bytes, bytes] = {}
        self.units: deque[Unit] = deque()
        self._unnamed: dict[
            bytes, tuple[PreparedStatement, bytes | None]
        ] = {}  # with the Parse that goes to the server instead
        self.kept = b""  # answers that wait for a record
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

    def leave(self) -> bytes:
        """Something comes that the slow lane is to see: what is under way is put into the pipeline. What of the server's is to be fed to it."""
        self.is_open = False
        while self.units:
            self._hand_over(self.units.popleft())
        kept, self.kept = self.kept, b""
        return kept

    def _hand_over(self, unit: Unit) -> None:
        """Leave the expectations that the slow lane would have left."""
        leave = self._state.pipeline.sent
        portal = unit.portal
        if portal is None:
            leave(Expectation(Kind.QUERY, undo=unit.undo))
            return
        if unit.parsed is not None:
            leave(Expectation(Kind.PARSE, statement=unit.parsed, undo=unit.unparse))
        portal.bound()
        if unit.run is not None:
            portal.run = unit.run
            try:
                portal.formats = messages.parse_bind(unit.bind[_HEADER:]).result_formats
            except ProtocolError as error:
                self._state.fatal(error)
        leave(Expectation(Kind.BIND, portal=portal, undo=unit.undo))
        if unit.asked or unit.row:
            route = Route.FORWARD if unit.asked else Route.GUARD
            portal.fresh = portal.trusted = True
            leave(Expectation(Kind.DESCRIBE_PORTAL, route, portal=portal, undo=portal.not_asked))
        leave(Expectation(Kind.EXECUTE, portal=portal, run=unit.run, ticket=unit.ticket))
        leave(Expectation(Kind.SYNC))

    # -- what is known to pass -------------------------------------------------------------------------------------------------------

    def learner(
        self, text: bytes, decision: Pass | Admit, generation: int, settings: Settings
    ) -> Callable[[bytes], None] | None:
        """What is to be told the description of a Query's answer, by which the next one of its shape comes this way.

        `generation`, `settings`: what the decision was made under; both may be others by now, as the Query has waited.
        """
        same = plain(decision) and isinstance(decision, Pass) and decision.instead is None
        shape = shape_of(text) if same else None
        if shape is None:
            return None
        texts = self._known.of(generation, self._login, settings)

        def learn(row: bytes) -> None:
            if len(row) > ROW_BYTES:
                return
            if len(texts) >= SHAPES:
                texts.pop(next(iter(texts)))
            texts[shape] = row

        return learn

    def described(self, statement: PreparedStatement, kind: Kind, raw: bytes, shown: Shown | None) -> None:
        """The witness agrees to what the server has said of a statement or its portal; the next Bind of it may come this way."""
        settings = self._state.tracker.settings
        same, passes = shown is None or shown.message == raw, plain(statement.decision)
        row = shown.message if shown is not None and same else raw  # of equal ones that which is kept for all sessions
        if row and kind is not Kind.DESCRIBE_PORTAL:
            return  # its formats are not known yet
        kept = (
            len(row) <= ROW_BYTES
            and ((same and passes) or (shown is not None and reads(statement.decision)))
            and statement.generation == self._state.judge.generation
            and (statement.settings == settings or indifferent(statement, settings))
            and not (statement.dropped_name or statement.made or statement.judge or statement.computed)
            and statement.names is None
        )
        statement.row, statement.row_under = (row, settings) if kept else (None, None)
        statement.row_shown = shown if kept and not passes else None
        # One that was confirmed under other settings or another generation keeps what was put in its text's place then; a Parse does not.
        if kept and not statement.name:
            self._know_unnamed(statement, known=statement.origin is None and statement.settings == settings)

    def _know_unnamed(self, statement: PreparedStatement, *, known: bool) -> None:
        asked = messages.build_parse(b"", statement.text, statement.types)
        if len(asked) > UNNAMED_BYTES:
            return
        key = asked[_HEADER + 1 :]
        self._unnamed.pop(key, None)
        if not known:
            return
        if len(self._unnamed) >= UNNAMED:
            self._unnamed.pop(next(iter(self._unnamed)))
        as_it_came = isinstance(statement.decision, Pass) and statement.decision.instead is None
        self._unnamed[key] = statement, None if as_it_came else messages.build_parse(b"", *sent(statement))

    # -- the client's direction ------------------------------------------------------------------------------------------------------

    def client(self, data: bytes) -> int:
        """Send on the requests at the beginning of `data`; how many bytes that were."""
        state = self._state
        units = self.units
        end = len(data)
        position = done = 0  # of what has gone to the server
        while position < end and len(units) < UNITS:
            unit, after = self._request(data, position, end)
            if unit is None:
                break
            if unit.instead is not None:
                state.to_server.append(data[done:position])
                state.to_server.append(unit.instead)
                done = position + unit.replaced
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

    def _request(self, data: bytes, position: int, end: int) -> tuple[Unit | None, int]:
        """The request that begins at `position`, if it is known, and where it ends."""
        kind = data[position]
        if kind == _BIND:
            return self._batch(data, position, end, None)
        if kind == _QUERY:
            return self._query(data, position, end)
        return self._parsed(data, position, end) if kind == _PARSE else (None, 0)

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

    def _parsed(self, data: bytes, position: int, end: int) -> tuple[Unit | None, int]:
        state = self._state
        if end - position < _HEADER + 1 or data[position + _HEADER]:
            return None, 0
        behind = position + 1 + _LENGTH(data, position + 1)[0]
        if not position < behind < min(end, position + UNNAMED_BYTES + 1) or data[behind] != _BIND:
            return None, 0
        known = self._unnamed.get(data[position + _HEADER + 1 : behind])
        if known is None or len(state.statements) >= state.limits.statements:
            return None, 0
        statement, raw = known
        unit, after = self._batch(data, behind, end, statement)
        if unit is None:
            return None, 0
        unit.parsed = statement
        unit.head = _PARSED + unit.head
        unit.unparse = state.statements.put(b"", statement)
        if raw is not None:
            unit.instead, unit.replaced = raw, behind - position
            state.observer.message_objects(1)
        return unit, after

    def _batch(self, data: bytes, position: int, end: int, parsed: PreparedStatement | None) -> tuple[Unit | None, int]:
        state = self._state
        # Bind: length, portal, statement; the rest is between the client and the server.
        if end - position < _HEADER + 2 or data[position + _HEADER]:
            return None, 0
        behind = position + 1 + _LENGTH(data, position + 1)[0]
        if behind >= end or behind < position + _HEADER + 2:
            return None, 0
        name_end = data.find(0, position + _HEADER + 1, behind)
        if parsed is None:
            statement = state.statements.get(data[position + _HEADER + 1 : name_end]) if name_end > 0 else None
        else:
            statement = parsed if name_end == position + _HEADER + 1 else None
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
        if statement.row_shown is not None:
            return self._planned(statement, statement.row_shown, asked, data[position:behind]), after
        return self._passing(statement, row, asked), after

    def _passing(self, statement: PreparedStatement, row: bytes, asked: bool) -> Unit | None:
        state = self._state
        portal = statement.plain_portal
        if portal is None or portal.name or len(state.portals) >= state.limits.portals:
            return None
        undo = state.portals.put(b"", portal) if len(state.portals) else None
        return Unit(statement.generation, row, asked, portal, undo)

    def _planned(self, statement: PreparedStatement, shown: Shown, asked: bool, bind: bytes) -> Unit | None:
        """A planned read: its record begins."""
        state = self._state
        decision = statement.decision
        if not state.tracker.known or not isinstance(decision, Admit) or len(state.portals) >= state.limits.portals:
            return None
        (plan,) = decision.plans
        assert plan is not None
        portal = Portal(b"", statement)
        portal.judge = statement.judge
        # Behind other requests it may be one of a transaction, and outlive its batch.
        lasting = len(state.portals) or self.units or state.pipeline.status != b"I"
        undo = state.portals.put(b"", portal) if lasting else None
        try:
            ticket, number = state.trail.start(state.principal, plan, decision.shape)
        except AuditUnavailable:
            if undo is not None:
                undo()
            return None  # which the slow lane says
        now = state.clock()
        run = Run(decision, (number,), now, now, portal=portal)
        state.recorded[number] = run
        assert statement.row is not None
        unit = Unit(statement.generation, statement.row, asked, portal, undo)
        unit.run, unit.ticket, unit.shown, unit.bind = run, ticket, shown, bind
        return unit

    # -- the server's direction ------------------------------------------------------------------------------------------------------

    def server(self, data: bytes) -> bool:
        """Send on answers that are whole, keep those that wait for a record; whether that was all. Else `leave` gives the rest."""
        last = False
        if self.kept:
            last = data.startswith(_LAST)
            data = self.kept + data
        taken = self._answered(data)
        if taken == len(data):
            self.kept = b""
            return True
        self.kept = data[taken:] if taken else data
        units = self.units
        return not last and bool(units) and not self._state.trail.durable(units[0].ticket) and len(self.kept) < HELD

    def _answered(self, data: bytes) -> int:
        state = self._state
        units = self.units
        generation = state.judge.generation
        end = len(data)
        position = done = 0  # of what has gone to the client
        passed = 0
        while units and position < end:
            unit = units[0]
            if unit.ticket:
                if not state.trail.durable(unit.ticket):
                    break
                unit.ticket = 0
            after = self._answer(data, position, end, unit) if unit.generation == generation else 0
            if not after:
                break
            if unit.run is not None:
                if done < position:
                    state.to_client.append(data[done:position])
                if not self._open(data, position, after, unit):
                    done = position
                    break
                done = after
            elif unit.row and unit.portal is not None and not unit.asked:
                rows = position + len(unit.head)
                state.to_client.append(data[done : rows - len(unit.row)])
                done = rows
            units.popleft()
            passed += unit.run is None
            position = after
            state.pipeline.status = data[after - 1 : after]
            if len(state.portals) and state.pipeline.status == b"I":
                state.end_portals(unnamed=any(u.portal is not None for u in units))
        if done < position:
            state.to_client.append(data if not done and position == end else data[done:position])
        if passed:
            state.observer.passed(passed)
        return position

    def _open(self, data: bytes, position: int, after: int, unit: Unit) -> bool:
        """Send on the answer of a planned read, its sealed values opened; False where one does not open: nothing of it has gone then."""
        state = self._state
        run, shown = unit.run, unit.shown
        assert run is not None
        assert shown is not None
        rows = position + len(unit.head)
        start = rows - len(unit.row)
        starts = [0]
        tail = rows
        while data[tail] == _ROW:
            tail += 1 + _LENGTH(data, tail + 1)[0]
            starts.append(tail - rows)
        body = data[rows:tail]
        if shown.openings and tail > rows:
            try:
                body = opened(state, shown, Batch(_ROW, body, starts), portal=None)
            except (BadValue, ProtocolError):
                return False
        state.to_client.append(data[position:start] + shown.message if unit.asked else data[position:start])
        state.to_client.append(body)
        state.to_client.append(data[tail:after])
        told = data[tail + _HEADER : after - 7].rpartition(b" ")[2]
        state.end_run(run, "ok", None, int(told) if told.isdigit() else None)
        return True

    @staticmethod
    def _answer(data: bytes, position: int, end: int, unit: Unit) -> int:
        """Where a request's answers end, if they are all here and are as they should be; else 0."""
        if not data.startswith(unit.head, position):
            return 0
        position += len(unit.head)
        row = unit.row
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
