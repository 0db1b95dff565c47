"""What Python imports late, by names that it is given: had at the start, because an import opens files, and descriptors can run out."""

from __future__ import annotations

import codecs
from importlib import import_module
from typing import Final

from rules.encodings import CODECS

# Of names of hosts, of time zones (a zone of the package `tzdata`, where the system has none), of errors that are told.
_LATE: Final = (
    "encodings.idna",
    "encodings.punycode",
    "zoneinfo._common",
    "zoneinfo._tzpath",
    "traceback",
    "linecache",
)


def preload() -> None:
    """Import them."""
    for name in _LATE:
        import_module(name)
    for codec in CODECS:
        codecs.lookup(codec)
