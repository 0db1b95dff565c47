"""TLS on both legs, and what listens where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from doctor.facts import is_local
from doctor.model import Check, Found, Group, Severity
from proxy.config import SSLMODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts


def _clients(facts: Facts) -> Iterator[Found]:
    listen, tls = facts.config.listen, facts.config.tls
    place = f"{listen.address}:{listen.port}"
    if facts.wire.client_problem is not None:
        yield Found(
            Severity.BAD,
            "tls",
            facts.wire.client_problem,
            "give tls.certificate and tls.key files that belong together",
        )
    if is_local(listen.address):
        return
    if tls.certificate is None:
        yield Found(
            Severity.BAD,
            place,
            f"pgveil listens on {place} without TLS: opened values cross the network as they are",
            "tls: {certificate: server.crt, key: server.key, required: true}",
        )
    elif not tls.required:
        yield Found(
            Severity.WARNING,
            place,
            f"pgveil listens on {place} and takes clients without TLS too",
            "tls: {required: true}; and let clients say sslmode=verify-full",
        )


def _server(facts: Facts) -> Iterator[Found]:
    server = facts.config.server
    remote = [h for h in server.hosts if not is_local(h.host)]
    for host in remote:
        if server.sslmode != "verify-full":
            severity = Severity.WARNING if server.sslmode in {"require", "verify-ca"} else Severity.BAD
            what = (
                "whoever stands between can be the server"
                if severity is Severity.WARNING
                else "rows may cross the network as they are"
            )
            yield Found(
                severity,
                str(host),
                f"server.sslmode is {server.sslmode} towards {host}: {what}",
                "server: {sslmode: verify-full, root_certificate: ca.crt}",
            )
    try:
        parts = urlsplit(facts.catalog_url or "")
        host_name = parts.hostname
    except ValueError:
        return
    asked = max(parse_qs(parts.query).get("sslmode", ["disable"])[-1], server.sslmode, key=_strength)
    if host_name is not None and not is_local(host_name) and asked != "verify-full":
        yield Found(
            Severity.WARNING,
            "catalog.dsn",
            f"pgveil's own login goes to {host_name} with sslmode {asked}: whoever stands between can tell it a false catalog",
            "server: {sslmode: verify-full, root_certificate: ca.crt}",
        )


def _strength(mode: str) -> int:
    return SSLMODES.index(mode) if mode in SSLMODES else 0


def _certificates(facts: Facts) -> Iterator[Found]:
    shown = [facts.wire.server] if facts.wire.server is not None else []
    for found in (*facts.wire.certificates, *shown):
        days = (found.ends - facts.now).days
        if found.ends <= facts.now:
            yield Found(
                Severity.BAD,
                found.place,
                f"the certificate of {found.place} has expired {-days} days ago",
                _renew(found.place),
            )
        elif found.begins > facts.now:
            text = f"the certificate of {found.place} is not valid before {found.begins:%Y-%m-%d}"
            yield Found(Severity.BAD, found.place, text, _renew(found.place))
        elif days < facts.config.doctor.certificate_days:
            yield Found(
                Severity.WARNING,
                found.place,
                f"the certificate of {found.place} expires in {days} days",
                _renew(found.place),
            )
        if found.weak:
            yield Found(
                Severity.WARNING,
                found.place,
                f"the key of {found.place} is RSA with fewer than 2048 bits",
                _renew(found.place),
            )


def _renew(place: str) -> str:
    return f"put a new certificate in its place ({place.partition(' ')[0]})"


def _key_modes(facts: Facts) -> Iterator[Found]:
    for found in (facts.host.client_key, facts.host.server_key):
        if found is not None and found.there and found.mode & 0o077:
            yield Found(
                Severity.BAD,
                str(found.path),
                f"private key {found.path} has mode {found.shown_mode}: others than its owner reach it",
                f"chmod 600 {found.path}",
            )


def _metrics(facts: Facts) -> Iterator[Found]:
    page = facts.config.metrics
    if page.port is not None and not is_local(page.address):
        yield Found(
            Severity.WARNING,
            f"{page.address}:{page.port}",
            f"the metrics' page listens on {page.address}: who may reach it reads how much is asked of which tables",
            "metrics: {address: 127.0.0.1}; or let a firewall keep it to the scraper",
        )


def _socket(facts: Facts) -> Iterator[Found]:
    found = facts.host.unix_directory
    if found is not None and found.there and found.mode & 0o002:
        yield Found(
            Severity.WARNING,
            str(found.path),
            f"anybody may write to {found.path}: who removes pgveil's socket and makes another one gets its clients",
            f"mkdir -m 750 /run/pgveil, and set listen.unix_directory; or chmod o-w {found.path}",
        )


CHECKS: Final = (
    Check(
        "client-tls",
        Group.NETWORK,
        "Clients reach pgveil by TLS only, or without a network",
        "pgveil opens sealed values: between it and the client they are plain unless TLS is there.",
        _clients,
    ),
    Check(
        "server-tls",
        Group.NETWORK,
        "pgveil knows that it speaks to the right server",
        "Masked columns come from the server plain for who may see them. With sslmode below verify-full another machine can stand in for it.",
        _server,
    ),
    Check(
        "certificate",
        Group.NETWORK,
        "No certificate has expired, or is about to",
        "On that day nobody connects, and somebody switches verification off.",
        _certificates,
    ),
    Check(
        "tls-key-mode",
        Group.NETWORK,
        "Only pgveil's account reads its private keys",
        "Who has the key can be pgveil, towards clients or towards the server.",
        _key_modes,
    ),
    Check(
        "metrics-open",
        Group.NETWORK,
        "The metrics' page is on a private address",
        "It shows no value and no name of the database's, but how busy pgveil is and what it refuses; it has no login.",
        _metrics,
    ),
    Check(
        "socket-directory",
        Group.NETWORK,
        "The directory of pgveil's Unix socket can't be written by others",
        "A socket in its place gets the clients' passwords and statements.",
        _socket,
    ),
)
