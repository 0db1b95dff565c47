"""Reload: rules, keys and certificates in every worker or in none, for running connections from their next statement on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from keys.sealed import key_id_of
from proxy.control import ask
from proxy.reports import Outcome, Reported
from rules.difference import REMEDY
from tests.faults.clients import Crowd
from tests.faults.faulty import FACTORY
from tests.faults.ground import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.ground import Ground

CLEAR = "  teller:\n    logins: [teller]\n    levels: {core: clear,"
MASKED = CLEAR.replace("core: clear", "core: masked")
PAN = "select pan from cards order by id limit 1"


def reload(ground: Ground) -> Reported:
    """What the command asks, without starting a Python for it."""
    return ask(ground.home / "pgveil.sock", "reload")


def pgveil(ground: Ground, *words: str) -> tuple[int, dict[str, Any], str]:
    """A command with --json: its exit code, its answer, and its standard error output."""
    line = [sys.executable, "-m", "proxy", *words, "--config", str(ground.config), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=90)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@contextmanager
def rules(ground: Ground, old: str, new: str) -> Iterator[None]:
    """The rules file with a change in it; taken back and reloaded at the end."""
    path = ground.home / "rules.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(text)
        assert reload(ground).outcome is Outcome.APPLIED


def seen(connection: psycopg.Connection[Any], *, prepare: bool = False) -> str:
    row = connection.execute(PAN, prepare=prepare).fetchone()
    assert row is not None
    return str(row[0])


def test_new_rules_hold_for_running_connections_from_their_next_statement_on(ground: Ground) -> None:
    until(lambda: len(reload(ground).workers) == 2, "both workers serve")
    with ExitStack() as stack:
        tellers = [stack.enter_context(psycopg.connect(ground.dsn("teller"), autocommit=True)) for _ in range(6)]
        clear = seen(tellers[0])
        assert {seen(teller, prepare=True) for teller in tellers} == {clear}
        within = stack.enter_context(psycopg.connect(ground.dsn("teller")))
        within.execute("declare c cursor for select pan from cards order by id")
        assert within.execute("fetch 1 from c").fetchone() == (clear,)
        with rules(ground, CLEAR, MASKED):
            assert {seen(teller) for teller in tellers} == {clear}, "a file that was written is not in force yet"
            code, answer, _ = pgveil(ground, "reload")
            assert (code, answer["outcome"]) == (0, "applied")
            assert [w["outcome"] for w in answer["workers"]] == ["applied", "applied"]
            assert {w["pid"] for w in answer["workers"]} == set(ground.workers())
            masked = {seen(teller) for teller in tellers}
            assert len(masked) == 1
            assert "*" in masked.pop()
            # Prepared before, executed after: made again unseen, and never the old plan (ADR 0029).
            for teller in tellers:
                assert "*" in seen(teller, prepare=True)
                assert "*" in seen(teller)
            # A cursor that is open goes on as it began, as one does whose privilege was revoked.
            assert "*" not in within.execute("fetch 1 from c").fetchone()[0]  # type: ignore[index]
        assert {seen(teller, prepare=True) for teller in tellers} == {clear}, "as it was prepared"
    assert ground.metric("pgveil_reload_failed") == 0


def test_rules_that_nobody_has_applied_are_not_taken_up(ground: Ground) -> None:
    """F10.4: what is in force goes on being served."""
    fresh = "tables:\n  public.fresh:\n    columns:\n      c: {level: core, mode: deterministic, type: text}\n"
    with psycopg.connect(ground.dsn("teller"), autocommit=True) as teller, rules(ground, "tables:\n", fresh):
        before = seen(teller)
        reported = reload(ground)
        assert reported.outcome is Outcome.REFUSED
        assert "no key for public.fresh.c" in (reported.why or "")
        assert "pgveil apply --reload" in (reported.why or "")
        assert seen(teller) == before
        assert ground.ready()


def test_what_differs_from_the_record_is_not_served_and_makes_it_not_ready(ground: Ground) -> None:
    sql = "select obj_description('pgveil.applied'::regclass, 'pg_class')"
    document = ground.pg.psql(sql, ground.database).strip()
    other = document.replace('"type":"varchar(19)"', '"type":"varchar(18)"')
    assert other != document
    with ExitStack() as stack:
        teller = stack.enter_context(psycopg.connect(ground.dsn("teller"), autocommit=True))
        before = seen(teller)
        stack.callback(ground.pg.psql, f"comment on view pgveil.applied is '{document}'", ground.database)
        ground.pg.psql(f"comment on view pgveil.applied is '{other}'", ground.database)
        until(lambda: not ground.readiness()["applied"], "the record differs")
        assert ground.metric("pgveil_not_applied") >= 1
        assert ground.readiness()["catalog"]
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="varchar") as caught:
            seen(teller)
        assert caught.value.diag.message_hint == REMEDY
        assert teller.execute("select count(*) from cards").fetchone()
        assert any("public.cards.pan" in event["why"] for event in ground.events("applied.differs"))
        ground.pg.psql(f"comment on view pgveil.applied is '{document}'", ground.database)
        until(ground.ready, "as it was")
        assert seen(teller) == before
        assert ground.metric("pgveil_not_applied") == 0


@contextmanager
def keys_that_do_not_open(ground: Ground) -> Iterator[None]:
    """Another ring's master key."""
    path = ground.home / "keys" / "master.key"
    right = path.read_bytes()
    path.unlink()
    FileMasterKey.generate(path, os.urandom)
    try:
        yield
    finally:
        path.write_bytes(right)


