"""Django's ORM, introspection and aggregates, on psycopg 3. Its settings are a process's own, so it is a program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = django.__version__
_OWN = "Django leaves it to its driver"
LACKING: Mapping[str, str] = dict.fromkeys(
    (
        *("tls_wrong_authority", "tls_direct", "channel_binding", "simple", "prepared", "text", "binary", "pipeline"),
        *("copy_out", "copy_in", "notify", "notice", "cancel", "large_object", "two_phase", "modes"),
    ),
    _OWN,
)
PROGRAM = Path(__file__).with_name("django_program.py")


def prepare() -> list[str]:
    """The program's command."""
    return [sys.executable, str(PROGRAM)]
