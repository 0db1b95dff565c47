"""`pgveil doctor` before whole systems: a good one is well, a bad one is not, and every check was seen both ways."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from doctor.examine import CHECKS, CODES, examine
from doctor.facts import Missing
from doctor.gather import gather
from doctor.host import Disk, PathFacts, Process, swapped_to, workers_of
from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.demo.postgres import PostgresUnavailableError
from proxy.config import load_config
from rules.load import load_rules_text
from tests.doctor import page, systems
from tests.doctor.systems import DATABASE, PASSWORD, bad_system, good_system
from tests.e2e.world import records_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from doctor.facts import Facts
    from tests.doctor.systems import System

# Checks that no system fails at the same time as all the others: the test here that sees each fail.
ELSEWHERE = {
    "clock": "test_a_clock_that_differs",
    "disk-space": "test_a_full_disk",
    "domain-mixed": "test_a_key_domain_that_is_not_seen_alike",
    "key-missing": "test_keys_that_are_not_those",
    "key-ring": "test_keys_that_are_not_those",
    "live-rules": "test_a_reload_that_was_forgotten",
    "live-version": "test_another_version_runs",
    "memory-on-disk": "test_memory_that_reaches_a_disk",
    "open-files": "test_too_few_files",
    "sealed-repeated": "test_a_sealed_value_copied_to_another_row",
    "server-encoding": "test_another_encoding",
    "server-version": "test_versions",
    "wal-level": "test_logical_replication_that_nothing_uses",
}


@pytest.fixture(scope="module")
def good() -> Iterator[System]:
    yield from standing(good_system)


@pytest.fixture(scope="module")
def bad() -> Iterator[System]:
    yield from standing(bad_system)


def standing(system: Callable[[Path], AbstractContextManager[System]]) -> Iterator[System]:
    """A system in a directory of its own: pytest's are closed to the server's account whenever another run of it begins."""
    with tempfile.TemporaryDirectory(prefix="pgveil-doctor-") as home:
        Path(home).chmod(0o711)
        try:
            with system(Path(home)) as made:
                yield made
        except PostgresUnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def well_document(good: System) -> dict[str, Any]:
    """What is said of the good system, by a superuser."""
    return good.document("--database", good.url("postgres"))


@pytest.fixture(scope="module")
def well(well_document: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings in the good system."""
    found: list[dict[str, Any]] = well_document["findings"]
    return found


@pytest.fixture(scope="module")
def unwell_document(bad: System) -> dict[str, Any]:
    """What is said of the bad system."""
    return bad.document("--database", bad.url("postgres"))


