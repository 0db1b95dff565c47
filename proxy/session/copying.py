"""COPY, in the client's direction: the witness is asked first (as before any write of sealed values), then the client's data is sealed row by row.

The server learns of data that can't be sealed by a field that it must refuse, and by CopyFail behind it; its error is replaced by what was
wrong. Whatever the client sends after that is dropped, as the server would drop it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.session.copy_streams import FAIL_REASON, CopyIn, CopyOut, Phase
from proxy.session.copy_witness import CopyWitness
from proxy.session.gate import Admit, Pass
from proxy.session.judging import PLAN_CHANGED
from proxy.session.pipeline import Expectation, Kind, Route
from proxy.session.replies import COPY_NAME, REFUSED_NAME, REFUSED_TEXT
from proxy.session.settings import Probe
from proxy.session.store_witness import PassWitness, StoreWitness
from proxy.session.witness import disagreement
from proxy.wire import messages
from proxy.wire.messages import Front
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from proxy.session.judging import Steps
    from proxy.session.state import State
    from proxy.session.store_witness import Witness
    from proxy.wire.framing import Framer, Head

# Until one of another type comes, the client may be sending data of a COPY that is over.
_OF_COPY: Final = frozenset((Front.COPY_DATA, Front.COPY_DONE, Front.COPY_FAIL, Front.SYNC, Front.FLUSH))


def ask(state: State, decision: Pass | Admit) -> Generator[Callable[[], bool], None, Witness]:
    """Have the server describe what a statement reads or fills; the witness when it is finished."""
    text, witness = _question(state, decision)
    if isinstance(decision, Pass) and decision.copies is not None and decision.copies.denied:
        yield from _look_at_privileges(state, decision.copies.denied, witness)
        if witness.failed or state.ignores():
            return witness
    close = messages.build_close(b"S", COPY_NAME)
    for kind, data in (
        (Kind.CLOSE, close),
        (Kind.PARSE, messages.build_parse(COPY_NAME, text)),
        (Kind.DESCRIBE_STATEMENT, messages.build_describe(b"S", COPY_NAME)),
        (Kind.CLOSE, close),
    ):
        state.send(data, Expectation(kind, Route.GUARD, witness=witness, undo=witness.drop))
    state.to_server.append(messages.FLUSH)
    yield lambda: witness.finished
    return witness


def _look_at_privileges(state: State, text: bytes, witness: Witness) -> Steps:
    """Have the server say whether a table may be read, before it is asked to describe it; where it may not, the client is told as COPY would."""
    asked = (
        (Kind.CLOSE, messages.build_close(b"S", COPY_NAME)),
        (Kind.PARSE, messages.build_parse(COPY_NAME, text)),
        (Kind.BIND, messages.build_bind(COPY_NAME, COPY_NAME)),
        (Kind.EXECUTE, messages.build_execute(COPY_NAME)),
        (Kind.CLOSE, messages.build_close(b"P", COPY_NAME)),
    )
    probe = Probe(len(asked))
    for kind, data in asked:
        state.send(data, Expectation(kind, Route.GUARD, note=probe, witness=witness, undo=probe.drop))
    state.to_server.append(messages.FLUSH)
    yield lambda: probe.finished
    if probe.row is None or state.ignores():
        return
    pairs = (
        (b"S", b"ERROR"),
        (b"V", b"ERROR"),
        (b"C", b"42501"),
        (b"M", b"permission denied for table " + (probe.row[0] or b"")),
    )
    error = messages.build_error(messages.ErrorFields(tuple((code[0], value) for code, value in pairs)))
    state.send(messages.build_parse(REFUSED_NAME, REFUSED_TEXT), Expectation(Kind.PARSE, Route.REPLACE, error=error))
    state.to_server.append(messages.FLUSH)
    yield state.ignores
    witness.failed = True


def _question(state: State, decision: Pass | Admit) -> tuple[bytes, Witness]:
    encoding = state.tracker.settings.client_encoding
    if isinstance(decision, Pass):
        assert decision.copies is not None
        return decision.copies.text, PassWitness(decision.copies, encoding)
    plan = decision.plans[0]
    assert plan is not None
    assert decision.witness is not None
    if plan.copy is not None:
        return decision.witness, CopyWitness(plan, encoding, decision.offsets)
    assert plan.storing is not None
    return decision.witness, StoreWitness(plan.storing)


def disagreed(state: State, witness: Witness) -> Refusal | None:
    """Why a statement may not be sent, where the witness does not agree. The catalog is looked at again then."""
    if witness.agreed:
        return None
    state.outdate()
    trouble = witness.trouble or disagreement(None)
    return Refusal(Reason.WITNESS, trouble.sqlstate, trouble.message, trouble.detail, trouble.hint)


class Copying:
    """The COPY of one session that is under way. `heads`: the framer's own, without one."""

    __slots__ = ("_framer", "_heads", "_state", "_stream")

    def __init__(self, state: State, framer: Framer) -> None:
        self._state = state
        self._framer = framer
        self._heads: Mapping[int, int] = framer.heads
        self._stream: CopyIn | None = None

    # -- before

    def agreed(self, decision: Pass | Admit, witness: Witness, entry: Expectation) -> Refusal | None:
        """Whether the statement may be sent: `entry` gets what changes a COPY's data, if that must be changed. Else why not."""
        copies = isinstance(witness, CopyWitness)
        if copies and isinstance(decision, Admit) and decision.generation != self._state.judge.generation:
            return PLAN_CHANGED
        refusal = disagreed(self._state, witness)
        if refusal is None and isinstance(decision, Admit) and isinstance(witness, CopyWitness):
            self._begin(decision, witness, entry)
        return refusal

    def _begin(self, admit: Admit, witness: CopyWitness, entry: Expectation) -> None:
        state = self._state
        plan = admit.plans[0]
        copy = None if plan is None else plan.copy
        if copy is None or not copy.protects:
            return
        if not copy.into:
            entry.copy_out = CopyOut(copy, witness.names, state.codec, state.tracker.output)
            return
        self._stream = entry.copy_in = CopyIn(copy, state.codec, state.tracker.output)
        self._framer.heads = {**self._heads, Front.COPY_DATA: 5}

    def wait(self, entry: Expectation) -> Steps:
        """After a COPY FROM nothing is taken of the client before it is known whether the server takes data."""
        stream, state = entry.copy_in, self._state
        if stream is not None:
            yield lambda: stream.phase is not Phase.WAITING or state.ignores()

    # -- data

    def message(self, kind: int) -> None:
        """A message of the client's: other than those of a COPY, it ends what may be left of one."""
        if self._stream is not None and kind not in _OF_COPY:
            self._stream = None
            self._framer.heads = self._heads

    def head(self, head: Head) -> None:
        """A CopyData message begins."""
        if not head.complete:
            self._framer.stream_rest()

    def data(self, data: bytes) -> None:
        """A piece of the client's data."""
        stream = self._stream
        if stream is not None and stream.phase is Phase.OPEN:
            self._send(stream, stream.feed(data))

    def ended(self, kind: int) -> bool:
        """The client ends the data; whether the server is to hear of it."""
        stream = self._stream
        if stream is None:
            return True
        if stream.phase is not Phase.OPEN:
            return False
        if kind == Front.COPY_DONE:
            self._send(stream, stream.finish())
        stream.over()
        return stream.fault is None

    def _send(self, stream: CopyIn, data: bytes) -> None:
        state = self._state
        if data:
            state.to_server.append(messages.build_copy_data(data))
        state.observer.sealed(stream.values_sealed)
        stream.values_sealed = 0
        if stream.fault is None:
            return
        stream.over()
        state.to_server.append(messages.build_copy_fail(FAIL_REASON))
        state.pipeline.copy_ended()
