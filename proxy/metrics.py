"""What one process of pgveil counts, for Prometheus.

Labels come from closed sets only (actions, refusal reasons, SQLSTATE classes, directions), so the number of series is fixed and no value,
name or text of a client can become a label. With several workers prometheus-client keeps its numbers in files, one set a process
(https://prometheus.github.io/client_python/multiprocess/); `proxy.metric_files` prepares the directory and merges them. In that mode a gauge
exists, at 0, as soon as it is made: what the supervisor counts is therefore a class of its own, or its zeros would spoil the workers' minima.
"""

from __future__ import annotations

import platform
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from rules.plan import Action, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

# From 10 us (a cache hit on a short statement) to 10 s (a server query that an operator should look at), about three a decade.
LATENCY_BUCKETS: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
# A good disk syncs in under 1 ms, a bad cloud volume in tens of ms.
FSYNC_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

PLAIN: Final = "plain"
# What an observed statement may come to besides a refusal (proxy.observe.findings.Outcome).
NOT_REFUSED: Final = ("by_mask", "computed", "changed", "recorded", "passes")

# PostgreSQL documentation, appendix A. A class that is not here counts as "other".
SQLSTATE_CLASSES: Final = frozenset(
    (
        *("00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z"),
        *("20", "21", "22", "23", "24", "25", "26", "27", "28", "2B", "2D", "2F"),
        *("34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55"),
        *("57", "58", "72", "F0", "HV", "P0", "XX"),
    )
)
OTHER_CLASS: Final = "other"
# Of the rules' version: 48 bits, which a float holds exactly.
RULES_DIGITS: Final = 12


class Turned(StrEnum):
    """Why a connection was not taken."""

    LIMIT = "limit"  # as many as the configuration allows
    LOGINS = "logins"  # too many others were logging in
    TLS = "tls"  # plain text where TLS is required, or a failed handshake
    PROTOCOL = "protocol"  # not PostgreSQL's protocol, or a version that pgveil does not speak
    SERVER = "server"  # the server behind could not be reached
    TIMEOUT = "timeout"  # the handshake took too long
    DRAINING = "draining"  # the worker is shutting down
    NOT_READY = "not_ready"  # no catalog yet, or the audit log cannot be written


class HostKind(StrEnum):
    """What a host is, as `proxy.hosts` finds out."""

    PRIMARY = "primary"
    READ_ONLY = "read_only"  # no standby, but its sessions begin read only
    STANDBY = "standby"
    UNREACHABLE = "unreachable"  # or not asked yet


class Computed(StrEnum):
    """What came of a question to the calculator."""

    OK = "ok"
    ERROR = "error"  # PostgreSQL's own, about the statement
    TROUBLE = "trouble"  # the calculator did not run, or a limit was reached


