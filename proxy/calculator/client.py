"""One connection to the engine: a question as one pipeline of messages, and its answer (PostgreSQL 55.2.3, 55.2.4).

Every question runs in a transaction of its own that only reads and is rolled back, whatever came of it, so that nothing it does to the
connection's settings stays. The client's settings are set before it, outside, and kept from question to question.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy import limits
from proxy.calculator.troubles import judge_error, setting_unknown
from proxy.session.computing import Answer, CalculatorError
from proxy.wire import messages
from proxy.wire.arrays import text_array
from proxy.wire.framing import Batch, Direction, Framer, Message
from proxy.wire.messages import Back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from keys.types import OutputSettings
    from proxy.session.computing import Question
    from proxy.session.replies import Trouble
    from proxy.wire.framing import Event
    from proxy.wire.messages import BackendKey

STATEMENTS: Final = 64  # prepared ones that a connection remembers
_LONG_TEXT: Final = 32 * limits.KIB  # is not worth the memory
# Constants that PostgreSQL replaces by the moment at which it reads the text: such a text is read anew each time.
_MOMENTS: Final = re.compile(rb"(?<![a-z_])(?:now|today|tomorrow|yesterday)(?![a-z_])", re.IGNORECASE)
_READ: Final = 256 * limits.KIB
_EVERYTHING: Final = frozenset(limits.BACKEND_MAXIMUM)
_ROWS: Final = frozenset((Back.DATA_ROW,))
_NO_DATABASE: Final = "3D000"
_BEGIN: Final = b"pgveil_begin"
_ROLLBACK: Final = b"pgveil_rollback"
_SETTING: Final = b"setting"
_TEXT_OID: Final = 25
_DESCRIBES: Final = frozenset((Back.ROW_DESCRIPTION, Back.NO_DATA))
_ENDS: Final = frozenset((Back.COMMAND_COMPLETE, Back.EMPTY_QUERY))
_SILENT: Final = frozenset((Back.BIND_COMPLETE, Back.CLOSE_COMPLETE, Back.NOTICE, Back.PARAMETER_STATUS))
_EXECUTE: Final = messages.build_execute(b"")


class EngineLost(Exception):  # noqa: N818 - what happened, not a mistake
    """The connection ended, or the engine said what it never says; the connection is of no more use."""


class DatabaseMissing(EngineLost):
    """The engine has no database of that name: it was started anew."""


class TooMuch(EngineLost):
    """The answer goes beyond the bounds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one answer may have: rows, bytes of them, and time."""

    rows: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Key:
    """What a prepared statement depends on."""

    text: bytes = field(repr=False)
    types: tuple[int, ...]


@dataclass(slots=True)
class _Statement:
    name: bytes
    parameters: tuple[int, ...] | None = None


@dataclass(slots=True)
class Collected:
    """What the engine said to one pipeline, up to ReadyForQuery."""

    parsed: bool = False
    parameters: tuple[int, ...] | None = None
    description: bytes = b""
    rows: list[bytes] = field(default_factory=list)
    size: int = 0
    tags: list[bytes] = field(default_factory=list)
    error: bytes | None = None
    idle: bool = True


class Connection:
    """A connection of the calculator's role to one database of the engine. Questions one at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, database: str, bounds: Bounds
    ) -> None:
        self.database = database
        self.settings: tuple[OutputSettings, bool] | None = None
        self.used = False
        self._reader = reader
        self._writer = writer
        self._path = path
        self._bounds = bounds
        self._framer = Framer(
            Direction.BACKEND,
            interpret=_EVERYTHING,
            batch=_ROWS,
            whole_limits={Back.DATA_ROW: bounds.size},
        )
        self._key: BackendKey | None = None
        self._statements: OrderedDict[_Key, _Statement] = OrderedDict()
        self._count = 0

    @classmethod
    async def open(cls, path: str, database: str, role: str, bounds: Bounds) -> Connection:
        """Log in. Raises EngineLost, OSError; DatabaseMissing where there is none of that name."""
        reader, writer = await asyncio.open_unix_connection(path, limit=_READ)
        connection = cls(reader, writer, path, database, bounds)
        try:
            await connection._log_in(role)
        except BaseException:
            connection.drop()
            raise
        return connection

    async def _log_in(self, role: str) -> None:
        pairs = ((b"user", role.encode()), (b"database", self.database.encode()), (b"client_encoding", b"UTF8"))
        self._writer.write(messages.Startup(messages.PROTOCOL_3_0, pairs).build())
        await self._collect()
        for name, text in ((_BEGIN, b"BEGIN READ ONLY"), (_ROLLBACK, b"ROLLBACK")):
            self._writer.write(messages.build_parse(name, text))
        self._writer.write(messages.SYNC)
        if (await self._collect()).error is not None:
            raise EngineLost

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    def drop(self) -> None:
        """End it at once, whatever it does."""
        transport = self._writer.transport
        if transport is not None:
            transport.abort()

    async def cancel(self) -> None:
        """Ask the engine to end what this connection computes; best effort."""
        if self._key is None:
            return
        try:
            _, writer = await asyncio.open_unix_connection(self._path)
        except OSError:
            return
        writer.write(messages.CancelRequest(self._key.process_id, self._key.key).build())
        writer.close()

    async def simple(self, sql: str) -> Collected:
        """A statement of ours by a simple Query. Raises EngineLost, OSError."""
        self._writer.write(messages.build_query(sql.encode()))
        return await self._collect()

    # -- questions

    async def run(self, question: Question) -> Answer | CalculatorError | Trouble:
        """Run it. Raises EngineLost, OSError, ProtocolError: the connection is then of no more use."""
        return await self._ask(question, execute=True)

    async def describe(self, question: Question) -> Answer | CalculatorError | Trouble:
        """Parse and describe it only. Raises as `run`."""
        return await self._ask(question, execute=False)

    async def _ask(self, question: Question, *, execute: bool) -> Answer | CalculatorError | Trouble:
        read = question.read or question.settings
        trouble = await self._set(read, conforming=question.standard_conforming_strings)
        if trouble is not None:
            return trouble
        key, statement, parts = self._prepare(question)
        parts.append(_run_named(_BEGIN))
        if statement.parameters is None:
            parts.append(messages.build_parse(statement.name, question.text, question.types))
        if statement.parameters is None or not execute:
            parts.append(messages.build_describe(b"S", statement.name))
        if execute:
            parts += _execution(question, statement.name, read)
        parts += (_run_named(_ROLLBACK), messages.SYNC)
        self._writer.writelines(parts)
        await self._writer.drain()
        said = await self._collect()
        if statement.name and not said.parsed and statement.parameters is None:
            self._statements.pop(key, None)
        elif said.parameters is not None:
            statement.parameters = said.parameters
        if not said.idle:
            await self._roll_back()
        if said.error is not None:
            return judge_error(said.error, self._bounds.seconds)
        tag = said.tags[-2] if execute and len(said.tags) > 2 else b""  # before ROLLBACK's
        return Answer(statement.parameters or (), said.description, tuple(said.rows), tag)

    def _prepare(self, question: Question) -> tuple[_Key, _Statement, list[bytes]]:
        """The statement of a text, known or new, and what has to be sent before it is prepared."""
        key = _Key(question.text, question.types)
        known = self._statements.get(key)
        if known is not None and known.parameters is not None:
            self._statements.move_to_end(key)
            return key, known, []
        if len(question.text) > _LONG_TEXT or _MOMENTS.search(question.text):
            return key, _Statement(b""), []
        parts = []
        if len(self._statements) >= STATEMENTS:
            _, oldest = self._statements.popitem(last=False)
            parts.append(messages.build_close(b"S", oldest.name))
        self._count += 1
        statement = self._statements[key] = _Statement(b"s%d" % self._count)
        return key, statement, parts

    async def _set(self, settings: OutputSettings, *, conforming: bool) -> Trouble | None:
        """Bring the settings to those under which the question is read."""
        wanted = (settings, conforming)
        if wanted == self.settings:
            return None
        self.settings = None
        if self._statements:
            # What they were read under no longer holds (constants of type timestamptz, for one).
            closed = [messages.build_close(b"S", statement.name) for statement in self._statements.values()]
            self._writer.writelines(closed)
            self._statements.clear()
        for name, value in (*_settings(settings), ("standard_conforming_strings", "on" if conforming else "off")):
            text = f"SET {name} = {_quoted(value)}"
            self._writer.write(messages.build_parse(b"", text.encode()) + messages.build_bind(b"", b"") + _EXECUTE)
        self._writer.write(messages.SYNC)
        said = await self._collect()
        if said.error is not None:
            return setting_unknown(said.error)
        self.settings = wanted
        return None

    async def _roll_back(self) -> None:
        self._writer.write(messages.build_query(b"ROLLBACK"))
        if not (await self._collect()).idle:
            raise EngineLost

    # -- answers

    async def _collect(self) -> Collected:
        """Everything up to ReadyForQuery. Raises TooMuch, when the engine has been asked to stop."""
        said = Collected()
        async for event in self._events():
            if isinstance(event, Batch):
                said.size += len(event.raw)
                starts = event.starts
                said.rows += [event.raw[starts[i] : starts[i + 1]] for i in range(event.messages)]
                if said.size > self._bounds.size or len(said.rows) > self._bounds.rows:
                    raise TooMuch
            elif isinstance(event, Message) and self._take(event, said):
                return said
        raise EngineLost

    def _take(self, event: Message, said: Collected) -> bool:
        """Note one message; true for the last one."""
        kind = event.kind
        if kind == Back.READY:
            said.idle = messages.parse_ready(event.body) == b"I"
            return True
        if kind == Back.ERROR:
            said.error = said.error or _not_fatal(event.raw)
        elif kind in _DESCRIBES:
            said.description = event.raw if kind == Back.ROW_DESCRIPTION else b""
        elif kind == Back.PARAMETER_DESCRIPTION:
            said.parameters = messages.parse_parameter_description(event.body)
        elif kind in _ENDS:
            said.tags.append(messages.parse_command_complete(event.body) if kind == Back.COMMAND_COMPLETE else b"")
        elif kind == Back.PARSE_COMPLETE:
            said.parsed = True
        elif kind == Back.BACKEND_KEY:
            self._key = messages.parse_backend_key(event.body)
        elif kind == Back.AUTHENTICATION:
            if messages.parse_authentication(event.body).code != messages.Auth.OK:
                raise EngineLost
        elif kind not in _SILENT:
            raise EngineLost
        return False

    async def _events(self) -> AsyncIterator[Event]:
        while True:
            event = self._framer.next_event()
            if event is not None:
                yield event
                continue
            data = await self._reader.read(_READ)
            if not data:
                raise EngineLost
            self._framer.feed(data)


