"""The demonstration as a person runs it: from an empty directory, kept and stopped, interrupted, and its own checks caught failing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lifecycle.demo import commands, story
from lifecycle.demo.bank import generate, rules_yaml
from lifecycle.demo.disk import look
from lifecycle.demo.leaks import Secrets
from lifecycle.demo.load import load
from lifecycle.demo.people import ANALYST, TELLER, Answer, Refused
from lifecycle.demo.telling import ClaimError, Teller
from proxy.cli import make_app
from rules.load import load_rules_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.demo.postgres import Postgres
    from lifecycle.demo.stage import Stage

CUSTOMERS = "60"
SECONDS = 100
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory to be in; `../temporary` is where temporary files go.

    Not pytest's own: as root the server runs under another account, and each pytest that starts shuts its directories to others.
    """
    with tempfile.TemporaryDirectory(prefix="pgveil-test-") as root:
        (Path(root) / "temporary").mkdir()
        here = Path(root) / "here"
        here.mkdir()
        yield here


def start(place: Path, *options: str) -> subprocess.Popen[str]:
    """`pgveil demo` in a process of its own, output and error output in one pipe."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTEST"))}
    return subprocess.Popen(
        [sys.executable, "-m", "proxy", "demo", "--customers", CUSTOMERS, "--no-color", *options],
        cwd=place,
        # A way to the network that leads nowhere: nothing may need it.
        env={
            **kept,
            "TMPDIR": str(place.parent / "temporary"),
            "http_proxy": "http://127.0.0.1:9",
            "PGHOST": "nowhere.invalid",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it prints, up to a line with `words`."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def processes_in(place: Path) -> list[str]:
    """Command lines of processes that name a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def assert_nothing_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    assert list((place.parent / "temporary").iterdir()) == []
    assert processes_in(place.parent) == []


def test_the_story(place: Path) -> None:
    process = start(place)
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    chapters = re.findall(r"^(\d+)\. ", told, re.MULTILINE)
    assert chapters == [str(n) for n in range(1, 13)]
    one_line = " ".join(told.split())
    for sentence in (
        "✓ The card number is in the table's file, as plain text.",
        "✓ The plan alone changed nothing",
        "✓ Asked again, it finds nothing left to do.",
        "✓ The number is in none of the",
        "✓ The agent greets the caller by name, and sees masks of the rest.",
        "✓ Even the right guess at a masked value never hits",
        "HINT: Name the columns that you need without it",
        "✓ A plain number cannot be stored there",
        "✓ Every record is chained to the one before it, and the chain is whole.",
        "✓ The verification fails, and names the place.",
        "refusals counted are the",
        "claims, all checked, in",
    ):
        assert sentence in one_line, sentence
    assert re.search(r"\$ pgveil audit verify audit-copy\n.*?exit code 1\n", told, re.DOTALL)
    assert "\x1b[" not in told
    assert max(map(len, told.splitlines())) <= 96
    assert_nothing_left(place)


def test_a_terminal_that_knows_ascii_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start(place)
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    assert "claims, all checked" in told


def test_kept_it_is_reached_and_stopped(place: Path) -> None:
    process = start(place, "--keep")
    told = read_until(process, "Ctrl-C stops everything")
    strings = dict(
        re.findall(r"^ +(application|teller|analyst|call-centre agent) +(postgresql://\S+)", told, re.MULTILINE)
    )
    with psycopg.connect(strings["teller"]) as teller, psycopg.connect(strings["call-centre agent"]) as agent:
        clear = teller.execute("select phone from customers where id = 1").fetchone()
        masked = agent.execute("select phone from customers where id = 1").fetchone()
    assert clear is not None
    assert masked is not None
    assert "*" in masked[0]
    assert "*" not in clear[0]
    second = start(place, "--keep")
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 3
    assert "runs in .demo already" in said
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert_nothing_left(place)


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "1. A bank"), (signal.SIGTERM, "5. pgveil in front")])
def test_interrupted_it_leaves_nothing(place: Path, number: signal.Signals, words: str) -> None:
    process = start(place)
    read_until(process, words)
    process.send_signal(number)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert_nothing_left(place)


