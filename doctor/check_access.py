"""pg_hba.conf: who may come from where, how they prove who they are, and how to keep them from going past pgveil."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from doctor.facts import known
from doctor.hba import ways_past
from doctor.model import Check, Found, Group, Severity, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts
    from doctor.hba import HbaLine

_FILE: Final = "in pg_hba.conf"


def _lines(facts: Facts) -> tuple[HbaLine, ...]:
    return known(facts.database.hba)


def _errors(facts: Facts) -> Iterator[Found]:
    for line in _lines(facts):
        if line.error is not None:
            yield Found(
                Severity.BAD,
                line.place,
                f"the server can't read this line: {line.error}",
                f"correct {line.place}; SELECT pg_reload_conf();",
            )


def _trust(facts: Facts) -> Iterator[Found]:
    for line in _lines(facts):
        if line.method == "trust" and line.error is None:
            where = "on the server itself" if line.only_loopback else f"from {line.address}"
            yield Found(
                Severity.WARNING if line.only_loopback and facts.addresses_apart else Severity.BAD,
                line.place,
                f"`{line.text}` logs in anybody {where} as anyone, without a password",
                f"{_FILE}: {_with(line, 'peer' if not line.remote else 'scram-sha-256')}",
            )
        elif line.method == "ident" and line.remote and line.error is None:
            yield Found(
                Severity.BAD,
                line.place,
                f"`{line.text}` believes what the client's machine says of who asks; through pgveil that is pgveil's machine",
                f"{_FILE}: {_with(line, 'scram-sha-256')}",
            )


def _with(line: HbaLine, method: str) -> str:
    return " ".join(
        (line.type, ",".join(line.databases), ",".join(line.users), *([line.address] if line.address else []), method)
    )


def _weak(facts: Facts) -> Iterator[Found]:
    for line in _lines(facts):
        if line.error is None and line.method in {"password", "md5"}:
            what = (
                "the password itself is sent, and pgveil sees it"
                if line.method == "password"
                else "passwords that are stored as md5 still log in"
            )
            yield Found(
                Severity.WARNING,
                line.place,
                f"`{line.text}`: {what}",
                f"{_FILE}: {_with(line, 'scram-sha-256')}",
            )


def _plain(facts: Facts) -> Iterator[Found]:
    for line in _lines(facts):
        if line.lets_in and line.type in {"host", "hostnossl"} and not line.only_loopback:
            kind = "also without TLS" if line.type == "host" else "only without TLS"
            yield Found(
                Severity.WARNING,
                line.place,
                f"`{line.text}` lets logins in {kind}: rows cross the network as they are, masked columns plain",
                f"{_FILE}: hostssl {' '.join(_with(line, line.method).split(' ')[1:])}",
            )


def _past(facts: Facts) -> Iterator[Found]:
    database = facts.database
    lines, catalog = _lines(facts), database.state.catalog
    met: dict[HbaLine, list[str]] = defaultdict(list)
    for login in sorted(database.state.logins):
        if login in catalog.superusers or login == facts.catalog_login:
            continue
        for line in ways_past(lines, login, catalog.memberships(login), database.name, facts.addresses):
            met[line].append(login)
    for line, logins in met.items():
        served = [n for n in logins if facts.named(n) or facts.sees_less(n)]
        if served:
            yield Found(
                Severity.WARNING,
                line.place,
                f"`{line.text}` lets {listed(served)} in from machines that are not pgveil's ({listed(facts.addresses)})",
                f"{_FILE}, above it: hostssl all all {facts.addresses[0]} scram-sha-256, and instead of it: host all all all reject",
            )


def _certificates(facts: Facts) -> Iterator[Found]:
    shows = facts.config.server.certificate
    for line in _lines(facts):
        if line.method == "cert":
            severity = Severity.BAD if shows is not None else Severity.NOTE
            told = (
                f"pgveil shows {shows} to the server for every client, so each of them is whom it names"
                if shows is not None
                else "pgveil can't show a client's certificate, so these logins only come past it"
            )
            yield Found(
                severity,
                line.place,
                f"`{line.text}`: {told}",
                f"{_FILE}: {_with(line, 'scram-sha-256')} clientcert=verify-ca",
            )


def _replication(facts: Facts) -> Iterator[Found]:
    for line in _lines(facts):
        if line.lets_in and "replication" in line.databases and not line.only_loopback:
            everybody = "all" in line.users
            yield Found(
                Severity.WARNING if everybody else Severity.NOTE,
                line.place,
                f"`{line.text}` lets copies of the whole cluster be taken from there, masked columns plain",
                f"{_FILE}: name the one login and the standby's address: hostssl replication replicator STANDBY/32 scram-sha-256",
            )


CHECKS: Final = (
    Check(
        "hba-error",
        Group.ACCESS,
        "The server can read every line of pg_hba.conf",
        "With an error the server keeps the lines that it had, and does not start the next time.",
        _errors,
    ),
    Check(
        "hba-trust",
        Group.ACCESS,
        "Nobody logs in without proving who they are",
        "Authentication is the server's own. From an address that is trusted, pgveil's above all, everybody is whoever they say, and so sees what they like.",
        _trust,
    ),
    Check(
        "hba-weak",
        Group.ACCESS,
        "Passwords are checked by scram-sha-256",
        "With `password` pgveil and the network see the password; md5 accepts hashes that can be used as they are.",
        _weak,
    ),
    Check(
        "hba-plain",
        Group.ACCESS,
        "Whoever comes over the network comes with TLS",
        "What a listener between pgveil and the server reads is masked columns plain, and the statements that write them.",
        _plain,
    ),
    Check(
        "hba-past",
        Group.ACCESS,
        "Applications' logins come from pgveil's address only",
        "Past pgveil masked columns are still denied and sealed ones are ciphertext, but nothing is recorded and no limit counts.",
        _past,
    ),
    Check(
        "hba-cert",
        Group.ACCESS,
        "No line logs anybody in by the certificate that pgveil shows",
        "pgveil shows one certificate for all its clients: by `cert` each of them would be the same login, without a password.",
        _certificates,
    ),
    Check(
        "hba-replication",
        Group.ACCESS,
        "Copies of the cluster go to named logins and machines only",
        "A base backup holds every masked column plain, and is under no rules.",
        _replication,
    ),
)
