"""The calculator's part of a computed statement: its text from what the server described, the question, and what its outcome means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.session.collect import too_much
from proxy.session.computing import Answer, Question
from proxy.session.localtext import (
    FIRST_OWN,
    NOT_ALLOWED,
    UNDEFINED_OBJECT,
    LeafTypes,
    LocalText,
    client_error,
    compose,
    foreign,
    leaf_types,
    not_allowed,
    not_known,
    parameters_in,
    unknown_type,
    unsuitable,
)
from proxy.session.prepared import TEXT_OID, Asked, Prepared, fetch_of
from proxy.session.replies import Trouble, refusal_response
from proxy.session.witness import disagreement
from proxy.wire import messages
from rules.encodings import encode_sql
from rules.plan import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from proxy.session.collect import Collector
    from proxy.session.computing import Calculator, Computation, Compute
    from proxy.session.state import State
    from proxy.session.statements import PreparedStatement
    from proxy.wire.messages import Field

    Cells = Sequence[Sequence[bytes | None]]

_CANCELLED: Final = Trouble("57014", "canceling statement due to user request")


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a computed statement ends with an error that is not the server's. `refusal`: where pgveil would not or could not do it.

    `question`: a text to have the server analyse first; where it says that something is not there, the error is `missing`.
    """

    sqlstate: str
    response: bytes
    refusal: Refusal | None = None
    question: bytes | None = None
    missing: bytes | None = None


class Calculations:
    """Asks for one session. The methods are steps: their conditions are yielded."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def local(
        self, compute: Compute, leaves: Sequence[PreparedStatement], declared: tuple[int, ...], parameters: int
    ) -> Generator[Callable[[], bool], None, Prepared | Failed]:
        """The text for the calculator, from the leaves' descriptions; of so many parameters of the client's the types as far as known."""
        state = self._state
        settings = state.tracker.settings
        found = [leaf_types(leaf, shown_fields(s), settings) for leaf, s in zip(compute.leaves, leaves, strict=True)]
        columns = [c for c in found if c is not None]
        if len(columns) != len(found):
            return troubled(disagreement(None))
        for of in columns:
            refusal = unsuitable(of, state.tracker.output)
            if refusal is not None:
                return refused(refusal)
        spelled = yield from self.spelled(columns)
        if isinstance(spelled, Failed):
            return spelled
        local = compose(compute, spelled, parameters, settings)
        if isinstance(local, Refusal):
            return refused(local)
        fetched = parameters_in(fetch_of(compute).text, settings) if parameters else frozenset()
        computed = (
            parameters_in(encode_sql(compute.text, settings.client_encoding), settings) if parameters else fetched
        )
        inferred = inferring(leaves if parameters else ())
        types = tuple(
            declared_type(n, declared) or (0 if n in computed else inferred(n)) for n in range(1, parameters + 1)
        )
        own = [n for n, oid in enumerate(types, 1) if n in computed and oid >= FIRST_OWN]
        if own:
            return refused(unknown_type(f"Parameter ${own[0]}"))
        return Prepared(local, types, (), fetched, computed, tuple(len(c.names) for c in columns))

    def spelled(
        self, columns: Sequence[LeafTypes]
    ) -> Generator[Callable[[], bool], None, list[list[tuple[str, str]]] | Failed]:
        """The leaves' columns with the SQL names of their types."""
        known = self._state.computed
        wanted = tuple(dict.fromkeys(t for of in columns for t in of.types if known.spelling(t) is None))
        if wanted:
            outcome = yield from self.answer(lambda c, wake: c.type_names(wanted, wake), None)
            if isinstance(outcome, Failed):
                return outcome
            for type_, name in zip(wanted, outcome.rows, strict=True):
                known.spell(type_, name.decode())
        spelled = [[(n, known.spelling(t) or "") for n, t in zip(of.names, of.types, strict=True)] for of in columns]
        unknown = [name for of in spelled for name, spelling in of if not spelling]
        return refused(unknown_type(f"Column {unknown[0]}")) if unknown else spelled

    def question(self, prepared: Prepared) -> Question:
        tracker = self._state.tracker
        return Question(
            prepared.local.text,
            tracker.output,
            prepared.local_types,
            standard_conforming_strings=tracker.settings.standard_conforming_strings,
        )

    def run(
        self, prepared: Prepared, compute: Compute, collector: Collector, asked: Asked
    ) -> Generator[Callable[[], bool], None, Answer | Failed]:
        """Let the calculator run the statement over what was collected."""
        if collector.more:
            return troubled(too_much(f"{self._state.limits.collected_rows} rows"))
        arrays = _arrays(prepared.widths, collector, together=compute.together is not None)
        if arrays is None:
            return troubled(disagreement(None))
        question = replace(
            self.question(prepared),
            values=asked.for_calculator(prepared.computed),
            formats=asked.formats,
            result_formats=asked.result_formats,
            arrays=arrays,
            read=asked.read,
            bound=asked.bound,
        )
        return (yield from self.answer(lambda c, wake: c.run(question, wake), prepared.local))

    def answer(
        self, start: Callable[[Calculator, Callable[[], None]], Computation], local: LocalText | None
    ) -> Generator[Callable[[], bool], None, Answer | Failed]:
        """Ask the calculator and wait. `local`: the text that its errors are about."""
        state = self._state
        assert state.calculator is not None
        state.cancelled = False
        computation = state.computation = start(state.calculator, state.wake)
        yield lambda: computation.finished or state.cancelled
        state.computation = None
        if not computation.finished:
            computation.cancel()
            return troubled(_CANCELLED)
        outcome = computation.outcome
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(outcome, Trouble):
            return troubled(outcome)
        if outcome.sqlstate == NOT_ALLOWED:
            return refused(not_allowed())
        if outcome.sqlstate == UNDEFINED_OBJECT:
            return refused(not_known())
        if local is None:
            return troubled(Trouble("58000", "the calculator did not answer as expected"))
        missed = foreign(outcome)
        if missed is not None:
            # The database may have one that the catalog does not know: since a moment ago, or in this very transaction.
            return replace(refused(not_known()), question=missed.question, missing=client_error(outcome, local))
        return Failed(outcome.sqlstate, client_error(outcome, local))


