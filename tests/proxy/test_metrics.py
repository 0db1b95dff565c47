"""Metrics: what each report adds, closed label sets, and docs/metrics.md against the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import SQLSTATE_CLASSES, Metrics, MetricSink, NullMetrics, SupervisorMetrics, Turned
from rules.plan import Action, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.session.state import SessionObserver

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def test_a_statement_is_counted_under_its_action(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.statement(Action.SELECT, 0.0002, 0.004)
    metrics.statement(None, 0.0001, 0.002)
    labels = {"action": "select"}
    assert registry.get_sample_value("pgveil_statement_added_seconds_count", labels) == 1
    assert registry.get_sample_value("pgveil_statement_added_seconds_sum", labels) == 0.0002
    assert registry.get_sample_value("pgveil_statement_server_seconds_sum", labels) == 0.004
    assert registry.get_sample_value("pgveil_statement_server_seconds_sum", {"action": "plain"}) == 0.002


def test_what_passes_untimed_is_counted_and_skews_no_histogram(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.passed(2)
    assert registry.get_sample_value("pgveil_passed_statements_total") == 2
    assert registry.get_sample_value("pgveil_statement_added_seconds_count", {"action": "plain"}) == 0


def test_what_each_message_counts_is_given_on_later(registry: CollectorRegistry) -> None:
    """Once for many: an addition of prometheus' costs as much as a statement that passes."""
    asked: list[Callable[[], None]] = []
    metrics = Metrics(registry, asked.append)
    for _ in range(3):
        metrics.passed(1)
        metrics.from_client(10)
        metrics.from_server(7)
    assert len(asked) == 1
    assert registry.get_sample_value("pgveil_passed_statements_total") == 0
    asked.pop()()
    assert registry.get_sample_value("pgveil_passed_statements_total") == 3
    assert registry.get_sample_value("pgveil_received_bytes_total", {"side": "client"}) == 30
    assert registry.get_sample_value("pgveil_received_bytes_total", {"side": "server"}) == 21
    metrics.passed(1)
    assert len(asked) == 1, "and asked for again"


def test_a_session_can_report_to_it(metrics: Metrics) -> None:
    observer: SessionObserver = metrics
    observer.sealed(1)