@contextmanager
def a_second_key(ground: Ground) -> Iterator[None]:
    """A new version of a key under which columns are compared, which pgveil refuses for now; destroyed again."""
    directory = ground.home / "keys"
    ring = KeyRing.open(directory, FileMasterKey.load(directory / "master.key"))
    key = ring.create("pan", os.urandom)
    try:
        yield
    finally:
        ring.destroy(key.key_id)


MEMO = "public.memos.memo"


@contextmanager
def a_newer_key(ground: Ground) -> Iterator[tuple[int, int]]:
    """A new version of a randomized column's key, in the ring's file: the ids of the old one and the new. Rows are deleted and it is destroyed again."""
    directory = ground.home / "keys"
    ring = KeyRing.open(directory, FileMasterKey.load(directory / "master.key"))
    old = ring.newest(MEMO).key_id
    key = ring.create(MEMO, os.urandom)
    try:
        yield old, key.key_id
    finally:
        ground.pg.psql("delete from memos", ground.database)
        ring.destroy(key.key_id)
        assert reload(ground).outcome is Outcome.APPLIED


def keys_of_memos(ground: Ground) -> list[list[int]]:
    """By number, under which keys the memos are sealed in the database."""
    found: dict[int, list[int]] = {}
    for line in ground.pg.psql("select n, memo from memos order by n, ctid", ground.database).splitlines():
        number, _, sealed = line.partition("|")
        found.setdefault(int(number), []).append(key_id_of(sealed.encode()))
    return list(found.values())


def first_uses(ground: Ground) -> list[str]:
    """The versions of the memos' key whose first use is on record."""
    return [r["key_id"] for r in ground.records() if r["kind"] == "key" and r["domain"] == MEMO]


def test_new_keys_are_sealed_under_from_the_next_statement_on(ground: Ground) -> None:
    """In a connection that has sealed under the old one: what it has prepared, and a text that has been judged before."""
    with psycopg.connect(ground.dsn("app"), autocommit=True) as app, a_newer_key(ground) as (old, new):

        def write() -> None:
            app.execute("insert into memos values (1, %s)", ("prepared",), prepare=True)
            app.execute("insert into memos values (2, 'as text')")

        write()
        assert keys_of_memos(ground) == [[old], [old]], "a file that was written is not in force yet"
        assert reload(ground).outcome is Outcome.APPLIED
        write()
        assert keys_of_memos(ground) == [[old, new], [old, new]]
        rows = app.execute("select n, memo from memos order by n").fetchall()
        assert rows == [(1, "prepared")] * 2 + [(2, "as text")] * 2
        assert app.execute("select count(*) from pg_prepared_statements").fetchone() == (1,), "prepared once"
        until(lambda: f"2 (key {new})" in first_uses(ground), "the new key's first use is on record")
        assert first_uses(ground).count(f"2 (key {new})") == 1
        assert f"1 (key {old})" in first_uses(ground)


