"""Process hardening, in a process of its own: it can't be undone."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from keys.hygiene import Hardening, harden_process

_REPORT = """
import ctypes, resource
from keys.hygiene import harden_process
done = harden_process()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
print(done.core_dumps_off, done.undumpable, resource.getrlimit(resource.RLIMIT_CORE), dumpable)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_neither_core_dumps_nor_neighbours() -> None:
    done = subprocess.run([sys.executable, "-c", _REPORT], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=2) == ["True", "True", "(0, 0) 0\n"]


def test_elsewhere_only_the_core_dumps(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: limits.append((what, limit)))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert harden_process() == Hardening(core_dumps_off=True, undumpable=False)
    assert limits == [(resource.RLIMIT_CORE, (0, 0))]
