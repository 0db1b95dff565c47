"""Puts the parts of a running worker together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.services import Services


def make_services(config: Config, number: int) -> Services:
    """What a worker serves with (the factory that `pgveil run` names)."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - after the supervisor has set its directory

    from keys.hygiene import harden_process  # noqa: PLC0415
    from proxy.guard import Guard  # noqa: PLC0415
    from proxy.metrics import Metrics  # noqa: PLC0415
    from proxy.preload import preload  # noqa: PLC0415

    harden_process()
    preload()
    return Guard(config, number, Metrics(CollectorRegistry()))
