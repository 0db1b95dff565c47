"""Why the calculator gave no answer, in pgveil's words. None of them holds a value."""

from __future__ import annotations

from typing import Final

from proxy.session.computing import CalculatorError
from proxy.session.replies import Trouble
from proxy.wire.messages import parse_error

_WHAT: Final = "computing on opened values"
_AGAIN: Final = "Try again. If it goes on, tell the operator of pgveil."
_TIMEOUT: Final = "57014"
_MEMORY: Final = frozenset(("53200", "53400"))  # out of memory; a sort that would need a file (temp_file_limit)
# Classes that speak of the engine and not of the statement (PostgreSQL documentation, appendix A).
_OWN_CLASSES: Final = frozenset(("08", "53", "57", "58", "F0", "XX"))


def judge_error(raw: bytes, seconds: float) -> CalculatorError | Trouble:
    """The engine's ErrorResponse: about the statement, or about the engine itself and its limits."""
    fields = parse_error(raw[5:])
    state = fields.sqlstate
    if state == _TIMEOUT:
        return took_too_long(seconds)
    if state in _MEMORY:
        return Trouble(
            "53200",
            f"{_WHAT} needs more memory than it may have",
            hint="Ask for fewer or smaller values, or raise calculator.memory in pgveil's configuration.",
        )
    if state[:2] in _OWN_CLASSES:
        return Trouble("58000", f"{_WHAT} failed", detail=f"The calculator reported SQLSTATE {state}.", hint=_AGAIN)
    return CalculatorError(state, fields.pairs)


def took_too_long(seconds: float) -> Trouble:
    """The limit of time."""
    return Trouble(
        _TIMEOUT,
        f"{_WHAT} took longer than {seconds:g} seconds",
        hint="Ask for fewer rows, or raise calculator.seconds in pgveil's configuration.",
    )


def engine_lost() -> Trouble:
    """No engine, or it ended meanwhile."""
    return Trouble("57P03", "the calculator is not running, so nothing can be computed on opened values", hint=_AGAIN)


def waited_too_long(seconds: float) -> Trouble:
    """Every connection was busy."""
    return Trouble(
        "53300",
        f"{_WHAT} had to wait longer than {seconds:g} seconds for others",
        hint="Try again, or raise calculator.connections in pgveil's configuration.",
    )


def too_many_wait() -> Trouble:
    """The queue is full."""
    return Trouble(
        "53300",
        f"too many statements wait for {_WHAT}",
        hint="Try again, or raise calculator.connections or calculator.waiting in pgveil's configuration.",
    )


def question_too_large(size: int) -> Trouble:
    """More bytes than may be computed on."""
    return Trouble(
        "54000",
        f"{_WHAT} takes at most {size} bytes at a time",
        hint="Ask for fewer rows, or raise calculator.size in pgveil's configuration.",
    )


def result_too_large(rows: int, size: int) -> Trouble:
    """More than may come of it."""
    return Trouble(
        "54000",
        f"{_WHAT} gives at most {rows} rows and {size} bytes",
        hint="Ask for fewer rows, or raise calculator.rows and calculator.size in pgveil's configuration.",
    )


def setting_unknown(raw: bytes) -> Trouble:
    """A setting of the session is none that the engine knows: a time zone, mostly."""
    state = parse_error(raw[5:]).sqlstate
    return Trouble(
        "0AP01",
        "a setting of this session is not known to the calculator, so nothing can be computed on opened values",
        detail=f"The calculator reported SQLSTATE {state} for one of TimeZone, DateStyle, IntervalStyle, client_encoding, lc_monetary, lc_numeric, lc_time and timezone_abbreviations.",
        hint="Set them to values that both know, as in SET TimeZone = 'UTC'.",
    )


def locale_unknown(locale: str) -> Trouble:
    """The engine can't sort as the server's database does."""
    return Trouble(
        "0AP01",
        "nothing can be computed on opened values here: texts would be sorted and folded otherwise than by the database",
        detail=f"The calculator has no locale like the database's: {locale}.",
        hint="Install that locale in the same version where pgveil runs (docs/calculator.md), or use a database with locale C or C.UTF-8.",
    )


def not_a_query() -> Trouble:
    """Not SELECT, VALUES, TABLE or WITH."""
    return Trouble("0AP01", "the calculator runs queries only", hint="Write a SELECT.")


def no_calculator() -> Trouble:
    """The configuration has none."""
    return Trouble(
        "0AP01",
        "what the database can't compute on sealed values can't be computed here",
        hint="Set calculator.enabled in pgveil's configuration (docs/calculator.md).",
    )
