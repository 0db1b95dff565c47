"""Puts the parts of a running worker together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.services import Services

_COUNT_SECONDS: Final = 0.05  # that the page may be behind what was counted


def make_services(config: Config, number: int) -> Services:
    """What a worker serves with (the factory that `pgveil run` names)."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - after the supervisor has set its directory

    from keys.hygiene import harden_process  # noqa: PLC0415
    from proxy.guard import Guard  # noqa: PLC0415
    from proxy.metrics import Metrics  # noqa: PLC0415
    from proxy.preload import preload  # noqa: PLC0415

    harden_process()
    preload()

    def later(flush: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(_COUNT_SECONDS, flush)

    return Guard(config, number, Metrics(CollectorRegistry(), later))
