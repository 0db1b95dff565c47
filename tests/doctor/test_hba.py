"""Ways past pgveil by pg_hba.conf: the first line that matches decides (PostgreSQL documentation, chapter 21.1)."""

from __future__ import annotations

import ipaddress

import pytest

from doctor.hba import HbaLine, networks_of, ways_past

PGVEIL = (ipaddress.ip_network("10.0.0.5"),)


def lines(text: str) -> list[HbaLine]:
    """Lines as the server's view would show them."""
    made = []
    for number, line in enumerate(text.strip().splitlines(), 1):
        kind, databases, users, *rest = line.split()
        address = rest.pop(0) if kind.startswith("host") else None
        networks = networks_of(address, None) if kind.startswith("host") else ()
        made.append(
            HbaLine(
                f"pg_hba.conf:{number}",
                kind,
                tuple(databases.split(",")),
                tuple(users.split(",")),
                address,
                networks,
                rest[0],
            )
        )
    return made


def past(text: str, login: str = "teller", memberships: tuple[str, ...] = ("counter",)) -> list[int]:
    """The numbers of the lines that let a login past."""
    found = ways_past(lines(text), login, frozenset(memberships), "crm", PGVEIL)
    return [int(line.place.rpartition(":")[2]) for line in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host all all 10.0.0.5/32 scram-sha-256", []),
        ("host all all 127.0.0.1/32 scram-sha-256\nlocal all all peer\nhost all all ::1/128 trust", []),
        ("host all all 10.0.0.0/24 scram-sha-256", [1]),
        ("host all all all reject\nhost all all all scram-sha-256", []),
        ("host all all 10.0.0.5/32 scram-sha-256\nhost all all all reject", []),
        ("host all all 10.0.0.5/32 scram-sha-256\nhost all all 0.0.0.0/0 scram-sha-256", [2]),
        # What stands below a line that takes all of its addresses is never reached.
        ("host all all 10.0.0.0/8 reject\nhost all all 10.1.0.0/16 scram-sha-256", []),
        ("host all all 10.1.0.0/16 reject\nhost all all 10.0.0.0/8 scram-sha-256", [2]),
        ("host all all 10.0.0.0/9 reject\nhost all all 10.128.0.0/9 reject\nhost all all 10.0.0.0/8 md5", []),
        # A line for TLS only leaves connections without it to those below.
        ("hostssl all all all reject\nhost all all all scram-sha-256", [2]),
        # Other people's and other databases' lines decide nothing.
        ("host all agent all reject\nhost all teller all scram-sha-256", [2]),
        ("host shop all all scram-sha-256", []),
        ("host replication all all scram-sha-256", []),
        ("host crm +counter all scram-sha-256", [1]),
        ("host crm +vault all scram-sha-256", []),
        ("host all /^tell.*$ all scram-sha-256", [1]),
        ("host all /( all scram-sha-256", [1]),
        ("host sameuser all all scram-sha-256", []),
        ("host all all db.example.org scram-sha-256", [1]),
        ("host all all samenet scram-sha-256", [1]),
        ("host all all ::/0 scram-sha-256", [1]),
    ],
)
def test_ways_past(text: str, expected: list[int]) -> None:
    assert past(text) == expected


def test_netmasks() -> None:
    assert networks_of("10.1.0.0", "255.255.0.0") == (ipaddress.ip_network("10.1.0.0/16"),)
    assert networks_of("fe80::", "ffff::") == (ipaddress.ip_network("fe80::/16"),)
    assert networks_of("samehost", None) is None


def test_a_line_with_an_error_lets_nobody_in() -> None:
    (line,) = lines("host all all all scram-sha-256")
    broken = HbaLine(
        line.place, line.type, line.databases, line.users, line.address, line.networks, "", error="no such method"
    )
    assert list(ways_past([broken], "teller", frozenset(), "crm", PGVEIL)) == []
