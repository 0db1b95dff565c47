"""The moments: what a client has done before the change, and what it does afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ddl.stage import Line

_DONE = bytes((m.Back.ERROR, m.Back.PORTAL_SUSPENDED, m.Back.COMMAND_COMPLETE))


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its text, and of those that write the values of its parameters, which are new each time.

    `values`: makes them; `copied`: COPY data instead.
    """

    text: str
    values: Callable[[], tuple[str, ...]] | None = None
    copied: Callable[[], str] | None = None

    def bind(self, portal: bytes, name: bytes) -> bytes:
        """A Bind with values."""
        values = () if self.values is None else tuple(v.encode() for v in self.values())
        return m.build_bind(portal, name, (), values)

    def simple(self) -> bytes:
        """A Query with the values as constants, and COPY data behind it."""
        text = self.text
        for number, value in enumerate(() if self.values is None else self.values(), 1):
            text = text.replace(f"${number}", value if value.isdigit() else f"'{value}'")
        return m.build_query(text.encode())


class Moment(Protocol):
    """`before` the change; `after` it, once or more."""

    def before(self, line: Line, statement: Statement) -> None:
        """What is done before."""

    def after(self, line: Line, statement: Statement) -> None:
        """What is done afterwards."""


NAME = b"s"


def _run(statement: Statement, *, portal: bytes = b"", describe: bool = False, limit: int = 0) -> bytes:
    described = m.build_describe(b"P", portal) if describe else b""
    return statement.bind(portal, NAME) + described + m.build_execute(portal, limit)


def _copy(line: Line, statement: Statement, answer: list[tuple[int, bytes]], *, extended: bool) -> None:
    """Send COPY data where the server asks for it."""
    if statement.copied is None or not answer or answer[-1][0] != m.Back.COPY_IN:
        return
    data = m.build_copy_data(statement.copied().encode()) + m.message(m.Front.COPY_DONE, b"")
    line.ask(data + (m.SYNC if extended else b""))


def ask(line: Line, statement: Statement, data: bytes, *, extended: bool = False) -> None:
    """Send something that runs a statement, and go through with a COPY."""
    until = b"Z" if statement.copied is None else bytes((m.Back.COPY_IN, m.Back.READY))
    _copy(line, statement, line.ask(data, until=until), extended=extended)


class BetweenParseAndBind:
    """Parsed and described in one batch, bound and executed in the next one."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.ask(m.build_parse(NAME, statement.text.encode()) + m.build_describe(b"S", NAME) + m.SYNC)

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        for describe in (False, True):
            ask(line, statement, _run(statement, describe=describe) + m.SYNC, extended=True)


class BetweenBindAndExecute:
    """Bound in a transaction block, executed in the next batch."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.query("BEGIN")
        line.ask(m.build_parse(NAME, statement.text.encode()) + statement.bind(b"p", NAME) + m.SYNC)

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        ask(line, statement, m.build_execute(b"p") + m.SYNC, extended=True)
        line.query("COMMIT")


class BetweenTwoExecutes:
    """A named statement that has been executed, with and without a Describe."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.ask(m.build_parse(NAME, statement.text.encode()) + m.SYNC)
        ask(line, statement, _run(statement) + m.SYNC, extended=True)

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        for describe in (False, True):
            ask(line, statement, _run(statement, describe=describe) + m.SYNC, extended=True)


class PortalSuspended:
    """One row has been fetched of a portal in a transaction block."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.query("BEGIN")
        parse = m.build_parse(NAME, statement.text.encode())
        ask(line, statement, parse + _run(statement, portal=b"p", limit=1) + m.SYNC, extended=True)

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        ask(line, statement, m.build_execute(b"p", 1) + m.SYNC, extended=True)
        ask(line, statement, m.build_execute(b"p") + m.SYNC, extended=True)
        line.query("COMMIT")


@dataclass(frozen=True, slots=True)
class InTransaction:
    """In an open transaction that has not touched the table yet (its snapshot is taken), by all protocols."""

    isolation: str

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.ask(m.build_parse(NAME, statement.text.encode()) + m.SYNC)
        line.query(f"BEGIN ISOLATION LEVEL {self.isolation}; SELECT count(*) FROM pg_class")

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.query("SAVEPOINT a")
        ask(line, statement, _run(statement) + m.SYNC, extended=True)
        line.query("ROLLBACK TO a")
        ask(line, statement, statement.simple())
        line.query("COMMIT")


class SimpleBackToBack:
    """Simple queries, one before and two afterwards."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        ask(line, statement, statement.simple())

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        for _ in range(2):
            ask(line, statement, statement.simple())


class Prepared:
    """Prepared in SQL, and executed once."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        types = "" if statement.values is None else "(int, text, text, text)"
        line.query(f"PREPARE named{types} AS {statement.text}")
        line.query(_execute(statement))

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        for _ in range(2):
            line.query(_execute(statement))


class Declared:
    """A cursor declared in SQL, and one row fetched."""

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.query("BEGIN")
        line.query(f"DECLARE c CURSOR FOR {statement.text}")
        line.query("FETCH 1 FROM c")

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""
        line.query("FETCH ALL FROM c")
        line.query("COMMIT")


def _execute(statement: Statement) -> str:
    if statement.values is None:
        return "EXECUTE named"
    return f"EXECUTE named({', '.join(v if v.isdigit() else repr(v) for v in statement.values())})"


class InFlight:
    """A Query, or a batch, that has been judged and is on its way when the change comes: before the n-th time that bytes go to the server."""

    def __init__(self, flight: int, *, pipeline: bool) -> None:
        self._flight = flight
        self._pipeline = pipeline

    def before(self, line: Line, statement: Statement) -> None:
        """See Moment. Once before, so that nothing has to be asked any more."""
        ask(line, statement, statement.simple())
        line.ask(m.build_parse(NAME, statement.text.encode()) + m.SYNC)
        ask(line, statement, _run(statement) + m.SYNC, extended=True)

    def begin(self, line: Line, statement: Statement) -> None:
        """The statement is sent, and gets as far as it may."""
        line.stop_at = line.flights + self._flight
        if not self._pipeline:
            ask(line, statement, statement.simple())
        elif statement.copied is not None:
            ask(line, statement, _run(statement) + m.SYNC, extended=True)
        else:
            line.ask(_run(statement) + _run(statement, portal=b"q") + m.SYNC)

    def end(self, line: Line, statement: Statement) -> None:
        """It goes on."""
        if line.stop_at is None:
            return
        line.stop_at = None
        until = b"Z" if statement.copied is None else bytes((m.Back.COPY_IN, m.Back.READY))
        _copy(line, statement, line.until(until), extended=self._pipeline)

    def after(self, line: Line, statement: Statement) -> None:
        """See Moment."""


MOMENTS: dict[str, Moment] = {
    "between Parse and Bind": BetweenParseAndBind(),
    "between Bind and Execute": BetweenBindAndExecute(),
    "between two Executes": BetweenTwoExecutes(),
    "portal suspended": PortalSuspended(),
    "open transaction, READ COMMITTED": InTransaction("READ COMMITTED"),
    "open transaction, REPEATABLE READ": InTransaction("REPEATABLE READ"),
    "simple queries back to back": SimpleBackToBack(),
    "prepared in SQL": Prepared(),
    "declared in SQL": Declared(),
    "query in flight, 1": InFlight(1, pipeline=False),
    "query in flight, 2": InFlight(2, pipeline=False),
    "pipeline in flight, 1": InFlight(1, pipeline=True),
    "pipeline in flight, 2": InFlight(2, pipeline=True),
}
