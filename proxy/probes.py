"""/metrics, /healthz and /readyz over HTTP, on threads of their own, so that a busy event loop still answers.

The parser is the standard library's. There is nothing secret to see (no metric carries a value or a name from the database), yet the
listener belongs on a private address: it has limits, not authentication.
"""

from __future__ import annotations

import json
import socket
import threading
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

# A scraper, a balancer and a kubelet need three; more waiting than this is abuse.
MAX_REQUESTS: Final = 16
IDLE_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 15.0


class Readiness:
    """Named checks that must all hold. Each is called at every question, from any thread; one that raises does not hold."""

    def __init__(self, checks: Mapping[str, Callable[[], bool]], report: Callable[[bool], None] | None = None) -> None:
        self._checks = dict(checks)
        self._notes: dict[str, Callable[[], str]] = {}
        self._report = report

    def require(self, name: str, check: Callable[[], bool]) -> None:
        """One more check that must hold."""
        self._checks = {**self._checks, name: check}

    def note(self, name: str, word: Callable[[], str]) -> None:
        """Show a word that readiness does not depend on."""
        self._notes[name] = word

    def notes(self) -> dict[str, str]:
        """Each note's word by its name."""
        return {name: word() for name, word in self._notes.items()}

    def results(self) -> dict[str, bool]:
        """Each check's answer by its name; tells `report` whether all hold."""
        answers = {name: _holds(check) for name, check in self._checks.items()}
        if self._report is not None:
            self._report(all(answers.values()))
        return answers


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return bool(check())
    except Exception:  # noqa: BLE001 - whatever went wrong, the thing asked for was not shown to hold
        return False


def application(registry: CollectorRegistry, readiness: Readiness) -> WSGIApplication:
    """The three pages as a WSGI application; GET and HEAD only."""
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _page(environ, start, HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET and HEAD"})
        if path == "/metrics":
            readiness.results()
            return metrics(environ, start)
        if path == "/healthz":
            return _page(environ, start, HTTPStatus.OK, {"status": "up"})
        if path == "/readyz":
            checks = readiness.results()
            ready = all(checks.values())
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            content = {"status": "ready" if ready else "not ready", "checks": checks, "notes": readiness.notes()}
            return _page(environ, start, status, content)
        return _page(environ, start, HTTPStatus.NOT_FOUND, {"error": "see /metrics, /healthz and /readyz"})

    return answer


def _page(
    environ: WSGIEnvironment, start: StartResponse, status: HTTPStatus, content: Mapping[str, Any]
) -> Iterable[bytes]:
    body = json.dumps(content).encode() + b"\n"
    start(
        f"{status.value} {status.phrase}",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """No access log: a scrape every few seconds is not news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MAX_REQUESTS

    def __init__(self, address: tuple[str, int]) -> None:
        self._places = threading.BoundedSemaphore(MAX_REQUESTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of our own name, which can hang where DNS does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        deadline = threading.Timer(TOTAL_SECONDS, _hang_up, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or sent nonsense is its own business, and stderr is not where it belongs."""


def _hang_up(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class ProbeServer:
    """The listener: `start()`, then `close()`. Raises OSError where the address can't be bound.

    Start it after the workers: a process that forks should have no threads yet.
    """

    def __init__(self, host: str, port: int, app: WSGIApplication) -> None:
        self._server = _Server((host, port))
        self._server.set_app(app)
        self._thread = threading.Thread(target=self._server.serve_forever, name="pgveil-probes", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port, also where 0 was asked for."""
        return self._server.server_port

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; does not wait for requests under way."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
