"""The supervisor's part of the metrics: the workers' numbers as one page, counts of the workers themselves, and readiness.

Make it before anything imports `proxy.metrics` and before the first worker starts: prometheus-client chooses its way of counting at import.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.metric_files import prepare
from proxy.tls import expiry

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from proxy.config import Config, MetricsPage

# Workers ask the server something every second or so; a server that has not answered for this long can't be reached.
REACHED_SECONDS: Final = 30.0


class Monitoring:
    """Serves the page while it stands. A `proxy.supervisor.WorkerWatcher`.

    `now`: Unix time in seconds. Raises OSError when the address can't be had, MetricFilesError when it was made too late.
    """

    def __init__(
        self,
        page: MetricsPage,
        *,
        workers: int,
        version: str,
        now: Callable[[], float],
        environ: MutableMapping[str, str] | None = None,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="pgveil-metrics-"))
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._files = prepare(self._directory, environ)
            self._now = now
            self._configured = workers
            self._running: set[int] = set()
            self._listen(page, version)
            undo.pop_all()

    def _listen(self, page: MetricsPage, version: str) -> None:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - after `prepare`, see above

        from proxy.metrics import SupervisorMetrics  # noqa: PLC0415
        from proxy.probes import ProbeServer, Readiness, application  # noqa: PLC0415

        self._metrics = SupervisorMetrics(CollectorRegistry(), version)
        self._metrics.workers(0, self._configured)
        checks = {
            "workers": lambda: bool(self._running),
            "catalog": lambda: self._files.gauge("pgveil_catalog_loaded") == 1,
            "applied": lambda: self._files.gauge("pgveil_not_applied") == 0,
            "audit": lambda: self._files.gauge("pgveil_audit_healthy") == 1,
            "server": self._reached,
        }
        self._readiness = Readiness(checks, lambda ready: self._metrics.ready(ready=ready))
        self._server = ProbeServer(page.address, page.port or 0, application(self._files.registry(), self._readiness))
        self._server.start()

    def note(self, name: str, word: Callable[[], str]) -> None:
        """Show a word on /readyz that does not decide it. `word` is called from the listener's threads."""
        self._readiness.note(name, word)

    def require(self, name: str, check: Callable[[], bool]) -> None:
        """One more check that has to hold for /readyz. Called from the listener's threads."""
        self._readiness.require(name, check)

    @property
    def port(self) -> int:
        """The page's TCP port."""
        return self._server.port

    def worker_started(self, number: int, pid: int) -> None:  # noqa: ARG002 - the watcher's form
        """See WorkerWatcher."""
        self._running.add(pid)
        self._metrics.workers(len(self._running), self._configured)

    def worker_ended(self, number: int, pid: int, exit_code: int, *, expected: bool) -> None:  # noqa: ARG002
        """See WorkerWatcher."""
        self._running.discard(pid)
        self._metrics.workers(len(self._running), self._configured)
        if not expected:
            self._metrics.worker_restarted()
        self._files.bury(pid)

    def reloaded(self, config: Config, *, applied: bool) -> None:
        """See WorkerWatcher."""
        self._metrics.reloaded(applied=applied)
        self.certificates(config)

    def certificates(self, config: Config) -> None:
        """Say until when the certificates are good that pgveil shows."""
        for side, certificate in (("clients", config.tls.certificate), ("server", config.server.certificate)):
            until = None if certificate is None else expiry(certificate)
            if until is not None:
                self._metrics.certificate_expires(side, until)

    def close(self) -> None:
        """Stop answering and remove the numbers; the workers have ended before."""
        self._server.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _reached(self) -> bool:
        last = self._files.gauge("pgveil_server_reached_timestamp_seconds")
        return last is not None and abs(self._now() - last) < REACHED_SECONDS  # the clock may have been set back
