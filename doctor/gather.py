"""Reading everything that the checks look at. Nothing here judges, and nothing that can't be read stops the rest."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from audit.verify import verify_newest
from doctor.database import read_database
from doctor.facts import ChainProblem, Facts, Missing, known
from doctor.hba import LOOPBACK
from doctor.host import read_host
from doctor.live import log_in, read_pages
from doctor.model import NotChecked
from doctor.network import read_wire
from doctor.sealed import read_samples
from keys.providers import ProviderError
from keys.providers.file import MASTER_FILE, FileMasterKey
from keys.ring import KeyRing, RingError
from lifecycle.database import DatabaseError, DatabaseUrlError, describe_error
from proxy.databases import dsn_of
from proxy.errors import ConfigError
from proxy.own_login import OwnLogin, login_in
from rules.agreement import compare, missing_roles
from rules.load import check_rules, read_rules_file
from rules.problems import RulesError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from audit.verify import Report
    from doctor.facts import Database, Sample
    from lifecycle.database import Connection
    from proxy.config import Config, Network
    from rules.document import Place
    from rules.model import ColumnName, Rules, TableName
    from rules.problems import Problem

_MOST_PROBLEMS: Final = 20


class UrlError(Exception):
    """The URL that was given is none, or there is none."""


async def gather(
    config: Config, url: str | None, clock: Callable[[], float], own_version: str, *, deep: bool = False
) -> Facts:
    """Everything. `url`: of the database, instead of the configuration's. `deep`: read large tables whole. Raises UrlError."""
    problems, rules, places = _rules(config.rules)
    ring = _ring(config.keys)
    own_url = _own_url(config)
    target = url or own_url
    if target is None:
        raise UrlError("no database to look at: give --database, or catalog.dsn in the configuration")
    database: Database | Missing
    try:
        # pgveil's own login as pgveil uses it; another URL as it says.
        tls = OwnLogin(target, config.server if target == own_url else None).attempts()
        database, connection = await read_database(
            target, rules, ring, clock, _host(config, target), tls, login_in(own_url)
        )
    except ConfigError as error:
        database = Missing(
            str(error), "give server.root_certificate, server.certificate and server.key files that can be used"
        )
    except DatabaseUrlError:
        raise UrlError("the database's URL can't be used: write postgresql://user@host:port/database") from None
    except DatabaseError as error:
        database = Missing(str(error), "see that the server runs, and that the URL and pg_hba.conf let doctor in")
    else:
        try:
            database = replace(database, samples=await _samples(connection, rules, ring, database, deep=deep))
        except asyncpg.PostgresError as error:
            database = replace(database, samples=Missing(f"the database says: {describe_error(error)}", "try again"))
        finally:
            connection.terminate()
    login = login_in(own_url)
    live = read_pages(config)
    if own_url is not None and config.tls.client_ca is None:
        wrong, started, name = await log_in(config, own_url)
        live = replace(live, tried_login=True, login=wrong, started=started, database=name)
    return Facts(
        config=config,
        now=datetime.fromtimestamp(clock(), UTC),
        url=without_password(target),
        rules_problems=problems,
        rules_or=rules,
        ring_or=ring,
        database_or=database,
        host=read_host(config),
        wire=read_wire(config),
        live=live,
        catalog_login=login,
        catalog_url=own_url,
        own_version=own_version,
        addresses=_addresses(config, database),
        agreement=_agreement(config.rules, rules, database, places),
        audit_problems=_audit(config.audit),
    )


async def _samples(
    connection: Connection, rules: Rules | Missing, ring: KeyRing | Missing, database: Database, *, deep: bool
) -> tuple[Sample, ...] | Missing:
    if isinstance(rules, Missing):
        return rules
    if isinstance(ring, Missing):
        return ring
    return await read_samples(connection, rules, ring, database.state.catalog, deep=deep)


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")
        name = host[0].partition(":")[0]
        return urlunsplit((parts.scheme, f"{name}@{host[2]}" if name else host[2], parts.path, "", ""))
    except ValueError:
        return "DATABASE"


def _rules(
    path: Path,
) -> tuple[tuple[Problem, ...], Rules | Missing, Mapping[TableName | ColumnName, Place]]:
    try:
        checked = check_rules(read_rules_file(path), str(path))
    except RulesError as error:
        return error.problems, Missing(f"{path} can't be read", f"pgveil check {path}"), {}
    if checked.rules is None:
        missing = Missing(f"{path} has errors", f"pgveil check {path}")
        return checked.problems[:_MOST_PROBLEMS], missing, {}
    return checked.problems[:_MOST_PROBLEMS], checked.rules, checked.places


def _ring(directory: Path) -> KeyRing | Missing:
    try:
        return KeyRing.open(directory, FileMasterKey.load(directory / MASTER_FILE))
    except (ProviderError, RingError) as error:
        return Missing(str(error), f"pgveil keys check {directory}; run doctor as pgveil's account")


def _own_url(config: Config) -> str | None:
    try:
        return dsn_of(config.catalog)
    except (ConfigError, OSError):
        return None


def _host(config: Config, url: str) -> tuple[str, int] | None:
    """Where a URL without a host leads: to where pgveil leads its clients."""
    try:
        named = urlsplit(url).hostname is not None or "host=" in urlsplit(url).query
    except ValueError:
        return None
    first = config.server.hosts[0]
    return None if named else (first.host, first.port)


def _addresses(config: Config, database: Database | Missing) -> tuple[Network, ...]:
    if config.doctor.addresses:
        return config.doctor.addresses
    if isinstance(database, Missing):
        return ()
    # By a Unix socket, pgveil is on the server's own machine.
    return LOOPBACK if database.our_address is None else (ipaddress.ip_network(database.our_address),)


def _agreement(
    path: Path,
    rules: Rules | Missing,
    database: Database | Missing,
    places: Mapping[TableName | ColumnName, Place],
) -> tuple[Problem, ...] | Missing:
    try:
        known_rules, state = known(rules), known(database).state
    except NotChecked as reason:
        return Missing(str(reason), reason.fix)
    found = [
        *compare(known_rules, state.catalog, str(path), places, strict=False),
        *missing_roles(known_rules, state.roles, str(path)),
    ]
    return tuple(found[:_MOST_PROBLEMS])


def _audit(directory: Path) -> tuple[ChainProblem, ...] | Missing:
    try:
        report: Report = verify_newest(directory)
    except FileNotFoundError:
        return ()  # audit-mode says so
    except OSError as error:
        return Missing(f"{directory}: {error.strerror}", "run doctor as pgveil's account")
    return tuple(ChainProblem(f"{f.file}:{f.line}", f.message) for f in report.findings[:_MOST_PROBLEMS])
