"""What can go wrong with the log, as exceptions. No message ever holds a value or a statement."""

from __future__ import annotations


class AuditError(Exception):
    """Base of everything that this package raises on purpose."""


class AuditUnavailable(AuditError):  # noqa: N818 - the name says what is wrong
    """Nothing can be recorded now: a write failed, the queue is full, or the log is closed. What depends on a record must be refused."""


class RecordTooLarge(AuditUnavailable):
    """The record is over the limit, so what it would have recorded must be refused."""


class AuditLocked(AuditError):  # noqa: N818
    """Another process writes to this writer's directory."""


class AuditDamaged(AuditError):  # noqa: N818
    """The end of an existing log is not what a crash leaves behind: nothing is added to it before somebody has looked."""
