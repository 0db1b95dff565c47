"""A worker that tells what is imported once it serves: an import opens files, and there may be no descriptor left for them."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

import structlog

from proxy.assembly import make_services
from proxy.guard import Guard

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.services import Services

FACTORY = "tests.faults.imports:services"
WITNESS = "no_module_of_that_name"
"""Is tried once, so that it is seen that the rest would be."""


class _Watch(MetaPathFinder):
    """Is asked first for each module, and finds none."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        structlog.get_logger("imports").info("imported", kind=fullname[:64])


def services(config: Config, number: int) -> Services:
    """See proxy.assembly; once it has started, each import is an event `imported` with the module's name as its `kind`."""
    made = make_services(config, number)
    assert isinstance(made, Guard)
    start = made.start

    async def started() -> None:
        await start()
        sys.meta_path.insert(0, _Watch())
        with suppress(ImportError):
            import_module(WITNESS)

    made.start = started  # type: ignore[method-assign]
    return made
