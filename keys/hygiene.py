"""Keeping a process's memory, where plaintext and keys are, from being written to disk or read by its neighbours."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass

_PR_SET_DUMPABLE = 4  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Hardening:
    """What took effect. `undumpable` is false where the system has no prctl."""

    core_dumps_off: bool
    undumpable: bool


def harden_process() -> Hardening:
    """Forbid core dumps (RLIMIT_CORE 0) and, on Linux, ptrace and /proc/PID/mem by the same user (PR_SET_DUMPABLE 0, prctl(2)).

    Not undone by fork, undone by execve. Afterwards /proc/PID belongs to root: debuggers and profilers of the same user can't attach.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        core_dumps_off = True
    except (OSError, ValueError):
        core_dumps_off = False
    return Hardening(core_dumps_off, _forbid_dumps())


def _forbid_dumps() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    zero = ctypes.c_ulong(0)
    return bool(prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero) == 0)