def refused(refusal: Refusal) -> Failed:
    return Failed(refusal.sqlstate, refusal_response(refusal), refusal)


def troubled(trouble: Trouble) -> Failed:
    """The calculator's or a limit's trouble, which the audit log is told of where pgveil is the reason."""
    reason = {"53200": Reason.LIMIT, "54000": Reason.LIMIT, "42501": Reason.WITNESS}.get(trouble.sqlstate)
    refusal = (
        None if reason is None else Refusal(reason, trouble.sqlstate, trouble.message, trouble.detail, trouble.hint)
    )
    return Failed(trouble.sqlstate, trouble.response(), refusal)


def shown_fields(statement: PreparedStatement) -> tuple[Field, ...]:
    """The columns of a statement, as the witness agreed to them, under the types that clients see."""
    shown = statement.shown
    return () if shown is None else messages.parse_row_description(shown.message[5:])


def declared_type(number: int, types: tuple[int, ...]) -> int:
    return types[number - 1] if number <= len(types) else 0


def inferring(leaves: Sequence[PreparedStatement]) -> Callable[[int], int]:
    """What gives the type that the server found for a parameter in the leaves' texts; text where none of them refers to it.

    Each text is read once, however many parameters are asked for.
    """
    found: dict[int, int] = {}
    for leaf in reversed(leaves):
        for number in parameters_in(leaf.text, leaf.settings):
            found[number] = declared_type(number, leaf.types) or found.get(number, 0)
    return lambda number: found.get(number, 0) or TEXT_OID


def _arrays(widths: tuple[int, ...], collector: Collector, *, together: bool) -> Cells | None:
    """The leaves' columns, one after the other; None where the rows are not what was asked for."""
    columns = collector.columns or [[] for _ in range(sum(widths) + together)]
    if len(columns) != sum(widths) + together:
        return None
    if not together:
        return columns
    numbers = columns[0]
    arrays: list[list[bytes | None]] = []
    at = 1
    for leaf, width in enumerate(widths):
        mine = [row for row, number in enumerate(numbers) if number == b"%d" % leaf]
        arrays += [[column[row] for row in mine] for column in columns[at : at + width]]
        at += width
    return arrays