class MetricSink:
    """What a worker reports; here, to nobody. Every call is cheap and none raises; seconds and bytes are SI base units."""

    __slots__ = ()

    def statement(self, action: Action | None, added: float, server: float) -> None:
        """A statement ended: seconds that the proxy added and that the server took.

        None: it touched nothing protected; with 0 and 0 it was not timed either, and is only counted.
        """

    def passed(self, count: int) -> None:
        """So many statements ended that touched nothing protected."""

    def plan_cache(self, *, hit: bool) -> None:
        """A look-up in the plan cache."""

    def plan_cache_entries(self, entries: int) -> None:
        """How many plans the cache holds now."""

    def parsed(self, count: int = 1) -> None:
        """Texts given to the SQL parser."""

    def refused(self, reason: Reason) -> None:
        """A statement was refused."""

    def observed(self, what: str, count: int) -> None:
        """`count` statements ran in observe mode; `what` would be done: a refusal's reason, or "changed", "recorded", "passes"."""

    def opened(self, values: int) -> None:
        """Sealed values opened for a result."""

    def sealed(self, values: int) -> None:
        """Values sealed for the server."""

    def computed(self, outcome: Computed, rows: int, seconds: float) -> None:
        """The calculator answered: rows given, and seconds in it, waiting included."""

    def audit_queue(self, records: int) -> None:
        """How many audit records wait to become durable."""

    def audit_synced(self, records: int, seconds: float) -> None:
        """`records` became durable by one fsync that took `seconds`."""

    def audit_healthy(self, *, healthy: bool) -> None:
        """Whether the audit log can be written."""

    def catalog_loaded(self, *, loaded: bool) -> None:
        """Whether the worker knows the database's catalog."""

    def not_applied(self, count: int) -> None:
        """How many sealed columns and masking views of the database of pgveil's own URL are not as the rules say, and not served."""

    def rules_loaded(self, version: str) -> None:
        """The rules that hold from now on, by their version (hex digits)."""

    def server_reached(self, now: float) -> None:
        """The server answered; `now` is Unix time in seconds."""

    def hosts(self, kinds: Mapping[HostKind, int]) -> None:
        """How many of the server's hosts are of each kind now."""

    def failed_over(self) -> None:
        """New clients are led to another host than before."""

    def connection_opened(self) -> None:
        """A client connection was taken."""

    def connection_closed(self) -> None:
        """A client connection that had been taken ended."""

    def connection_refused(self, reason: Turned) -> None:
        """A client connection was not taken."""

    def login_failed(self) -> None:
        """The server did not let a client log in."""

    def login_abandoned(self) -> None:
        """A client went away without an answer to what the server asked of it."""

    def error(self, sqlstate: str) -> None:
        """A client was sent an ErrorResponse, the server's or ours."""

    def from_client(self, size: int) -> None:
        """Bytes received from clients."""

    def from_server(self, size: int) -> None:
        """Bytes received from the server."""

    def flush(self) -> None:
        """What was counted and not given on yet is given on: before an end."""

    def message_objects(self, count: int) -> None:
        """Forwarded messages for which an object was made; messages forwarded within a run of bytes don't count."""


