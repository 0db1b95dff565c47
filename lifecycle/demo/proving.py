"""The story's end: the audit trail, what becomes of it when somebody touches it, and the numbers."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

from lifecycle.demo.people import ANALYST, APP, TELLER

if TYPE_CHECKING:
    from lifecycle.demo.plot import Story

# What the metrics page shows that is worth a look.
_METRICS: Final = (
    "pgveil_connections_opened_total",
    "pgveil_passed_statements_total",
    "pgveil_refusals_total",
    "pgveil_sealed_values_total",
    "pgveil_opened_values_total",
    "pgveil_audit_records_total",
    "pgveil_ready",
)


def the_trail(story: Story) -> None:
    teller, stage = story.teller, story.stage
    teller.chapter("The audit trail")
    teller.say(
        "Every statement that touched something protected was recorded before its first row left. Who saw card numbers clear?"
    )
    search = ("audit", "search", "audit", "--column", "pan", "--verdict", "clear")
    told = stage.pgveil(*search)
    teller.command(f"pgveil {' '.join(search)}", told.stdout, code=told.returncode, lines=9)
    found = [json.loads(line) for line in stage.pgveil(*search, "--json").stdout.splitlines()]
    teller.check(bool(found), "the log has records of card numbers seen clear")
    teller.claim(_logins(found) == {APP.login, TELLER.login}, "The application and the teller, and nobody else.")
    for path in [*sorted((stage.home / "audit").rglob("*")), stage.home / "pgveil.log"]:
        if path.is_file():
            story.check_no_leak(ANALYST, path.read_text(encoding="utf-8", errors="replace"))
    teller.claim(
        True, "The log names people, statements and columns. It holds no value: it was searched for all of them."
    )
    whole = stage.pgveil("audit", "verify", "audit")
    teller.command("pgveil audit verify audit", whole.stdout, code=whole.returncode)
    teller.claim(whole.returncode == 0, "Every record is chained to the one before it, and the chain is whole.")
    teller.say("Somebody covers the analyst's tracks, in a copy of the log, by one byte:")
    name, before, after = _tamper(story)
    teller.code(f"{name}\n- {before}\n+ {after}", "diff")
    broken = stage.pgveil("audit", "verify", "audit-copy")
    teller.command("pgveil audit verify audit-copy", broken.stdout, code=broken.returncode)
    teller.claim(broken.returncode == 1 and name in broken.stdout, "The verification fails, and names the place.")


def _logins(found: list[dict[str, Any]]) -> set[str]:
    """Who is named in records that `pgveil audit search --json` gave."""
    return {str(record["event"]["login"]) for record in found}


def _tamper(story: Story) -> tuple[str, str, str]:
    """Change one byte of a copy of the log: (file, what stood there, what stands there now)."""
    home = story.stage.home
    shutil.copytree(home / "audit", home / "audit-copy")
    word = b'"login":"analyst"'
    for path in sorted(p for p in (home / "audit-copy").rglob("*") if p.is_file()):
        content = bytearray(path.read_bytes())
        # The last one: what is newest is what one would hide.
        at = content.rfind(word)
        if at >= 0:
            place = at + word.index(b"analyst")
            content[place] ^= 0x20
            path.write_bytes(content)
            return path.name, word.decode(), content[at : at + len(word)].decode()
    story.teller.check(False, "the log has a record of the analyst's")
    raise AssertionError


def the_numbers(story: Story) -> None:
    teller, stage = story.teller, story.stage
    teller.chapter("The numbers")
    page = stage.page("metrics").splitlines()
    lines = [line for line in page if line.startswith(_METRICS) and not line.endswith(" 0.0")]
    teller.code("\n".join([f"$ curl http://127.0.0.1:{stage.metrics_port}/metrics", *lines]), "text")
    refused = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("pgveil_refusals_total"))
    records = stage.pgveil("audit", "search", "audit", "--kind", "refusal", "--json").stdout.splitlines()
    teller.claim(
        refused == len(records),
        f"The {len(records)} refusals counted are the {len(records)} refusals in the audit log.",
    )
