"""The pgveil that runs: whether it is ready, and is the one that the files speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from doctor.live import RULES_DIGITS
from doctor.model import Check, Found, Group, NotChecked, Severity, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts


def _page(facts: Facts) -> str:
    metrics = facts.config.metrics
    if metrics.port is None:
        raise NotChecked("metrics.port is not set, so there is no page to ask", "metrics: {port: 9632}")
    return f"{metrics.address}:{metrics.port}"


def _ready(facts: Facts) -> Iterator[Found]:
    page = _page(facts)
    if facts.live.checks is None:
        yield Found(
            Severity.WARNING,
            page,
            f"nobody answers at {page}: pgveil does not run",
            f"pgveil run --config {facts.config.file}",
        )
        return
    failing = [name for name, holds in facts.live.checks.items() if not holds]
    if failing:
        text = f"pgveil is not ready: {listed(failing)}"
        yield Found(Severity.BAD, page, text, "look into its log; docs/metrics.md says what each of these means")


def _rules(facts: Facts) -> Iterator[Found]:
    page = _page(facts)
    if facts.live.checks is None:
        raise NotChecked("pgveil does not run", f"pgveil run --config {facts.config.file}")
    version = facts.rules.version[:RULES_DIGITS]
    other = sorted(facts.live.rules - {version})
    if other:
        yield Found(
            Severity.BAD,
            page,
            f"pgveil runs by rules {listed(other)}; {facts.config.rules} is {version}",
            "pgveil reload",
        )
    if facts.live.refused:
        yield Found(
            Severity.BAD,
            page,
            "the last reload was refused: what the files say of rules, keys and certificates is not in force",
            "pgveil reload says what is wrong with them (docs/running.md)",
        )


def _version(facts: Facts) -> Iterator[Found]:
    page = _page(facts)
    if facts.live.version is None:
        raise NotChecked("pgveil does not run", f"pgveil run --config {facts.config.file}")
    if facts.live.version != facts.own_version:
        yield Found(
            Severity.WARNING,
            page,
            f"pgveil {facts.live.version} runs, and {facts.own_version} is installed",
            "start it again: systemctl restart pgveil",
        )


def _login(facts: Facts) -> Iterator[Found]:
    live, listen = facts.live, facts.config.listen
    if not live.tried_login:
        raise NotChecked("there is no login to try", "give catalog.dsn")
    place = f"{listen.address}:{listen.port}"
    if live.login is not None:
        yield Found(
            Severity.BAD if live.checks is not None else Severity.WARNING,
            place,
            f"pgveil's own login does not get through pgveil at {place}: {live.login}",
            "pgveil's log says why; pg_hba.conf must let it in from pgveil's address",
        )
    elif (live.started, live.database) != (facts.database.started, facts.database.name):
        yield Found(
            Severity.BAD,
            place,
            f"what pgveil at {place} leads to is not the server and database that was looked at",
            "compare server.hosts with catalog.dsn, and with --database",
        )


CHECKS: Final = (
    Check(
        "live-ready",
        Group.LIVE,
        "pgveil runs and is ready",
        "/readyz tells balancers whether to send clients; each check of it that fails is named.",
        _ready,
    ),
    Check(
        "live-rules",
        Group.LIVE,
        "pgveil runs by the rules that are in the file",
        "Rules hold from the reload on. A reload that was forgotten, or refused, leaves the old ones in force.",
        _rules,
    ),
    Check(
        "live-version",
        Group.LIVE,
        "pgveil runs in the version that is installed",
        "What was fixed holds from the restart on.",
        _version,
    ),
    Check(
        "live-login",
        Group.LIVE,
        "One gets through pgveil to the database that was looked at",
        "All that was checked is worth nothing if pgveil leads somewhere else.",
        _login,
    ),
)