@contextmanager
def rules_cut_short(ground: Ground) -> Iterator[None]:
    """An editor that was killed."""
    path = ground.home / "rules.yaml"
    text = path.read_text()
    path.write_text(text[: len(text) // 2] + "\n  {")
    try:
        yield
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (keys_that_do_not_open, "nothing in key ring"),
        (a_second_key, "several live keys"),
        (rules_cut_short, "rules.yaml:"),
    ],
)
def test_what_cannot_be_used_changes_nothing(ground: Ground, broken: Any, says: str) -> None:
    """Good rules with bad keys, good keys with bad rules: neither is taken up, and everything goes on."""
    refused = ground.metric("pgveil_reloads_total", outcome="refused")
    with ExitStack() as stack:
        teller = stack.enter_context(psycopg.connect(ground.dsn("teller"), autocommit=True))
        app = stack.enter_context(psycopg.connect(ground.dsn("app"), autocommit=True))
        clear = seen(teller)
        with rules(ground, CLEAR, MASKED):
            with broken(ground):
                answer = reload(ground)
                assert answer.outcome is Outcome.REFUSED
                assert says in (answer.why or "")
                assert seen(teller) == clear
                assert ground.metric("pgveil_reload_failed") == 1
                # What is written now is sealed under the key that everything else is sealed under.
                app.execute("insert into ledger values (-2, %s)", (clear,))
                row = app.execute("select l.n from ledger l where l.pan = %s and n = -2", (clear,)).fetchone()
                assert row == (-2,)
                app.execute("delete from ledger where n = -2")
            assert len(ground.workers()) == 2
            assert seen(teller) == clear
        assert seen(teller) == clear
    assert ground.metric("pgveil_reload_failed") == 0
    assert ground.metric("pgveil_reloads_total", outcome="refused") == refused + 1
    assert says.split(maxsplit=1)[0] in ground.events("reload.refused")[-1]["why"]


def _connect(ground: Ground, stack: ExitStack, count: int) -> None:
    for _ in range(count):
        stack.enter_context(psycopg.connect(ground.dsn("teller")))


def test_settings_of_the_configuration(ground: Ground) -> None:
    """What a running worker takes up is in force, the rest is told by name, and a mistake is refused with its line."""
    text = ground.config.read_text()
    try:
        ground.config.write_text(text + "limits: {connections: 1}\naudit: elsewhere\n")
        taken = reload(ground)
        assert (taken.outcome, taken.needs_restart) == (Outcome.APPLIED, ("audit",))
        with ExitStack() as stack, pytest.raises(psycopg.OperationalError, match="too many clients"):
            _connect(ground, stack, 3)  # two workers
        ground.config.write_text(text + "limits: {connections: none}\n")
        code, answer, _ = pgveil(ground, "reload", "--control", str(ground.home / "pgveil.sock"))
        assert code == 1
        assert "pgveil.yaml:" in answer["why"]
        assert "limits.connections" in answer["why"]
    finally:
        ground.config.write_text(text)
        assert reload(ground).outcome is Outcome.APPLIED


def test_one_worker_that_cannot_keeps_all_from_it(ground: Ground, tmp_path: Path) -> None:
    """SIGHUP here: the log tells what came of it."""
    other = ground.beside(tmp_path / "beside")
    other.start(factory=FACTORY)
    try:
        assert other.process is not None
        other.settle()
        before = len(other.events("reload.applied"))
        with ExitStack() as stack:
            tellers = [stack.enter_context(psycopg.connect(other.dsn("teller"), autocommit=True)) for _ in range(6)]
            clear = seen(tellers[0])
            path = other.home / "rules.yaml"
            path.write_text(path.read_text().replace(CLEAR, MASKED, 1))
            (other.home / "refuse-w01").touch()
            other.process.send_signal(signal.SIGHUP)
            until(lambda: len(other.events("reload.refused")) == 1, "the reload is refused")
            assert other.events("reload.refused")[0]["why"] == "told to refuse"
            assert {seen(teller) for teller in tellers} == {clear}
            (other.home / "refuse-w01").unlink()
            other.process.send_signal(signal.SIGHUP)
            until(lambda: len(other.events("reload.applied")) >= before + 3, "each worker and the supervisor say so")
            # One reload more may have been under way, which `settle` had sent: its words count, too.
            until(lambda: all("*" in seen(teller) for teller in tellers), "every session sees what the new rules show")
    finally:
        other.stop()


def test_nobody_to_ask(ground: Ground, tmp_path: Path) -> None:
    code, _, errors = pgveil(ground, "reload", "--control", str(tmp_path / "nothing.sock"))
    assert code == 3
    assert "no pgveil answers there" in errors
    assert "Traceback" not in errors


def test_under_load_nobody_notices(ground: Ground) -> None:
    """Rules change for one login and back while others write and read: no error, no value that is not the one that was written."""
    with Crowd(ground, 4) as crowd:
        until(lambda: crowd.commits > 20, "the clients work")
        for _ in range(2):
            with rules(ground, CLEAR, MASKED):
                assert reload(ground).outcome is Outcome.APPLIED
                wanted = crowd.commits + 20
                until(lambda: crowd.commits > wanted, "they go on")  # noqa: B023
    assert not crowd.stuck()
    for client in crowd.clients:
        assert (client.errors, client.wrong, client.refused_connections) == ({}, [], 0)
