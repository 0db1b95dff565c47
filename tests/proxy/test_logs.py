"""The log: one JSON object a line, and no way found to put a value in."""

from __future__ import annotations

import ast
import asyncio
import gc
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.logs import FIELDS, allow_list, configure, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "6228480012345678901"
ROOT = Path(__file__).parents[2]


class Log:
    def __init__(self, level: str = "debug") -> None:
        self.stream = io.StringIO()
        configure(self.stream, level=level)
        self.log: Any = structlog.get_logger()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    root = logging.getLogger()
    before = (
        root.handlers[:],
        root.level,
        sys.excepthook,
        threading.excepthook,
        sys.unraisablehook,
        warnings.showwarning,
    )
    yield Log()
    root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook, _ = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def fail(text: str) -> None:
    raise ValueError(text)


def test_a_line_is_json_with_time_severity_and_event(log: Log) -> None:
    log.log.info("connection_opened", connection=7, database="shop", tls="TLSv1.3")
    (line,) = log.lines
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "severity": "info",
        "event": "connection_opened",
        "connection": 7,
        "database": "shop",
        "tls": "TLSv1.3",
    }


def test_a_field_that_is_not_allowed_is_named_and_not_shown(log: Log) -> None:
    log.log.info("statement_refused", sql=f"select '{CANARY}'", params=[CANARY], reason="verdict")
    assert CANARY not in log.text
    assert log.lines[0]["dropped"] == ["params", "sql"]
    assert log.lines[0]["reason"] == "verdict"


@pytest.mark.parametrize(
    "fields",
    [
        {"sqlstate": CANARY},
        {"reason": f"not {CANARY}"},
        {"connection": CANARY},
        {"column": [CANARY]},
        {"column": "x" * 300},
        {"login": "two\nlines"},
        {"names": [f"{CANARY}\n"]},
        {"names": {CANARY: 1}},
        {"address": f"<{CANARY}>"},
        {"count": 1 << 70},
        {CANARY: 1},
        {"timestamp": CANARY},
        {"severity": CANARY},
        {"dropped": CANARY},
        {"exception": CANARY},
        {"origin": CANARY},
        {"_record": CANARY},
        {"exc_info": CANARY},
        {"stack_info": CANARY},
        {"positional_args": (CANARY,)},
    ],
)
def test_a_field_of_another_form_is_not_shown(log: Log, fields: dict[str, Any]) -> None:
    log.log.warning("event", **fields)
    assert CANARY not in log.text
    assert log.lines[0]["event"] == "event"


def test_an_event_with_something_put_in_loses_its_name(log: Log) -> None:
    log.log.info(f"saw {CANARY}")  # noqa: G004 - the misuse under test
    log.log.info("saw %s", CANARY)
    assert CANARY not in log.text
    assert [line["event"] for line in log.lines] == ["unnamed_event", "unnamed_event"]


def test_an_exception_is_its_type_and_place(log: Log) -> None:
    try:
        fail(f"could not seal {CANARY}")
    except ValueError as error:
        log.log.exception("seal_failed", column="public.cards.pan")
        log.log.exception("seal_failed", exc_info=error)
        log.log.exception("seal_failed", exc_info=(ValueError, error, error.__traceback__))
    assert CANARY not in log.text
    for line in log.lines:
        assert line["exception"]["type"] == "ValueError"
        assert line["exception"]["at"][-1].startswith("proxy/test_logs.py:")
        assert line["exception"]["at"][-1].endswith(" fail")
        assert line["severity"] == "error"


def test_causes_and_groups_are_types_too() -> None:
    try:
        try:
            fail(CANARY)
        except ValueError as error:
            raise KeyError(CANARY) from error
    except KeyError as error:
        group = ExceptionGroup(CANARY, [error, OSError(111, CANARY, CANARY)])
    shown = describe(group)
    assert CANARY not in json.dumps(shown)
    assert [e["type"] for e in shown["group"]] == ["KeyError", "ConnectionRefusedError"]
    assert shown["group"][1]["errno"] == 111
    assert shown["group"][0]["from"] == ["ValueError"]


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("a"), KeyError("b")
    one.__cause__, two.__cause__ = two, one
    assert len(describe(one)["from"]) == 4