@pytest.fixture(scope="module")
def unwell(unwell_document: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings in the bad system."""
    found: list[dict[str, Any]] = unwell_document["findings"]
    return found


@pytest.fixture(scope="module")
def facts(good: System) -> Facts:
    """The good system, read."""
    return read(good)


def read(
    system: System, *, clock_ahead: float = 0, url: str | None = None, deep: bool = False, **changes: Any
) -> Facts:
    """A system as doctor reads it, with parts of its configuration changed."""
    config = replace(load_config(system.config), **changes)
    return asyncio.run(
        gather(config, url or system.url("postgres"), lambda: time.time() + clock_ahead, "0.1.0", deep=deep)
    )


def found(facts: Facts, code: str) -> list[tuple[str, str]]:
    """Severity and text of what one check finds."""
    return [(f.severity.value, f.text) for f in examine(facts, database="", only=[code]).findings if f.code == code]


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_good_system_passes(well: list[dict[str, Any]], code: str) -> None:
    findings = [f for f in well if f["code"] == code]
    assert findings
    for finding in findings:
        assert finding["checked"], finding["found"]
        assert finding["severity"] == "ok" or finding["accepted"] is not None, finding["found"]


def test_a_good_system_is_well(good: System) -> None:
    done = good.doctor("--database", good.url("postgres"))
    assert done.returncode == 0, done.stdout
    assert (
        f"0 bad, 0 warnings, 0 notes, {sum('accepted ' in x for x in done.stdout.splitlines())} accepted" in done.stdout
    )


@pytest.mark.parametrize("code", sorted(CODES - ELSEWHERE.keys()))
def test_a_bad_system_fails(unwell: list[dict[str, Any]], code: str) -> None:
    findings = [f for f in unwell if f["code"] == code and f["severity"] != "ok" and f["checked"]]
    assert findings
    for finding in findings:
        assert all(finding[name] for name in ("fix", "why", "found"))


def test_a_bad_system_is_not_well(bad: System) -> None:
    done = bad.doctor("--database", bad.url("postgres"))
    assert done.returncode == 1
    assert "login-owner: login analyst is to see masks of what it owns: public.accounts" in done.stdout


def test_each_check_was_seen_failing() -> None:
    here = {n.name for n in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(n, ast.FunctionDef)}
    assert set(ELSEWHERE) <= CODES
    assert set(ELSEWHERE.values()) <= here
    assert len(CODES) == len(CHECKS)


def test_what_is_said_holds_no_value(good: System, bad: System, well: Any, unwell: Any) -> None:
    for system, findings in ((good, well), (bad, unwell)):
        said = json.dumps(findings, ensure_ascii=False)
        assert PASSWORD not in said
        shown = system.doctor("--why", "--database", system.url("postgres")).stdout
        assert PASSWORD not in shown
        values = system.pg_values()
        assert len(values) > 80
        assert [v for v in values if v in said or v in shown] == []


def test_the_page_shows_these_systems(
    good: System, bad: System, well_document: dict[str, Any], unwell_document: dict[str, Any]
) -> None:
    """docs/doctor.md; written anew by `python -m tests.doctor.page`."""
    expected = page.page(page.sample(good, well_document), page.sample(bad, unwell_document))
    assert Path(page.PAGE).read_text() == expected


def test_the_page_s_document_has_the_form(well_document: dict[str, Any]) -> None:
    shown = json.loads(page.HEAD.split("```json\n")[1].split("```")[0])
    assert shown.keys() == well_document.keys()
    assert shown["findings"][0].keys() == well_document["findings"][0].keys()
    assert shown["counts"].keys() == well_document["counts"].keys()
    assert shown["form"] == well_document["form"]


def test_the_bad_system_s_details(unwell: list[dict[str, Any]]) -> None:
    """What a finding names is what was done."""
    by_code: dict[str, list[str]] = {}
    for finding in unwell:
        by_code.setdefault(finding["code"], []).append(finding["found"])

    def says(code: str, *words: str) -> bool:
        return any(all(w in text for w in words) for text in by_code[code])

    assert says("login-superuser", "dba", "is a superuser")
    assert says("login-reads-all", "agent", "pg_read_all_data")
    assert says("login-watches", "agent", "pg_monitor")
    for word in ("REPLICATION", "CREATEROLE", "BYPASSRLS"):
        assert says("login-attributes", "agent", word)
    assert says("column-open", "trainee", "phone of public.customers")
    assert says("column-writable", "trainee", "change phone of public.customers")
    assert not says("column-open", "agent")  # it reads everything: said once
    assert says("object-open", "trainee", "view public.phone_book")
    assert says("object-open", "trainee", "function public.phone_of")
    assert says("derived-column", "public.customers.earns")
    assert says("derived-statistics", "public.by_phone", "public.customers.phone", "agent")
    assert says("filled-column", "public.phones_before.phone_was", "trainee", "public.customers.phone")
    assert says("publication", "everything", "phone", "public.customers")
    assert says("publication", "slot tap")
    assert not says("publication", "pan")  # sealed: what is sent is ciphertext
    assert says("sealed-opens", "public.customers.id_number", "29 open")
    assert says("rules-agree", "public.customers.passport_number")
    assert says("rules-agree", "no login ghost")
    assert says("apply-obstacle", "row-level security")
    assert says("hba-past", "10.0.0.0/8", "teller")
    assert says("hba-cert", "192.0.2.0/24 cert")
    assert says("acceptance", "ran out on 2026-01-31")


def test_by_pgveil_s_own_login_what_it_can_t_see_is_said(good: System) -> None:
    done = good.doctor("--json")
    assert done.returncode == 1
    unseen = {f["code"] for f in json.loads(done.stdout)["findings"] if not f["checked"]}
    assert unseen == {
        *("apply-pending", "apply-obstacle", "derived-column", "password-md5", "sealed-opens", "sealed-repeated"),
        "server-tls-offered",  # ssl_min_protocol_version is for superusers to see
        *("hba-error", "hba-trust", "hba-weak", "hba-plain", "hba-past", "hba-cert", "hba-replication"),
    }


def test_only_and_skip(bad: System) -> None:
    some = bad.findings("--database", bad.url("postgres"), "--only", "mode-observe", "--only", "workers")
    assert {f["code"] for f in some} == {"mode-observe", "workers"}
    rest = bad.findings("--database", bad.url("postgres"), "--skip", "mode-observe")
    assert {f["code"] for f in rest} == CODES - {"mode-observe"}
    done = bad.doctor("--only", "no-such-check")
    assert done.returncode == 2
    assert "no-such-check" in done.stderr


def test_a_server_that_is_not_there(good: System) -> None:
    done = good.doctor("--json", "--database", "postgresql://postgres@localhost:1/bank")
    assert done.returncode == 3
    findings = json.loads(done.stdout)["findings"]
    assert {f["code"] for f in findings if not f["checked"]} > {"column-open", "hba-trust", "sealed-opens"}
    assert {f["severity"] for f in findings if f["code"] in {"key-ring", "live-ready", "config-mode"}} == {"ok"}


def test_rules_with_errors(good: System) -> None:
    rules = good.rules.read_text()
    try:
        good.rules.write_text(rules.replace("mask: phone", "mask: telephone"))
        findings = good.findings("--database", good.url("postgres"))
    finally:
        good.rules.write_text(rules)
    load = [f for f in findings if f["code"] == "rules-load"]
    assert "bad" in {f["severity"] for f in load}
    assert any("telephone" in f["found"] for f in load)
    assert {f["checked"] for f in findings if f["code"] == "column-open"} == {False}
    assert {f["severity"] for f in findings if f["code"] == "hba-trust"} == {"ok"}


def test_views_changed_by_hand(good: System, facts: Facts) -> None:
    schema = facts.people.principals["analyst"].policy.schema
    url = good.url("postgres")
    view = f'"{schema}".customers'
    try:
        good.sql(f"ALTER VIEW {view} SET (security_barrier = true); COMMENT ON VIEW {view} IS 'mine'")
        assert any(
            "masking views are absent or changed" in text for _, text in found(read(good, url=url), "apply-pending")
        )
    finally:
        good.apply()
    assert found(read(good), "apply-pending")[0][0] == "ok"


def test_a_reload_that_was_forgotten(good: System, facts: Facts) -> None:
    assert found(facts, "live-rules")[0][0] == "ok"
    assert len(facts.live.rules) == 1
    rules = good.rules.read_text()
    try:
        good.rules.write_text(rules.replace("n: 3}", "n: 2}"))
        ((severity, text),) = found(read(good), "live-rules")
    finally:
        good.rules.write_text(rules)
    assert severity == "bad"
    assert facts.rules.version[:12] in text


def test_a_reload_that_was_refused(good: System) -> None:
    rules = good.rules.read_text()

    def reload() -> int:
        return subprocess.run(
            [sys.executable, "-m", "proxy", "reload", "--config", good.config],
            env={**os.environ, "PYTHONPATH": str(systems.REPOSITORY)},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    try:
        good.rules.write_text(rules.replace("level: important", "level: imported"))
        assert reload() == 1
        good.rules.write_text(rules)
        assert [
            text for severity, text in found(read(good), "live-rules") if "was refused" in text and severity == "bad"
        ]
    finally:
        good.rules.write_text(rules)
        assert reload() == 0
    assert [s for s, _ in found(read(good), "live-rules")] == ["ok"]


def test_another_version_runs(facts: Facts) -> None:
    assert found(facts, "live-version")[0][0] == "ok"
    ((severity, _),) = found(replace(facts, own_version="9.9"), "live-version")
    assert severity == "warning"


def test_a_clock_that_differs(good: System) -> None:
    ((severity, text),) = found(read(good, clock_ahead=60), "clock")
    assert severity == "warning"
    assert "seconds behind this machine's" in text


def test_a_full_disk(facts: Facts) -> None:
    for free, wanted in ((1 << 20, "bad"), (1 << 29, "warning"), (1 << 40, "ok")):
        disks = {"/audit": Disk(free, 1 << 41, 1 << 20, 1 << 21)}
        assert [s for s, _ in found(replace(facts, host=replace(facts.host, disks=disks)), "disk-space")] == [wanted]
    disks = {"/audit": Disk(1 << 40, 1 << 41, 10, 1 << 21)}
    assert found(replace(facts, host=replace(facts.host, disks=disks)), "disk-space")[0][0] == "warning"


def test_keys_that_are_not_those(good: System, tmp_path: Path) -> None:
    other = tmp_path / "keys"
    other.mkdir(mode=0o700)
    KeyRing.initialise(other, FileMasterKey.generate(other / "master.key", os.urandom))
    empty = read(good, keys=other)
    assert {text.split(" has no live key")[0] for _, text in found(empty, "key-missing")} == {
        *("public.cards.pan", "public.customers.fingerprint", "public.customers.id_number", "public.orders.pan"),
    }
    assert any("0 open" in text for _, text in found(empty, "sealed-opens"))
    assert [s for s, _ in found(empty, "key-ring")] == ["ok"]
    shutil.copy(good.home / "keys" / "ring.json", other / "ring.json")
    mixed = read(good, keys=other)
    assert [s for s, _ in found(mixed, "key-ring")] == ["bad"]
    assert not examine(mixed, database="", only=["key-missing"]).findings[0].checked


def test_files_of_another_account(facts: Facts) -> None:
    """Root, or anybody, who looks for pgveil is not told to take its keys."""
    keys = replace(facts.host, uid=facts.host.master.uid + 1)
    other = replace(facts, host=keys, ring_or=Missing("belongs to user id 7; run: chown 8", "chown"))
    shut = PathFacts(Path("keys"), there=False, problem="Permission denied", hidden=True)
    closed = replace(facts, host=replace(facts.host, keys=shut, master=shut, audit=shut))
    for seen, code in ((other, "key-ring"), (closed, "key-ring"), (closed, "key-modes"), (closed, "audit-mode")):
        (finding,) = examine(seen, database="", only=[code]).findings
        assert not finding.checked
        assert "pgveil's account" in finding.fix
        assert "chown" not in finding.text


def test_memory_that_reaches_a_disk(facts: Facts, tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/sda9 partition 1 0 -2\n/dev/zram0 partition 1 0 5\n")
    assert swapped_to(swaps) == ("/dev/sda9",)
    host = replace(facts.host, swap=("/dev/sda9",))
    assert [s for s, _ in found(replace(facts, host=host), "memory-on-disk")] == ["warning"]
    host = replace(facts.host, swap=(), workers=(Process(7, 1000, 1024, None),))
    assert [s for s, _ in found(replace(facts, host=host), "memory-on-disk")] == ["bad"]


def test_the_workers_that_run_are_seen(good: System, facts: Facts) -> None:
    assert good.process is not None
    assert len(facts.host.workers) == 2
    assert all(w.core == 0 and w.pid != good.process.pid for w in facts.host.workers)
    assert list(workers_of(good.home / "another.yaml")) == []


def test_too_few_files(facts: Facts) -> None:
    for files, wanted in ((256, "warning"), (1024, "ok"), (None, "ok")):
        host = replace(facts.host, workers=(Process(7, 1000, files, 0),))
        assert [s for s, _ in found(replace(facts, host=host), "open-files")] == [wanted]


def test_root(facts: Facts) -> None:
    host = replace(facts.host, workers=(Process(7, 0, 1024, 0),))
    assert [s for s, _ in found(replace(facts, host=host), "account")] == ["warning"]
    host = replace(facts.host, workers=(Process(7, 1000, 1024, 0),))
    assert [s for s, _ in found(replace(facts, host=host), "account")] == ["ok"]


def test_another_encoding(good: System) -> None:
    good.sql("CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "postgres")
    url = good.url("postgres").replace(f"/{DATABASE}", "/old")
    ((severity, text),) = found(read(good, url=url), "server-encoding")
    assert severity == "bad"
    assert "LATIN1" in text


def test_a_key_domain_that_is_not_seen_alike(good: System, facts: Facts) -> None:
    assert found(facts, "domain-mixed")[0][0] == "ok"
    own = "columns: {public.customers.fingerprint: refused}\n  call_centre"
    assert own in good.rules.read_text()
    for more, wanted in (("", "bad"), ("\n    mixed_domains: [pan]", "warning")):
        seen = f"columns: {{public.customers.fingerprint: refused, public.orders.pan: masked}}{more}\n  call_centre"
        rules = load_rules_text(good.rules.read_text().replace(own, seen), "rules.yaml")
        ((severity, text),) = found(replace(facts, rules_or=rules), "domain-mixed")
        assert severity == wanted
        assert "login teller may write it" in text
        assert text.startswith("public.cards.pan")


def test_a_sealed_value_copied_to_another_row(good: System, facts: Facts) -> None:
    """Past pgveil, by whoever may write the column there. What has the column's default in common is no copy."""
    assert found(facts, "sealed-repeated")[0][0] == "ok"
    first, second = "(SELECT min(id) FROM customers)", "(SELECT max(id) FROM customers)"
    url = good.url("postgres")
    copy = (
        f"UPDATE customers SET fingerprint = (SELECT fingerprint FROM customers WHERE id = {first}) WHERE id = {second}"
    )
    good.sql(f"CREATE TABLE kept AS SELECT fingerprint FROM customers WHERE id = {second}")
    try:
        good.sql(copy)
        ((severity, text),) = found(read(good, url=url), "sealed-repeated")
        assert severity == "warning"
        assert text.startswith("1 sealed text of public.customers.fingerprint stands in more than one row")
        good.sql("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'customers'::regclass")
        assert found(read(good, url=url), "sealed-repeated")[0][0] == "ok"
        assert found(read(good, url=url, deep=True), "sealed-repeated")[0][0] == "warning"
    finally:
        good.sql(
            f"UPDATE customers SET fingerprint = (SELECT fingerprint FROM kept) WHERE id = {second}; DROP TABLE kept; ANALYZE customers"
        )
    assert found(read(good, url=url), "sealed-repeated")[0][0] == "ok"


def test_versions(facts: Facts) -> None:
    for version, wanted in ((140_010, "bad"), (150_013, "ok"), (160_009, "ok"), (170_005, "note"), (180_001, "ok")):
        other = replace(facts, database_or=replace(facts.database, version=version))
        assert [s for s, _ in found(other, "server-version")] == [wanted]


def test_logical_replication_that_nothing_uses(facts: Facts) -> None:
    settings = {**facts.database.settings, "wal_level": "logical"}
    other = replace(facts, database_or=replace(facts.database, settings=settings))
    assert [s for s, _ in found(other, "wal-level")] == ["note"]


def test_settings_of_one_role(good: System) -> None:
    try:
        good.sql("ALTER ROLE teller SET log_statement = 'all'")
        ((severity, text),) = found(read(good), "log-statements")
    finally:
        good.sql("ALTER ROLE teller RESET log_statement")
    assert severity == "warning"
    assert "log_statement of role teller = all" in text


# Fixes that are statements, up to the first "; or" or "; and".
STATEMENTS = (
    *(
        "login-superuser",
        "login-reads-all",
        "login-watches",
        "login-attributes",
        "column-open",
        "column-writable",
        "object-open",
        "table-public",
    ),
    *(
        "default-privileges",
        "publication",
        "extension",
        "materialized-copy",
        "log-statements",
        "log-errors",
        "log-parameters",
    ),
    *("auto-explain", "statement-statistics", "password-encryption", "durability"),
)
ONLY = tuple(word for code in STATEMENTS for word in ("--only", code))
FDW = '"postgres_fdw"'
# What no statement fixes: the superuser of initdb, and checksums.
STAY = {("login-superuser", "postgres"), ("durability", "data_checksums")}


LINES = {
    "host all all 10.0.0.0/8 trust": ("hba-trust", "bad"),
    "host all all 10.0.0.0/8 ident": ("hba-trust", "bad"),
    "local all all trust": ("hba-trust", "bad"),
    "local all all peer": ("hba-trust", "ok"),
    "hostssl all all 10.0.0.0/8 password": ("hba-weak", "warning"),
    "hostnossl all all 10.0.0.0/8 scram-sha-256": ("hba-plain", "warning"),
    "host all all 127.0.0.1/32 scram-sha-256": ("hba-plain", "ok"),
    "hostssl all +call_centre 10.0.0.0/8 scram-sha-256": ("hba-past", "warning"),
    "hostssl all postgres 10.0.0.0/8 scram-sha-256": ("hba-past", "ok"),
    "hostssl other all 10.0.0.0/8 scram-sha-256": ("hba-past", "ok"),
    "hostssl all all db.example scram-sha-256": ("hba-past", "warning"),
    "hostssl all all 0.0.0.0/0 cert": ("hba-cert", "note"),
    "hostssl replication backup 10.9.9.9/32 scram-sha-256": ("hba-replication", "note"),
    "host all all all no-such-method": ("hba-error", "bad"),
}


@pytest.mark.parametrize(("line", "code", "severity"), [(k, *v) for k, v in LINES.items()])
def test_lines_of_pg_hba_conf(good: System, line: str, code: str, severity: str) -> None:
    """The server reads the file for the view; connections go by what it had read before."""
    file = good.pg.data / "pg_hba.conf"
    try:
        file.write_text(f"{line}\n{systems.GOOD_HBA}")
        assert {s for s, _ in found(read(good), code)} == {severity}
    finally:
        file.write_text(systems.GOOD_HBA)


def test_who_sets_a_password_sees_what_its_login_sees(good: System) -> None:
    """A limit, told in docs/threat-model.md: the server says who is who. What is left is the record, with the address."""
    good.sql("ALTER ROLE teller PASSWORD 'set by somebody else'")
    try:
        with psycopg.connect(
            host="127.0.0.1",
            port=good.port,
            dbname=DATABASE,
            user="teller",
            password="set by somebody else",
            sslmode="require",
        ) as intruder:
            row = intruder.execute("SELECT pan FROM cards ORDER BY id LIMIT 1").fetchone()
    finally:
        good.sql(f"ALTER ROLE teller PASSWORD '{PASSWORD}'")
    assert row is not None
    assert row[0].isdigit()
    logins = [r for r in records_in(good.home / "audit") if r["kind"] == "login" and r.get("login") == "teller"]
    assert "127.0.0.1" in json.dumps(logins)


def test_what_is_said_to_fix_it_fixes_it(bad: System, unwell: list[dict[str, Any]]) -> None:
    """Last, since it changes the bad system. The statements run as they are printed."""
    wrong = [
        f for f in unwell if f["code"] in STATEMENTS and f["severity"] != "ok" and (f["code"], f["object"]) not in STAY
    ]
    # Three tables of one publication have one fix.
    for statement in dict.fromkeys(re.split(r"; (?:or|and) ", f["fix"])[0] for f in wrong):
        bad.sql(statement.replace(f"DROP EXTENSION {FDW}", f"DROP EXTENSION {FDW} CASCADE"))
    left = [f for f in bad.findings("--database", bad.url("postgres"), *ONLY) if f["severity"] != "ok"]
    assert {(f["code"], f["object"]) for f in left} <= STAY