def _not_fatal(error: bytes) -> bytes:
    """An ErrorResponse after which the connection goes on; no ReadyForQuery follows the others. Raises EngineLost, DatabaseMissing."""
    fields = messages.parse_error(error[5:])
    if fields.fatal:
        raise DatabaseMissing if fields.sqlstate == _NO_DATABASE else EngineLost
    return error


def _run_named(name: bytes) -> bytes:
    return messages.build_bind(b"", name) + _EXECUTE


def _execution(question: Question, name: bytes, read: OutputSettings) -> tuple[bytes, ...]:
    """Bind, Describe and Execute: the client's parameters as they came, the leaves' columns behind them as binary arrays.

    Where the settings were others when the text was read, or its parameters, they are changed in between, as they were there.
    """
    formats = question.formats
    if question.arrays:
        own = len(question.values)
        spread = formats if len(formats) == own else (formats or (0,)) * own
        formats = (*spread, *(1 for _ in question.arrays))
    values = (*question.values, *map(text_array, question.arrays))
    bind = messages.build_bind(b"", name, formats, values, question.result_formats)
    bound = question.bound or question.settings
    changes = _changed(read, bound), _changed(bound, question.settings)
    return *changes[0], bind, *changes[1], messages.build_describe(b"P", b""), _EXECUTE


def _changed(before: OutputSettings, after: OutputSettings) -> list[bytes]:
    """From one to the other, until the end of the transaction, beside the unnamed statement and portal."""
    if before == after:
        return []
    held = dict(_settings(before))
    return [
        messages.build_parse(_SETTING, f"SET LOCAL {name} = {_quoted(value)}".encode())
        + messages.build_bind(_SETTING, _SETTING)
        + messages.build_execute(_SETTING)
        + messages.build_close(b"P", _SETTING)
        + messages.build_close(b"S", _SETTING)
        for name, value in _settings(after)
        if held.get(name) != value
    ]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _settings(settings: OutputSettings) -> tuple[tuple[str, str], ...]:
    return (
        ("client_encoding", settings.client_encoding),
        ("DateStyle", settings.date_style),
        ("IntervalStyle", settings.interval_style),
        ("TimeZone", settings.timezone),
        ("bytea_output", settings.bytea_output),
        ("extra_float_digits", str(settings.extra_float_digits)),
        *settings.others,
    )
