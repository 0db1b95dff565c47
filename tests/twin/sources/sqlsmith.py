"""sqlsmith (Debian's package) as an author of hostile statements: what it sends through a masked login may bring no protected value back.

It reads the catalog through pgveil and makes statements of whatever it finds there: tables, masking views, functions, operators, pgveil's own
objects. Nothing is compared: most of its statements mean nothing, and many ask clocks and catalogs. Every byte that comes back is searched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from tests.twin.answers import Mode
from tests.twin.compare import Outcome, Verdict
from tests.twin.fixture import shop
from tests.twin.tally import Tally
from tests.twin.world import MASKED, twin_world

if TYPE_CHECKING:
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres
    from tests.twin.world import World

PROGRAM: Final = shutil.which("sqlsmith")
STATEMENTS: Final = 4000
SEEDS: Final = (4, 5)
SECONDS: Final = 900  # for one run of the program; it then counts as far as it came
# What it is given to be hostile with: all of the catalog in one run, the shop's tables alone in the other.
RUNS: Final = ((), ("--exclude-catalog",))
_QUERY_END: Final = re.compile(rb";\n")


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one run. `received`: bytes of pgveil's answers; `failed`: errors that are the server's own."""

    statements: int
    refused: Counter[str]
    received: bytes
    ended: str


def run(pg: Postgres, home: Path) -> Tally:
    """See tests/twin/run.py."""
    tally = Tally()
    if PROGRAM is None:
        tally.notes.append("left out: sqlsmith is not installed (apt-get install sqlsmith)")
        return tally
    with twin_world(pg, home, shop()) as world:
        for seed, options in zip(SEEDS, RUNS, strict=True):
            count(tally, world, smith(world, STATEMENTS, seed, options), " ".join(options) or "with the catalog")
    return tally


def smith(world: World, statements: int, seed: int, options: tuple[str, ...] = (), role: str = MASKED) -> Sent:
    """One run of sqlsmith as the role's login."""
    assert PROGRAM is not None
    login = world.fixture.logins[role]
    mark, before = world.refusals.mark(login), len(world.tap.sent.get(login, b""))
    target = f"host=127.0.0.1 port={world.tap.port} user={login} dbname={world.databases['sealed']}"
    dumped = world.home / f"sqlsmith-{seed}.sql"
    command = [PROGRAM, f"--target={target}", f"--seed={seed}", f"--max-queries={statements}", "--dump-all-queries"]
    with dumped.open("wb") as out:
        try:
            done = subprocess.run(
                [*command, *options], stdout=out, stderr=subprocess.PIPE, timeout=SECONDS, check=False
            )
            last = done.stderr.decode(errors="replace").strip().splitlines()
            ended = f"exit code {done.returncode}: {last[-1] if last else ''}" if done.returncode else "whole"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {SECONDS} s"
    refused = Counter(world.refusals.all_since(login, mark))
    received = bytes(world.tap.sent[login][before:])
    return Sent(len(_QUERY_END.findall(dumped.read_bytes())), refused, received, ended)


def count(tally: Tally, world: World, sent: Sent, label: str, role: str = MASKED) -> None:
    """Add a run to the tally."""
    tally.run[role] += sent.statements
    tally.refused.setdefault(role, Counter()).update(sent.refused)
    seen = world.canaries[role].seen(sent.received, b"")
    if seen:
        tally.canaries.append(
            (label, Outcome(role=role, sql="sqlsmith's", mode=Mode.SIMPLE, verdict=Verdict.SAME, canaries=seen))
        )
    tally.notes.append(
        f"{label}: {sent.statements} statements, {sent.refused.total()} refused by pgveil, the others answered by the server;"
        f" {len(sent.received):,} bytes searched; {sent.ended}"
    )
    if sent.ended != "whole":
        tally.unexpected.append(f"{label}: {sent.ended}")
    with psycopg.connect(world.dsn(role), autocommit=True) as alive:
        alive.execute("select 1")