def test_the_standard_library_says_where_and_not_what(log: Log) -> None:
    logger = logging.getLogger("some.library")
    logger.error("bad value %r", CANARY)
    logger.warning(f"bad value {CANARY}")  # noqa: G004 - the misuse under test
    logger.info("not at all")
    warnings.warn(CANARY, stacklevel=1)
    assert CANARY not in log.text
    assert [line["severity"] for line in log.lines] == ["error", "warning", "warning"]
    assert log.lines[0]["origin"].startswith("some.library proxy/test_logs.py:")


def test_asyncio_reports_a_lost_exception_without_its_text(log: Log) -> None:
    async def lose() -> None:
        async def boom() -> None:
            fail(CANARY)

        task = asyncio.get_running_loop().create_task(boom())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(lose())
    assert CANARY not in log.text
    assert any(line.get("exception", {}).get("type") == "ValueError" for line in log.lines)


def test_uncaught_in_a_thread(log: Log) -> None:
    thread = threading.Thread(target=fail, args=(CANARY,))
    thread.start()
    thread.join()
    assert CANARY not in log.text
    assert log.lines[0]["event"] == "uncaught_exception"


def test_uncaught_in_the_main_thread_and_in_a_destructor() -> None:
    code = f"""
from proxy.logs import configure
configure()
class Bad:
    def __del__(self):
        raise ValueError("{CANARY}")
bad = Bad()
del bad
raise RuntimeError("{CANARY}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert CANARY not in done.stdout + done.stderr
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "unraisable_exception",
        "uncaught_exception",
    ]


def test_the_threshold_holds(log: Log) -> None:
    quiet = Log("warning")
    quiet.log.info("not_this")
    quiet.log.warning("this")
    assert [line["event"] for line in quiet.lines] == ["this"]
    with pytest.raises(ValueError, match="use debug, info, warning or error"):
        configure(io.StringIO(), level="verbose")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=20), st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary()), max_size=5
    )
)
def test_whatever_is_logged_only_allowed_names_come_out(fields: dict[str, Any]) -> None:
    kept = allow_list(None, "info", {**fields, "event": "event"})
    assert set(kept) <= set(FIELDS) | {"timestamp", "severity", "event", "exception", "origin", "dropped"}
    assert kept["event"] == "event"


def _log_calls() -> Iterator[tuple[str, ast.Call]]:
    for package in ("proxy", "lifecycle", "doctor", "audit", "keys", "console", "rules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in {"debug", "info", "warning", "error", "exception", "critical"}
                    and isinstance(node.func.value, ast.Name | ast.Attribute)
                    and (node.func.value.id if isinstance(node.func.value, ast.Name) else node.func.value.attr)
                    .strip("_")
                    .endswith("log")
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_our_own_log_calls_name_events_and_allowed_fields() -> None:
    wrong = []
    for place, call in _log_calls():
        if place.startswith("proxy/repeated.py:"):
            continue  # who makes a `Repeated` names its events: see below
        literal = len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
        names = {k.arg for k in call.keywords if k.arg is not None}
        if not literal or not names <= {*FIELDS, "exc_info"}:
            wrong.append(place)
    assert wrong == []


def test_failures_that_repeat_name_events_and_allowed_fields() -> None:
    """`proxy.repeated` logs what it is made with and told: looked at where that is written."""
    wrong, made = [], 0
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "Repeated":
                made += 1
                if not all(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in node.args[1:3]):
                    wrong.append(f"{path.name}:{node.lineno}")
            of = node.func.value if isinstance(node.func, ast.Attribute) else None
            if isinstance(of, ast.Attribute) and of.attr.endswith("troubles"):
                fields = {k.arg for k in node.keywords}
                wrong += [] if fields <= set(FIELDS) else [f"{path.name}:{node.lineno}"]
    assert (wrong, made) == ([], 3)