class Metrics(MetricSink):
    """A worker's metrics in `registry`, every child resolved once: a report is a dictionary look-up and an addition.

    What each message counts is added up here and given on by `later` (None: at once), which is handed `flush`.
    """

    __slots__ = (
        "_added",
        "_audit_fsync",
        "_audit_healthy",
        "_audit_queue",
        "_audit_records",
        "_cache_entries",
        "_cache_hit",
        "_cache_miss",
        "_catalog",
        "_client_bytes",
        "_computed",
        "_computed_rows",
        "_connections",
        "_connections_refused",
        "_connections_total",
        "_due",
        "_errors",
        "_failovers",
        "_from_client",
        "_from_server",
        "_hosts",
        "_later",
        "_logins_abandoned",
        "_logins_failed",
        "_not_applied",
        "_objects",
        "_observed",
        "_opened",
        "_parses",
        "_passed",
        "_passing",
        "_reached",
        "_refusals",
        "_rules_highest",
        "_rules_lowest",
        "_sealed",
        "_server",
        "_server_bytes",
    )

    def __init__(
        self, registry: CollectorRegistry, later: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        self._later = later
        self._due = False
        self._client_bytes = self._server_bytes = self._passing = 0
        self._statements(registry)
        self._planning(registry)
        self._audit(registry)
        self._behind(registry)
        self._traffic(registry)

    def _statements(self, registry: CollectorRegistry) -> None:
        added = Histogram(
            "pgveil_statement_added_seconds",
            "Time that pgveil added to a statement, by what the statement does.",
            ["action"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        server = Histogram(
            "pgveil_statement_server_seconds",
            "Time from sending a statement to the server to the end of its answer, by what the statement does.",
            ["action"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._passed = Counter(
            "pgveil_passed_statements_total",
            "Statements that touch nothing protected, forwarded as they came and not timed.",
            registry=registry,
        ).inc
        actions: tuple[Action | None, ...] = (None, *Action)
        self._added = {a: added.labels(a or PLAIN).observe for a in actions}
        self._server = {a: server.labels(a or PLAIN).observe for a in actions}

    def _planning(self, registry: CollectorRegistry) -> None:
        cache = Counter(
            "pgveil_plan_cache_lookups_total", "Look-ups in the plan cache, by result.", ["result"], registry=registry
        )
        self._cache_hit = cache.labels("hit").inc
        self._cache_miss = cache.labels("miss").inc
        self._cache_entries = Gauge(
            "pgveil_plan_cache_entries",
            "Plans in the plan caches of all workers.",
            registry=registry,
            multiprocess_mode="livesum",
        ).set
        self._parses = Counter("pgveil_parses_total", "Statement texts given to the SQL parser.", registry=registry).inc
        refusals = Counter(
            "pgveil_refusals_total", "Statements refused, by reason (docs/errors.md).", ["reason"], registry=registry
        )
        self._refusals = {r: refusals.labels(r).inc for r in Reason}
        observed = Counter(
            "pgveil_observed_total",
            "Statements run in observe mode, by what would be done: a refusal's reason, or by_mask, computed, changed, recorded, passes.",
            ["reason"],
            registry=registry,
        )
        self._observed = {what: observed.labels(what).inc for what in (*Reason, *NOT_REFUSED)}
        self._opened = Counter("pgveil_opened_values_total", "Sealed values opened for results.", registry=registry).inc
        self._sealed = Counter(
            "pgveil_sealed_values_total", "Values sealed on their way to the server.", registry=registry
        ).inc

        computed = Histogram(
            "pgveil_computation_seconds",
            "Time of one question to the calculator, waiting included, by what came of it.",
            ["outcome"],
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self._computed = {outcome: computed.labels(outcome).observe for outcome in Computed}
        self._computed_rows = Counter(
            "pgveil_computed_rows_total", "Rows that the calculator gave.", registry=registry
        ).inc

    def _audit(self, registry: CollectorRegistry) -> None:
        self._audit_queue = Gauge(
            "pgveil_audit_queue_records",
            "Audit records not yet durable.",
            registry=registry,
            multiprocess_mode="livesum",
        ).set
        self._audit_fsync = Histogram(
            "pgveil_audit_fsync_seconds",
            "Time of one fsync of the audit log.",
            registry=registry,
            buckets=FSYNC_BUCKETS,
        ).observe
        self._audit_records = Counter(
            "pgveil_audit_records_total", "Audit records made durable.", registry=registry
        ).inc
        self._audit_healthy = Gauge(
            "pgveil_audit_healthy",
            "1 while every live worker can write its audit log, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        ).set
        self._rules_lowest = Gauge(
            "pgveil_rules_version_lowest",
            "The first 12 hex digits of the rules' version as a number: the lowest of the workers'.",
            registry=registry,
            multiprocess_mode="livemin",
        ).set
        self._rules_highest = Gauge(
            "pgveil_rules_version_highest",
            "The same, the highest. Where the two differ, a worker has not taken up the rules that others have.",
            registry=registry,
            multiprocess_mode="livemax",
        ).set
        self._catalog = Gauge(
            "pgveil_catalog_loaded",
            "1 while every live worker knows the database's catalog, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        ).set
        self._not_applied = Gauge(
            "pgveil_not_applied",
            "Sealed columns and masking views of the database of catalog.dsn that differ from the rules, and are not served.",
            registry=registry,
            multiprocess_mode="livemax",
        ).set
        self._reached = Gauge(
            "pgveil_server_reached_timestamp_seconds",
            "When a live worker last had an answer from the server, as Unix time.",
            registry=registry,
            multiprocess_mode="livemax",
        ).set

    def _behind(self, registry: CollectorRegistry) -> None:
        hosts = Gauge(
            "pgveil_server_hosts",
            "Hosts of the server by what they are; asked where there are several, or where a kind is asked for.",
            ["kind"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._hosts = {kind: hosts.labels(kind).set for kind in HostKind}
        self._failovers = Counter(
            "pgveil_failovers_total",
            "Times that a worker began to lead new clients to another host of the server.",
            registry=registry,
        ).inc

    def _traffic(self, registry: CollectorRegistry) -> None:
        self._connections = Gauge(
            "pgveil_connections", "Client connections open now.", registry=registry, multiprocess_mode="livesum"
        )
        self._connections_total = Counter(
            "pgveil_connections_opened_total", "Client connections taken.", registry=registry
        ).inc
        turned = Counter(
            "pgveil_connections_refused_total",
            "Client connections not taken, by reason.",
            ["reason"],
            registry=registry,
        )
        self._connections_refused = {r: turned.labels(r).inc for r in Turned}
        self._logins_failed = Counter(
            "pgveil_logins_failed_total", "Logins that the server did not accept.", registry=registry
        ).inc
        self._logins_abandoned = Counter(
            "pgveil_logins_abandoned_total",
            "Clients that went away when the server asked who they are, as probes do.",
            registry=registry,
        ).inc
        errors = Counter(
            "pgveil_errors_total",
            "Errors sent to clients, the server's and pgveil's own, by SQLSTATE class.",
            ["sqlstate_class"],
            registry=registry,
        )
        self._errors = {c: errors.labels(c).inc for c in (OTHER_CLASS, *sorted(SQLSTATE_CLASSES))}
        received = Counter(
            "pgveil_received_bytes_total", "Bytes received, by the side they came from.", ["side"], registry=registry
        )
        self._from_client = received.labels("client").inc
        self._from_server = received.labels("server").inc
        self._objects = Counter(
            "pgveil_forwarded_message_objects_total",
            "Forwarded messages for which an object was made; those forwarded within a run of bytes don't count.",
            registry=registry,
        ).inc

    def statement(self, action: Action | None, added: float, server: float) -> None:
        """See MetricSink; negative seconds (a clock that jumped) count as 0."""
        self._added[action](max(added, 0.0))
        self._server[action](max(server, 0.0))

    def passed(self, count: int) -> None:
        """See MetricSink."""
        self._passing += count
        if not self._due:
            self._count_later()

    def _count_later(self) -> None:
        """Give what was counted since to prometheus: at once, or by `later`, so that a statement is not a lock and a file's page each."""
        if self._later is None:
            self.flush()
        else:
            self._due = True
            self._later(self.flush)

    def flush(self) -> None:
        """See MetricSink."""
        self._due = False
        self._passed(self._passing)
        self._from_client(self._client_bytes)
        self._from_server(self._server_bytes)
        self._client_bytes = self._server_bytes = self._passing = 0

    def plan_cache(self, *, hit: bool) -> None:
        """See MetricSink."""
        (self._cache_hit if hit else self._cache_miss)()

    def plan_cache_entries(self, entries: int) -> None:
        """See MetricSink."""
        self._cache_entries(entries)

    def parsed(self, count: int = 1) -> None:
        """See MetricSink."""
        self._parses(count)

    def refused(self, reason: Reason) -> None:
        """See MetricSink."""
        self._refusals[reason]()

    def observed(self, what: str, count: int) -> None:
        """See MetricSink."""
        self._observed[what](count)

    def opened(self, values: int) -> None:
        """See MetricSink."""
        self._opened(values)

    def sealed(self, values: int) -> None:
        """See MetricSink."""
        self._sealed(values)

    def computed(self, outcome: Computed, rows: int, seconds: float) -> None:
        """See MetricSink."""
        self._computed[outcome](max(seconds, 0.0))
        self._computed_rows(rows)

    def audit_queue(self, records: int) -> None:
        """See MetricSink."""
        self._audit_queue(records)

    def audit_synced(self, records: int, seconds: float) -> None:
        """See MetricSink."""
        self._audit_records(records)
        self._audit_fsync(max(seconds, 0.0))

    def audit_healthy(self, *, healthy: bool) -> None:
        """See MetricSink."""
        self._audit_healthy(1 if healthy else 0)

    def catalog_loaded(self, *, loaded: bool) -> None:
        """See MetricSink."""
        self._catalog(1 if loaded else 0)

    def not_applied(self, count: int) -> None:
        """See MetricSink."""
        self._not_applied(count)

    def rules_loaded(self, version: str) -> None:
        """See MetricSink."""
        number = int(version[:RULES_DIGITS], 16)
        self._rules_lowest(number)
        self._rules_highest(number)

    def server_reached(self, now: float) -> None:
        """See MetricSink."""
        self._reached(now)

    def hosts(self, kinds: Mapping[HostKind, int]) -> None:
        """See MetricSink."""
        for kind, count in kinds.items():
            self._hosts[kind](count)

    def failed_over(self) -> None:
        """See MetricSink."""
        self._failovers()

    def connection_opened(self) -> None:
        """See MetricSink."""
        self._connections_total()
        self._connections.inc()

    def connection_closed(self) -> None:
        """See MetricSink."""
        self._connections.dec()

    def connection_refused(self, reason: Turned) -> None:
        """See MetricSink."""
        self._connections_refused[reason]()

    def login_failed(self) -> None:
        """See MetricSink."""
        self._logins_failed()

    def login_abandoned(self) -> None:
        """See MetricSink."""
        self._logins_abandoned()

    def error(self, sqlstate: str) -> None:
        """See MetricSink."""
        count = self._errors.get(sqlstate[:2])
        (count or self._errors[OTHER_CLASS])()

    def from_client(self, size: int) -> None:
        """See MetricSink."""
        self._client_bytes += size
        if not self._due:
            self._count_later()

    def from_server(self, size: int) -> None:
        """See MetricSink."""
        self._server_bytes += size
        if not self._due:
            self._count_later()

    def message_objects(self, count: int) -> None:
        """See MetricSink."""
        self._objects(count)


class NullMetrics(MetricSink):
    """A sink that counts nothing: for tests, and where metrics are switched off."""

    __slots__ = ()


class SupervisorMetrics:
    """What the supervisor counts: its workers, and whether pgveil as a whole is ready."""

    __slots__ = ("_build", "_expires", "_ready", "_reload_failed", "_reloads", "_restarts", "_wanted", "_workers")

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        self._build = Gauge(
            "pgveil_build_info",
            "Always 1; the labels name pgveil's and Python's version.",
            ["version", "python"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._build.labels(version, platform.python_version()).set(1)
        self._workers = Gauge(
            "pgveil_workers", "Workers running now.", registry=registry, multiprocess_mode="livesum"
        ).set
        self._wanted = Gauge(
            "pgveil_workers_configured",
            "Workers that the configuration asks for.",
            registry=registry,
            multiprocess_mode="livemax",
        ).set
        self._restarts = Counter(
            "pgveil_worker_restarts_total", "Workers started again because one ended by itself.", registry=registry
        ).inc
        self._ready = Gauge(
            "pgveil_ready", "1 while /readyz answers 200, else 0.", registry=registry, multiprocess_mode="livemin"
        ).set

        reloads = Counter(
            "pgveil_reloads_total",
            "Reloads of configuration, rules, keys and certificates, by what came of them.",
            ["outcome"],
            registry=registry,
        )
        self._reloads = {applied: reloads.labels("applied" if applied else "refused").inc for applied in (True, False)}
        self._reload_failed = Gauge(
            "pgveil_reload_failed",
            "1 while the last reload was refused, so that what the files say is not in force, else 0.",
            registry=registry,
            multiprocess_mode="livemax",
        ).set
        self._expires = Gauge(
            "pgveil_certificate_expiry_timestamp_seconds",
            "When a certificate that pgveil shows expires, as Unix time; by whom it is shown to. 0: there is none.",
            ["side"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._expires.labels("clients")
        self._expires.labels("server")

    def reloaded(self, *, applied: bool) -> None:
        """A reload came to its end."""
        self._reloads[applied]()
        self._reload_failed(0 if applied else 1)

    def certificate_expires(self, side: str, until: float) -> None:
        """Until when a certificate is good."""
        self._expires.labels(side).set(until)

    def workers(self, running: int, configured: int) -> None:
        """How many workers run, and how many should."""
        self._workers(running)
        self._wanted(configured)

    def worker_restarted(self) -> None:
        """A worker ended by itself and another was started in its place."""
        self._restarts()

    def ready(self, *, ready: bool) -> None:
        """What /readyz says."""
        self._ready(1 if ready else 0)
