"""The promises of the session's targets can be broken: each of these faults, put in on purpose, is noticed over the seeds alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.session.backend import Backend
from proxy.session.frontend import Frontend
from proxy.session.judging import Judging
from proxy.session.values import ValueCodec
from rules.model import Verdict
from tests.fuzz.registry import seeds, target
from tests.fuzz.target import BrokenPromise

if TYPE_CHECKING:
    from collections.abc import Generator


def _rows_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backend, "_may_answer", lambda *_: True)


def _writes_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    def recorded(self: Any, decision: Any, entry: Any, arrived: float) -> Generator[Any, None, bool]:
        entry.run, entry.ticket = self._state.start_run(decision, arrived)
        yield from ()
        return entry.run is not None

    patch.setattr(Frontend, "_recorded", recorded)
    patch.setattr(Judging, "writes_settled", lambda _: True)


def _nothing_is_masked(patch: pytest.MonkeyPatch) -> None:
    real = ValueCodec.open_batch

    def opened(self: ValueCodec, column: Any, _verdict: Verdict, *rest: Any) -> list[bytes | None]:
        return real(self, column, Verdict.CLEAR, *rest)

    patch.setattr(ValueCodec, "open_batch", opened)


def _nobody_asks_for_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Judging, "flush", lambda _: None)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (_rows_do_not_wait, "a value leaves before its record is durable"),
        (_writes_do_not_wait, "a write is committed before its record is durable"),
        (_nothing_is_masked, "a value reaches a client that may not see it"),
        (_nobody_asks_for_answers, "something is never answered"),
    ],
)
def test_a_fault_is_noticed(fault: Any, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    run = target("talk").make()
    for seed in seeds("talk"):
        try:
            run(seed)
        except BrokenPromise as broken:
            if str(broken) == promise:
                return
    pytest.fail("nobody noticed")
