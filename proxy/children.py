"""A worker as its supervisor sees it: a process, the line to it, and what it has said."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import TYPE_CHECKING

from proxy.channel import Answer, Failed, Line, Order, Ready, Report, Retire

if TYPE_CHECKING:
    from collections.abc import Collection


class Child:
    """One worker process. `ready` is done when it serves (True) or has ended without (False); `ended` with its exit code, negative for signals.

    `number` names its audit log; `state`: which reload it began after. `why`: what it said of a start that failed;
    `covered`: the places that it was last told to cover.
    """

    def __init__(self, process: asyncio.subprocess.Process, line: Line, number: int, state: int) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._line = line
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        self._told = asyncio.Event()
        self._patience = 0.0
        self.number = number
        self.state = state
        self.why: str | None = None
        self.expected = False
        self.covered: tuple[int, ...] = ()
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Task[int] = loop.create_task(self._live())

    @classmethod
    async def start(cls, command: list[str], descriptors: Collection[int], number: int, state: int) -> Child:
        """A new process. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=theirs.fileno(),
                    pass_fds=tuple(descriptors),
                    # A Ctrl-C in a terminal goes to the whole group; only the supervisor is to act on it.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, await Line.open(ours, Report), number, state)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def serves(self) -> bool:
        """Whether it takes connections."""
        return self.ready.done() and self.ready.result() and not self._told.is_set() and not self.ended.done()

    def tell(self, order: Order) -> None:
        """An order that is not answered."""
        self._line.send(order)

    async def ask(self, order: Order, number: int, seconds: float) -> str | None:
        """An order that is answered: why it could not be done; None where it was."""
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._line.send(order)
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            return f"no answer within {seconds:g} seconds"
        finally:
            del self._answers[number]

    def stop(self, patience: float) -> None:
        """Let it drain and end; after `patience` seconds it is killed."""
        self.expected = True
        self._patience = patience
        if self._told.is_set():
            return
        self._told.set()
        if self.ready.done():
            self._line.send(Retire())
        else:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _live(self) -> int:
        """To the process's end."""
        hearing = asyncio.create_task(self._hear())
        told = asyncio.create_task(self._told.wait())
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait((ended,), timeout=self._patience)
            if not ended.done():
                self.kill()
            code = await ended
            await hearing  # what it said last is there when its end is known
            return code
        finally:
            told.cancel()
            hearing.cancel()
            if self._process.returncode is None:
                self.kill()
            self._line.close()

    async def _hear(self) -> None:
        while (report := await self._line.receive()) is not None:
            match report:
                case Ready():
                    if not self.ready.done():
                        self.ready.set_result(True)
                case Failed(why):
                    self.why = why
                case Answer(number, why):
                    answer = self._answers.get(number)
                    if answer is not None and not answer.done():
                        answer.set_result(why)
        if not self.ready.done():
            self.ready.set_result(False)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result("it has ended")