def test_a_clock_that_jumps_back_takes_nothing_away(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.statement(Action.COPY, -1.0, -1.0)
    assert registry.get_sample_value("pgveil_statement_added_seconds_sum", {"action": "copy"}) == 0
    assert registry.get_sample_value("pgveil_statement_added_seconds_count", {"action": "copy"}) == 1


def test_each_report_reaches_its_metric(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.plan_cache(hit=True)
    metrics.plan_cache(hit=False)
    metrics.plan_cache(hit=False)
    metrics.plan_cache_entries(7)
    metrics.parsed(2)
    metrics.opened(1000)
    metrics.sealed(3)
    metrics.audit_queue(4)
    metrics.audit_synced(12, 0.002)
    metrics.audit_healthy(healthy=True)
    metrics.catalog_loaded(loaded=True)
    metrics.not_applied(3)
    metrics.rules_loaded("0123456789abcdef")
    metrics.server_reached(1_700_000_000.0)
    metrics.connection_opened()
    metrics.connection_opened()
    metrics.connection_closed()
    metrics.login_failed()
    metrics.login_abandoned()
    metrics.login_abandoned()
    metrics.from_client(100)
    metrics.from_server(200)
    metrics.message_objects(5)
    expected = {
        ("pgveil_plan_cache_lookups_total", ("result", "hit")): 1,
        ("pgveil_plan_cache_lookups_total", ("result", "miss")): 2,
        ("pgveil_plan_cache_entries", None): 7,
        ("pgveil_parses_total", None): 2,
        ("pgveil_opened_values_total", None): 1000,
        ("pgveil_sealed_values_total", None): 3,
        ("pgveil_audit_queue_records", None): 4,
        ("pgveil_audit_records_total", None): 12,
        ("pgveil_audit_fsync_seconds_sum", None): 0.002,
        ("pgveil_audit_healthy", None): 1,
        ("pgveil_catalog_loaded", None): 1,
        ("pgveil_not_applied", None): 3,
        ("pgveil_rules_version_lowest", None): 0x0123456789AB,
        ("pgveil_rules_version_highest", None): 0x0123456789AB,
        ("pgveil_server_reached_timestamp_seconds", None): 1_700_000_000.0,
        ("pgveil_connections", None): 1,
        ("pgveil_connections_opened_total", None): 2,
        ("pgveil_logins_failed_total", None): 1,
        ("pgveil_logins_abandoned_total", None): 2,
        ("pgveil_received_bytes_total", ("side", "client")): 100,
        ("pgveil_received_bytes_total", ("side", "server")): 200,
        ("pgveil_forwarded_message_objects_total", None): 5,
    }
    found = {
        key: registry.get_sample_value(key[0], {} if key[1] is None else {key[1][0]: key[1][1]}) for key in expected
    }
    assert found == expected


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_reason_has_a_series(reason: Reason, metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.refused(reason)
    for name in ("pgveil_refusals_total",):
        assert registry.get_sample_value(name, {"reason": reason.value}) == 1


@pytest.mark.parametrize("reason", Turned)
def test_every_connection_refusal_has_a_series(reason: Turned, metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.connection_refused(reason)
    assert registry.get_sample_value("pgveil_connections_refused_total", {"reason": reason.value}) == 1


@pytest.mark.parametrize(
    ("sqlstate", "label"),
    [
        ("42501", "42"),
        ("XX000", "XX"),
        ("00000", "00"),
        ("SECRET", "other"),
        ("", "other"),
        ("p0001", "other"),
        ("99999", "other"),
    ],
)
def test_errors_by_class_and_nothing_a_server_invents(
    sqlstate: str, label: str, metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.error(sqlstate)
    assert registry.get_sample_value("pgveil_errors_total", {"sqlstate_class": label}) == 1


def test_no_report_makes_a_new_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    before = {(s.name, tuple(s.labels.items())) for m in registry.collect() for s in m.samples}
    for action in (None, *Action):
        metrics.statement(action, 0.1, 0.1)
    for sqlstate in ("42P01", "alice", "\N{SNOWMAN}", "4"):
        metrics.error(sqlstate)
    after = {(s.name, tuple(s.labels.items())) for m in registry.collect() for s in m.samples}
    assert before == after


def test_sqlstate_classes_are_two_characters() -> None:
    assert all(re.fullmatch(r"[0-9A-Z]{2}", c) for c in SQLSTATE_CLASSES)


def test_the_sinks_agree_with_the_protocol() -> None:
    names = [n for n, f in vars(MetricSink).items() if not n.startswith("_") and inspect.isfunction(f)]
    assert names
    for name in names:
        signature = inspect.signature(getattr(MetricSink, name))
        assert inspect.signature(getattr(Metrics, name)) == signature, name
        assert inspect.signature(getattr(NullMetrics, name)) == signature, name


def test_the_null_sink_takes_every_report() -> None:
    sink: MetricSink = NullMetrics()
    sink.statement(None, 0, 0)
    sink.refused(Reason.AUDIT)
    sink.connection_refused(Turned.LIMIT)
    sink.audit_synced(1, 0.1)


def test_the_supervisor_counts_apart(registry: CollectorRegistry) -> None:
    supervisor = SupervisorMetrics(registry, "1.2.3")
    supervisor.workers(3, 4)
    supervisor.worker_restarted()
    supervisor.ready(ready=True)
    assert registry.get_sample_value("pgveil_workers") == 3
    assert registry.get_sample_value("pgveil_workers_configured") == 4
    assert registry.get_sample_value("pgveil_worker_restarts_total") == 1
    assert registry.get_sample_value("pgveil_ready") == 1
    build = [s for m in registry.collect() if m.name == "pgveil_build_info" for s in m.samples]
    assert [s.labels["version"] for s in build] == ["1.2.3"]


def test_names_follow_the_conventions(registry: CollectorRegistry) -> None:
    Metrics(registry)
    SupervisorMetrics(registry, "1")
    for metric in text_string_to_metric_families(generate_latest(registry).decode()):
        if metric.name.endswith("_created"):
            continue
        assert re.fullmatch(r"pgveil_[a-z_]+", metric.name)
        assert metric.documentation.endswith("."), metric.name
        if metric.type == "counter":
            assert all(s.name.endswith("_total") for s in metric.samples)
        if metric.type == "histogram":
            assert metric.name.endswith("_seconds")


def test_docs_list_exactly_the_metrics_there_are(registry: CollectorRegistry) -> None:
    Metrics(registry)
    SupervisorMetrics(registry, "1")
    rows = re.findall(r"^\| `(pgveil_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \| `(.+)` \|$", DOCS.read_text(), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in rows}
    real = {}
    for metric in registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = dict.fromkeys(k for s in metric.samples for k in s.labels if k != "le")
        real[name] = (metric.type, tuple(labels))
    assert documented == real
    assert all(name in query for name, _, _, _, query in rows)


def test_docs_name_every_reason_a_connection_is_not_taken() -> None:
    text = DOCS.read_text()
    assert all(f"`{reason.value}`" in text for reason in Turned)
    assert all(f"`{action.value}`" in text for action in Action)
