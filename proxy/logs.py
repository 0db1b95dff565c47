"""pgveil's own log: one JSON object a line, and no value of a client in it, whatever is logged.

Three walls, because a log line is written by whoever is in a hurry. An event is a name, never a sentence with something put in. A field is
written only if it is in `FIELDS` and has its form. An exception is written as its type and where it was raised, never as its message:
messages of drivers and of our own parsers may quote what they choked on. Records of other libraries (asyncio, asyncpg) keep only their
origin, because their texts are made of reprs.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping
    from types import FrameType, TracebackType
    from typing import TextIO

MAX_TEXT: Final = 256
MAX_FRAMES: Final = 12
MAX_CHAIN: Final = 4

_EVENT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}(\.[a-z][a-z0-9_]{0,63}){0,3}")
_FIELD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_UNNAMED: Final = "unnamed_event"


def _number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _matching(pattern: str) -> Callable[[object], bool]:
    whole = re.compile(pattern)
    return lambda value: isinstance(value, str) and whole.fullmatch(value) is not None


def _short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _names(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 32 and all(_short(v) for v in value)


_WORD: Final = _matching(r"[A-Za-z0-9_.:-]{1,64}")

# Everything a log line may hold, and the form it must have. Names of database objects and logins are configuration, not values.
FIELDS: Final[Mapping[str, Callable[[object], bool]]] = {
    "action": _WORD,
    "address": _matching(r"[0-9A-Fa-f.:%\[\]a-z]{1,64}"),
    "attempt": _number,
    "attnum": _number,
    "before": _short,
    "bytes": _number,
    "catalog_version": _WORD,
    "check": _WORD,
    "column": _short,
    "component": _WORD,
    "connection": _number,
    "connections": _number,
    "count": _number,
    "database": _short,
    "domain": _short,
    "errno": _number,
    "exit_code": _number,
    "file": _short,
    "generation": _number,
    "host": _short,
    "key_version": _number,
    "kind": _WORD,
    "level": _WORD,
    "limit": _number,
    "line": _number,
    "login": _short,
    "mode": _WORD,
    "names": _names,
    "now": _short,
    "path": _short,
    "pid": _number,
    "port": _number,
    "provider": _WORD,
    "queue": _number,
    "reason": _WORD,
    "records": _number,
    "relations": _number,
    "role": _short,
    "rules_version": _WORD,
    "seconds": _number,
    "segment": _WORD,
    "sequence": _number,
    "server_version": _WORD,
    "signal": _WORD,
    "sqlstate": _matching(r"[0-9A-Z]{5}"),
    "state": _WORD,
    "statements": _number,
    "table": _short,
    "times": _number,
    "tls": _WORD,
    "version": _WORD,
    # Our own sentences about pgveil's parts, and what PostgreSQL's programs say before anybody has given them a value.
    "why": _short,
    "worker": _number,
    "workers": _number,
}
# Written by the processors below, never taken from a caller.
_OWN: Final = ("timestamp", "severity", "event", "exception", "origin", "dropped")


def configure(stream: TextIO | None = None, *, level: str = "info") -> None:
    """Send structlog's and the standard library's records to `stream` (default: stderr) as JSON lines, in this process.

    `level`: debug, info, warning or error; ValueError for another. Uncaught exceptions of any thread go the same way.
    """
    threshold = {"debug": 10, "info": 20, "warning": 30, "error": 40}.get(level)
    if threshold is None:
        raise ValueError(f"log level {level!r}: use debug, info, warning or error")
    output = sys.stderr if stream is None else stream
    structlog.configure(
        processors=[
            _severity,
            _exception,
            allow_list,
            _timestamp(),
            structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def allow_list(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what FIELDS names and approves; say by name what was left out, where the name itself is safe to say."""
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in event.items():
        if name in _OWN:
            kept[name] = value
            continue
        allowed = FIELDS.get(name)
        if value is None:
            continue
        if allowed is not None and allowed(value):
            kept[name] = value
        else:
            dropped.append(name if _FIELD_NAME.fullmatch(name) else "?")
    kept.pop("dropped", None)
    if not isinstance(kept.get("event"), str) or not _EVENT.fullmatch(kept["event"]):
        kept["event"] = _UNNAMED
    if dropped:
        kept["dropped"] = sorted(dropped)
    return kept


def describe(error: BaseException) -> dict[str, Any]:
    """An exception without its message: type, innermost frames (outermost first), and the same of its causes."""
    shown: dict[str, Any] = {"type": _type_name(error), "at": list(_frames(error.__traceback__))[-MAX_FRAMES:]}
    causes = [_type_name(e) for e in _causes(error)]
    if causes:
        shown["from"] = causes
    if isinstance(error, BaseExceptionGroup):
        shown["group"] = [describe(e) for e in error.exceptions[:MAX_CHAIN]]
    if isinstance(error, OSError) and isinstance(error.errno, int):
        shown["errno"] = error.errno
    return shown


def _causes(error: BaseException) -> Iterator[BaseException]:
    for _ in range(MAX_CHAIN):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return
        yield cause
        error = cause


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield _place(traceback.tb_frame, traceback.tb_lineno)
        traceback = traceback.tb_next


def _place(frame: FrameType, line: int) -> str:
    code = frame.f_code
    return f"{_short_path(code.co_filename)}:{line} {code.co_name}"


def _short_path(path: str) -> str:
    """The last two parts: enough to find the file, and nothing of where pgveil is installed."""
    return "/".join(PurePath(path).parts[-2:])


def _severity(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # `level` is a field of its own here: the level of a column.
    event["severity"] = "error" if method == "exception" else "warning" if method == "warn" else method
    return event


def _exception(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in ("exception", "origin"):
        event.pop(name, None)
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()[1]
    elif isinstance(found, tuple):
        found = found[1] if len(found) == 3 else None
    if isinstance(found, BaseException):
        event["exception"] = describe(found)
    record = event.pop("_record", None)
    if isinstance(record, logging.LogRecord):
        event["origin"] = f"{record.name} {_short_path(record.pathname)}:{record.lineno} {record.funcName}"
    return event


def _timestamp() -> Any:
    return structlog.processors.TimeStamper(fmt="iso", utc=True)


def _json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event).decode()


class _Foreign(logging.Handler):
    """The standard library's records: severity, origin and exception type. Their text is not ours to trust."""

    def emit(self, record: logging.LogRecord) -> None:
        severity = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        error = record.exc_info[1] if record.exc_info else None
        getattr(structlog.get_logger(), severity)("library", exc_info=error, _record=record)


def _uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    structlog.get_logger().error("uncaught_exception", exc_info=error)


def _uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        structlog.get_logger().error("uncaught_exception", exc_info=found.exc_value)


def _unraisable(found: Any) -> None:
    structlog.get_logger().error("unraisable_exception", exc_info=found.exc_value)