def test_what_a_killed_one_left_is_cleared_and_what_is_not_ours_stays(place: Path) -> None:
    foreign = place / ".demo"
    foreign.mkdir()
    (foreign / "precious").write_text("x")
    process = start(place, "--keep")
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 3
    assert "is no demonstration's" in said
    assert (foreign / "precious").exists()
    (foreign / "pgveil-demonstration").write_text("")
    process = start(place, "--keep")
    read_until(process, "1. A bank")
    assert not (foreign / "precious").exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert_nothing_left(place)


def test_a_claim_that_does_not_hold_ends_it_with_1(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(stage: Stage, teller: Teller, customers: int) -> None:
        teller.claim(True, "This holds.")
        assert stage.home.exists()
        assert customers == 50
        teller.claim(False, "This does not.")

    monkeypatch.setattr(story, "tell", tell)
    monkeypatch.chdir(place)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        done = CliRunner().invoke(make_app(), ["demo", "--customers", "50"])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert done.exit_code == 1
    assert "this did not come out so: This does not." in done.output
    assert "✓ This holds." in done.output
    assert "✓ This does not." not in done.output


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    done = CliRunner().invoke(make_app(), ["demo"])
    assert done.exit_code == 2
    assert "pip install 'pgveil[demo]'" in done.output


def test_the_search_for_leaks_finds_them() -> None:
    bank = generate(customers=60)
    rules = load_rules_text(rules_yaml(), "rules.yaml")
    secrets = Secrets(rules, bank)
    phone, pan = bank.tables["customers"].column("phone")[5], bank.tables["cards"].column("pan")[5]
    analyst, teller = rules.principal("analyst", ()).policy, rules.principal("teller", ()).policy
    answer = Answer(("phone",), ({"phone": f"<{phone}>"},))
    assert [str(c) for c in secrets.leaked(analyst, answer.text)] == ["public.customers.phone"]
    assert secrets.leaked(teller, answer.text) == ()
    refusal = Answer(refusal=Refused("23505", "no", f"Key (pan)=({pan}) already exists."))
    assert {c.column for c in secrets.leaked(analyst, refusal.text)} == {"pan"}
    assert secrets.leaked(analyst, "186****8059") == ()
    assert secrets.count > 500


async def test_the_look_at_the_disk_finds_what_is_there(pg: Postgres) -> None:
    database = pg.create_database()
    bank = generate(customers=60)
    connection = await asyncpg.connect(pg.dsn(database))
    try:
        await load(connection, bank)
        found = await look(connection, pg.data, "public.cards", bank.tables["cards"].column("pan")[7])
        none = await look(connection, pg.data, "public.cards", "0" * 19)
    finally:
        await connection.close()
    assert found.in_table == 1
    assert found.found == 2, "in the table and in the index"
    assert none.found == 0
    assert found.path.startswith("base/")


def test_rows_stand_on_their_side_next_to_each_other() -> None:
    console = Console(width=80, record=True, file=StringIO())
    teller = Teller(console)
    clear = Answer(("a", "b"), ({"a": "1", "b": "王小明"}, {"a": "2", "b": "x"}))
    teller.seen("SELECT a, b FROM t", {TELLER: clear, ANALYST: Answer(refusal=Refused("42501", "not you"))})
    text = console.export_text()
    assert re.search(r"a +1 +refused", text)
    assert re.search(r"b +王小明 +refused", text)
    assert "refused: not you" in text


def test_claims_are_counted() -> None:
    teller = Teller(Console(file=StringIO()))
    teller.claim(True, "a")
    teller.check(True, "b")
    with pytest.raises(ClaimError, match="c"):
        teller.check(False, "c")
    assert teller.claims == 2
