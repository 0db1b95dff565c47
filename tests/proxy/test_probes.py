"""The probes' listener: pages, methods, readiness, limits."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

import proxy.probes
from proxy.metrics import Metrics
from proxy.probes import ProbeServer, Readiness, application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Site:
    def __init__(self) -> None:
        self.state = {"catalog": True, "audit": True, "server": True}
        self.reports: list[bool] = []
        registry = CollectorRegistry()
        Metrics(registry).opened(3)
        checks = {name: self._check(name) for name in self.state}
        self.server = ProbeServer("127.0.0.1", 0, application(registry, Readiness(checks, self.reports.append)))
        self.server.start()

    def _check(self, name: str) -> Callable[[], bool]:
        return lambda: self.state[name]

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        client.request(method, path)
        answer = client.getresponse()
        body = answer.read().decode()
        client.close()
        return answer.status, answer.getheader("Content-Type", ""), body


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.close()


def test_metrics_are_prometheus_text(site: Site) -> None:
    status, kind, body = site.ask("/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=0.0.4")
    assert "pgveil_opened_values_total 3.0" in body
    assert site.reports == [True]


def test_healthz_does_not_depend_on_the_checks(site: Site) -> None:
    site.state["audit"] = False
    assert site.ask("/healthz")[0] == 200


@pytest.mark.parametrize("failing", ["catalog", "audit", "server"])
def test_readyz_names_what_fails(site: Site, failing: str) -> None:
    assert site.ask("/readyz")[0] == 200
    site.state[failing] = False
    status, _, body = site.ask("/readyz")
    assert status == 503
    assert [name for name, holds in json.loads(body)["checks"].items() if not holds] == [failing]
    assert site.reports == [True, False]


def test_a_check_that_raises_does_not_hold_and_says_nothing(site: Site) -> None:
    del site.state["server"]
    status, _, body = site.ask("/readyz")
    assert status == 503
    assert "KeyError" not in body


def test_other_paths_and_methods(site: Site) -> None:
    assert site.ask("/")[0] == 404
    assert site.ask("/metrics", "POST")[0] == 405
    status, _, body = site.ask("/healthz", "HEAD")
    assert (status, body) == (200, "")


def test_nonsense_gets_an_answer_or_a_hang_up_and_the_next_one_is_served(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as raw:
        raw.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f" + b"\r\n\r\n")
        raw.recv(1000)
    assert site.ask("/healthz")[0] == 200


def test_more_than_the_limit_are_turned_away(site: Site) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", site.server.port), timeout=10) for _ in range(proxy.probes.MAX_REQUESTS)
    ]
    try:
        with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as extra:
            assert extra.recv(1) == b""
    finally:
        for one in idle:
            one.close()


def test_one_that_trickles_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.probes, "TOTAL_SECONDS", 0.2)
    site = Site()
    try:
        with socket.create_connection(("127.0.0.1", site.server.port), timeout=10) as slow:
            slow.sendall(b"GET /healthz")
            assert slow.recv(1) == b""
    finally:
        site.server.close()


def test_an_ipv6_address_can_be_listened_on() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        server = ProbeServer("::1", 0, application(CollectorRegistry(), Readiness({})))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error.strerror}")
    server.start()
    client = http.client.HTTPConnection("::1", server.port, timeout=10)
    client.request("GET", "/readyz")
    assert client.getresponse().status == 200
    client.close()
    server.close()


def test_closing_twice_or_unstarted_is_harmless() -> None:
    server = ProbeServer("127.0.0.1", 0, application(CollectorRegistry(), Readiness({})))
    before = threading.active_count()
    server.close()
    server.close()
    assert threading.active_count() == before
