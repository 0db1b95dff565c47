"""The audit log of a running pgveil: what is in it, that it verifies, and that rows wait for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.world import World


def _verify(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", "audit", "verify", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_statement_leaves_its_records(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), application_name="trail test", autocommit=True) as teller:
        rows = teller.execute(
            "select name, pan from customers c join cards k on k.customer_id = c.id limit 3"
        ).fetchall()
    started = world.record(kind="statement", application="trail test")
    assert started["login"] == "teller"
    assert started["roles"] == ["teller"]
    assert {"public.customers.name", "public.cards.pan"} <= {c["column"] for c in started["columns"]}
    assert "limit 0" in started["statement"], "literals are left out"
    ended = world.record(kind="outcome", connection=started["connection"], statement_id=started["statement_id"])
    assert ended["rows"] == len(rows) == 3
    assert ended["outcome"] == "ok"


def test_refusals_logins_and_rules_are_recorded(world: World) -> None:
    with (
        psycopg.connect(world.dsn("analyst"), autocommit=True) as analyst,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        analyst.execute("select pan from cards")
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("select pan from cards limit 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(world.dsn("nobody_here"))
    world.record(kind="login_failed", login="nobody_here")
    for kind in ("statement", "login", "logout", "rules", "key", "catalog"):
        world.record(kind=kind)
    refusal = world.record(kind="refusal", login="analyst", column="public.cards.pan")
    assert refusal["sqlstate"] == "42501"


def test_it_verifies_and_one_changed_byte_is_found(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "audit"
    shutil.copytree(world.audit, copy)
    good = _verify(copy)
    assert good.returncode == 0, good.stdout + good.stderr
    victim = max(copy.rglob("*.jsonl"), key=lambda p: p.stat().st_size)
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(raw)
    assert _verify(copy).returncode == 1


def test_metrics(world: World) -> None:
    with psycopg.connect(world.dsn("teller"), autocommit=True) as teller:
        teller.execute("select pan from cards limit 5").fetchall()
    assert world.metric("pgveil_opened_values_total") >= 5
    assert world.metric("pgveil_statement_added_seconds_count") > 0
    assert world.metric("pgveil_audit_healthy") == 1
