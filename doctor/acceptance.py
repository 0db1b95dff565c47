"""Findings that somebody has decided to live with, each with a reason: a file of their own, so that who decides is not who configures.

accepted:
  - {code: key-backup, reason: "file in the safe of branch 4, tried 2026-05-02", by: "j. doe", until: 2027-05-02}
  - {code: login-superuser, object: ops, reason: "on-call, hardware token, pg_hba from the jump host only"}
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Final

from doctor.model import Acceptance, Finding, Group, Severity
from rules.document import Mapping, Place, Sequence, read_document
from rules.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from rules.document import Node

CODE: Final = "acceptance"
MAX_BYTES: Final = 1 << 20
_FIELDS: Final = ("code", "object", "reason", "by", "until")


class AcceptanceError(Exception):
    """The file can't be used. The text has a line for each mistake, as compilers write them."""


def load_acceptances(path: Path, codes: Collection[str]) -> tuple[Acceptance, ...]:
    """The file's entries. Raises AcceptanceError with every mistake at its line."""
    try:
        raw = path.read_bytes()[: MAX_BYTES + 1]
        text = raw.decode()
    except OSError as error:
        raise AcceptanceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AcceptanceError(f"{path}: not UTF-8: save it as UTF-8") from None
    root, faults = read_document(text)
    reader = Reader(str(path))
    for fault in faults:
        reader.error(fault.place, fault.message, fault.fix)
    found = [] if root is None else _entries(reader, root, codes)
    if reader.failed:
        raise AcceptanceError("\n".join(str(p) for p in reader.problems()))
    return tuple(found)


def _entries(reader: Reader, root: Node, codes: Collection[str]) -> list[Acceptance]:
    top = reader.fields(root, "the file", ("accepted",))
    if top is None:
        return []
    entries = top.get("accepted")
    if not isinstance(entries, Sequence):
        reader.error(
            entries.place if entries else Place(1, 1),
            "`accepted` must be a list",
            "write one `- {code: ..., reason: ...}` a line",
        )
        return []
    found = [_entry(reader, node, codes) for node in entries.items]
    return [f for f in found if f is not None]


def _entry(reader: Reader, node: Node, codes: Collection[str]) -> Acceptance | None:
    if not isinstance(node, Mapping):
        reader.error(node.place, "an entry of `accepted` must be a mapping", "write {code: ..., reason: ...}")
        return None
    fields = reader.fields(node, "an entry of `accepted`", _FIELDS) or {}
    reader.required(node.place, "an entry of `accepted`", fields, ("code", "reason"))
    words = {name: reader.word(value, f"`{name}`") for name, value in fields.items()}
    code, reason, until = words.get("code"), words.get("reason"), words.get("until")
    if code is not None and code not in codes:
        reader.error(fields["code"].place, f"no check has the code {code[:80]!r}", "pgveil doctor --codes lists them")
    if reason is not None and not reason.strip():
        reader.error(fields["reason"].place, "a reason is missing", "say why this is all right, and for how long")
    if until is not None and _day(until) is None:
        reader.error(fields["until"].place, "`until` is no date", "write it as 2027-05-31")
    if code is None or reason is None:
        return None
    return Acceptance(code, reason, words.get("object"), words.get("by"), until)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def accept(
    findings: Iterable[Finding], acceptances: Iterable[Acceptance], today: date, file: str
) -> tuple[Finding, ...]:
    """The findings, those that are accepted marked so; and a finding for each acceptance that has run out or is of no use."""
    used: set[Acceptance] = set()
    judged = []
    each = tuple(acceptances)
    valid = [a for a in each if a.until is None or today <= date.fromisoformat(a.until)]
    for finding in findings:
        fits = [a for a in valid if a.code == finding.code and a.object in {None, finding.object}]
        if fits and finding.severity is not Severity.OK:
            used.update(fits)
            judged.append(replace(finding, accepted=fits[0]))
        else:
            judged.append(finding)
    for entry in each:
        if entry not in valid:
            judged.append(_stale(entry, file, Severity.WARNING, f"ran out on {entry.until}: decide again"))
        elif entry not in used:
            judged.append(_stale(entry, file, Severity.NOTE, "accepts nothing that is there: take it out"))
    return tuple(judged)


def _stale(entry: Acceptance, file: str, severity: Severity, text: str) -> Finding:
    of = entry.code if entry.object is None else f"{entry.code} of {entry.object}"
    return Finding(CODE, Group.RULES, severity, of, f"the acceptance of {of} {text}", WHY, f"edit {file}")


TITLE: Final = "Every accepted finding is still there, and its term has not run out"
WHY: Final = "A decision to live with something is good for a time, and for that thing only."
