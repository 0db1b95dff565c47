"""Accepted findings: a reason each, for an object or for all, until a day."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from doctor.acceptance import CODE, AcceptanceError, accept, load_acceptances
from doctor.model import Acceptance, Finding, Group, Severity

if TYPE_CHECKING:
    from pathlib import Path

CODES = frozenset({"login-owner", "key-backup"})
TODAY = date(2026, 11, 28)


def finding(code: str = "login-owner", object_: str = "dba", severity: Severity = Severity.BAD) -> Finding:
    return Finding(code, Group.LOGINS, severity, object_, "", "", "")


def judged(*acceptances: Acceptance) -> list[tuple[str, str, bool]]:
    """Code, severity, and whether it counts, of two owners' findings."""
    found = accept([finding(), finding(object_="ops")], acceptances, TODAY, "accepted.yaml")
    return [(f.code, f.severity.value, f.counts) for f in found]


def test_one_object_or_all() -> None:
    assert judged(Acceptance("login-owner", "so it is", "dba")) == [
        ("login-owner", "bad", False),
        ("login-owner", "bad", True),
    ]
    assert judged(Acceptance("login-owner", "so it is")) == [("login-owner", "bad", False)] * 2


def test_the_last_day_is_a_day_still() -> None:
    (first, _) = judged(Acceptance("login-owner", "a while", "dba", until="2026-11-28"))
    assert first == ("login-owner", "bad", False)
    assert judged(Acceptance("login-owner", "a while", "dba", until="2026-11-27")) == [
        ("login-owner", "bad", True),
        ("login-owner", "bad", True),
        (CODE, "warning", True),
    ]


def test_what_accepts_nothing_is_a_note() -> None:
    assert judged(Acceptance("login-owner", "gone", "smith"))[2:] == [(CODE, "note", False)]


def test_what_is_well_is_not_accepted() -> None:
    (found, note) = accept([finding(severity=Severity.OK)], [Acceptance("login-owner", "why")], TODAY, "f")
    assert found.accepted is None
    assert note.code == CODE


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "accepted.yaml"
    file.write_text('accepted:\n  - {code: key-backup, reason: "in the safe", by: "j. doe", until: 2027-05-31}\n')
    assert load_acceptances(file, CODES) == (Acceptance("key-backup", "in the safe", None, "j. doe", "2027-05-31"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accepted:\n  - {code: key-backup}\n", ":2:5: error: an entry of `accepted` has no `reason`"),
        ('accepted:\n  - {code: key-backup, reason: " "}\n', ":2:32: error: a reason is missing"),
        ("accepted:\n  - {code: keys, reason: x}\n", "no check has the code 'keys'"),
        ("accepted:\n  - {code: key-backup, reason: x, until: soon}\n", "`until` is no date"),
        ("accepted:\n  - {code: key-backup, reason: x, untill: 2027-01-01}\n", "did you mean `until`?"),
        ("accepted: all\n", "`accepted` must be a list"),
        ("accepted:\n  - everything\n", "must be a mapping"),
        ("accepted: [\n", ":"),
    ],
)
def test_mistakes_are_named_at_their_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "accepted.yaml"
    file.write_text(text)
    with pytest.raises(AcceptanceError) as caught:
        load_acceptances(file, CODES)
    assert says in str(caught.value)


def test_an_empty_file_accepts_nothing(tmp_path: Path) -> None:
    (tmp_path / "accepted.yaml").touch()
    assert load_acceptances(tmp_path / "accepted.yaml", CODES) == ()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AcceptanceError, match="cannot be read"):
        load_acceptances(tmp_path / "none.yaml", CODES)
