"""Reloading in a worker: configuration, rules, keys and certificates are read and held against each other, then put in force all at once.

Two steps, because there are several workers: none goes on to the second before all have done the first (`proxy.supervisor`). What a running
worker can't take up is told by name, and waits for a restart.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from proxy import logs
from proxy.config import load_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Config
    from proxy.server import Worker
    from proxy.services import Prepared, Services

# Settings that a running worker takes up. Of the server: how it is reached and verified; where it is belongs to those who watch the hosts.
RELOADABLE: Final = frozenset(
    (
        *("rules", "log.level"),
        *("tls.certificate", "tls.key", "tls.required", "tls.client_ca", "tls.minimum_version"),
        *("server.sslmode", "server.root_certificate", "server.certificate", "server.key", "server.connect_seconds"),
        *("limits.connections", "limits.connections_per_login", "limits.authentication_seconds", "limits.write_buffer"),
        *("limits.close_seconds", "limits.drain_seconds"),
        *("limits.logins", "limits.logins_per_address", "limits.pressed_seconds"),
    )
)


def changed(before: Config, after: Config) -> tuple[str, ...]:
    """Names of the settings that differ."""
    return tuple(_changed("", before, after))


def _changed(prefix: str, before: Any, after: Any) -> list[str]:
    found: list[str] = []
    for field in fields(before):
        one, other = getattr(before, field.name), getattr(after, field.name)
        if is_dataclass(one):
            found += _changed(f"{field.name}.", one, other)
        elif one != other and "form" in field.metadata:
            found.append(prefix + field.name)
    return found


def needs_restart(before: Config, after: Config) -> tuple[str, ...]:
    """Names of the settings that differ and that no running worker takes up."""
    return tuple(name for name in changed(before, after) if name not in RELOADABLE)


def taken_up(running: Config, fresh: Config) -> Config:
    """The running configuration with what may change of it as it is in `fresh`."""
    parts: dict[str, Any] = {}
    for name in changed(running, fresh):
        if name not in RELOADABLE:
            continue
        section, _, key = name.rpartition(".")
        if not section:
            parts[key] = getattr(fresh, key)
        else:
            own = parts.get(section, getattr(running, section))
            parts[section] = replace(own, **{key: getattr(getattr(fresh, section), key)})
    return replace(running, **parts)


class Reloading:
    """One worker's. `prepare`, then `commit` or `abort`."""

    def __init__(self, config: Config, worker: Worker, services: Services) -> None:
        self._config = config
        self._worker = worker
        self._services = services
        self._log = structlog.get_logger("worker")
        self._ready: tuple[Config, Callable[[], None], Prepared] | None = None

    async def prepare(self) -> None:
        """Read everything again. Raises ConfigError, OSError; what is in force stays in force."""
        self.abort()
        config = taken_up(self._config, load_config(self._config.file))
        accept = self._worker.prepare(config)
        self._ready = config, accept, await self._services.prepare(config)

    def commit(self) -> None:
        """Put it in force, at once: nothing else happens in this process in between."""
        assert self._ready is not None
        (config, accept, prepared), self._ready = self._ready, None
        prepared.commit()
        accept()
        if config.log.level != self._config.log.level:
            logs.configure(level=config.log.level)
        self._config = config
        self._log.info("reload.applied")

    def abort(self) -> None:
        """Forget it."""
        if self._ready is not None:
            self._ready[2].abort()
            self._ready = None
