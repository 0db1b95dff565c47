"""What came of a reload or a restart, worker by worker: as the supervisor gives it and as the commands print it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What is in force now."""

    APPLIED = "applied"  # the new state, in every worker
    REFUSED = "refused"  # the old state; of a restart: some workers were not replaced


class WorkerReport(msgspec.Struct, frozen=True):
    """One worker: its place, its process, what became of it, and why it was not what was asked for."""

    worker: int
    pid: int
    outcome: str
    why: str | None = None


class Reported(msgspec.Struct, frozen=True):
    """The whole. `needs_restart`: settings that differ from the running ones and wait for a restart."""

    outcome: Outcome
    workers: tuple[WorkerReport, ...] = ()
    needs_restart: tuple[str, ...] = ()
    why: str | None = None
