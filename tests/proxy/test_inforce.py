"""Rules and keys in force: replaced together or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from proxy.errors import ConfigError
from proxy.inforce import InForce
from rules.record import Record, SealedAs

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
version: 1
tables:
  public.t:
    columns:
      a: {level: core, protection: sealed, mode: deterministic, type: text, domain: d, mask: {kind: constant, value: x}}
roles:
  r: {logins: [r], levels: {core: %s}}
"""


class Home:
    def __init__(self, path: Path) -> None:
        self.rules = path / "rules.yaml"
        self.keys = path / "keys"
        self.keys.mkdir(mode=0o700)
        self.rules.write_text(RULES % "clear")
        self.ring = KeyRing.initialise(self.keys, FileMasterKey.generate(self.keys / "master.key", os.urandom))
        self.ring.create("d", os.urandom)
        self.told: list[str] = []
        self.force = InForce(self.rules, self.keys, self.told.append)
        self.force.begin()

    @property
    def key(self) -> int:
        return self.force._ring.newest("d").key_id


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_is_prepared_is_not_in_force(home: Home) -> None:
    version = home.force.rules.version
    home.rules.write_text(RULES % "masked")
    home.ring.create("other", os.urandom)
    fresh, commit = home.force.prepare(home.rules)
    assert home.force.rules.version == version != fresh.version
    assert home.force._ring.domains() == {"d"}
    commit()
    assert home.force.rules is fresh
    assert home.force._ring.domains() == {"d", "other"}


def test_good_rules_with_bad_keys_and_good_keys_with_bad_rules(home: Home) -> None:
    version = home.force.rules.version
    home.rules.write_text(RULES % "masked")
    second = home.ring.create("d", os.urandom)
    with pytest.raises(ConfigError, match="several live keys"):
        home.force.prepare(home.rules)
    assert (home.force.rules.version, home.key) == (version, second.key_id - 1)
    home.ring.destroy(second.key_id)
    home.ring.create("other", os.urandom)
    home.rules.write_text("tables: {")
    with pytest.raises(ConfigError, match=r"rules\.yaml"):
        home.force.prepare(home.rules)
    assert home.force._ring.domains() == {"d"}


def test_rules_whose_column_has_never_had_a_key_are_refused_where_all_are_wanted(home: Home) -> None:
    """F10.4: each statement on it would have been refused afterwards. One whose key was destroyed is another matter."""
    home.rules.write_text((RULES % "clear").replace("domain: d", "domain: later"))
    with pytest.raises(ConfigError, match=r"no key for .* \(key domain later\)(.|\n)*pgveil apply --reload"):
        home.force.prepare(home.rules, every_key=True)
    home.ring.create("later", os.urandom)
    home.force.prepare(home.rules, every_key=True)
    home.ring.destroy(home.ring.newest("later").key_id)
    home.force.prepare(home.rules, every_key=True)


def test_a_key_that_only_the_record_knows_is_taken_up(home: Home) -> None:
    """Another process has made it, and values are sealed under it."""
    second = home.ring.create("d", os.urandom)
    home.ring.destroy(home.key)
    (mark,) = (m for m in home.ring.marks()["d"] if m.startswith(f"{second.key_id}:"))
    record = Record(columns=(SealedAs("public", "t", "c", "deterministic", "text", "d", (mark,)),))
    home.force.refresh()
    assert home.key != second.key_id
    home.force.refresh(record)
    assert home.key == second.key_id
    assert mark in home.force.marks()["d"]


def test_another_master_key(home: Home) -> None:
    """Rewrapped, it is taken up; one that opens nothing is refused by its name."""
    path = home.keys / "master.key"
    right = path.read_bytes()
    path.unlink()
    wrong = FileMasterKey.generate(path, os.urandom)
    with pytest.raises(ConfigError, match="nothing in key ring"):
        home.force.prepare(home.rules)
    home.ring.rewrap(wrong)
    home.force.prepare(home.rules)[1]()
    assert home.key == home.ring.newest("d").key_id
    path.write_bytes(right)
    with pytest.raises(ConfigError, match="nothing in key ring"):
        home.force.prepare(home.rules)


def test_keys_are_not_read_between_the_two_steps(home: Home) -> None:
    """A catalog that changes meanwhile asks for new keys: they wait, or what was prepared would take them away again."""
    home.rules.write_text((RULES % "clear").replace("domain: d", "domain: later"))
    with_later = home.force.prepare(home.rules)[1]
    home.ring.create("later", os.urandom)
    home.force.refresh()
    assert "later" not in home.force._ring.domains()
    with_later()
    assert home.force._ring.domains() == {"d", "later"}
    # Given up, the same.
    home.rules.write_text((RULES % "clear").replace("domain: d", "domain: last"))
    home.force.prepare(home.rules)[1]()
    home.force.prepare(home.rules)
    home.ring.create("last", os.urandom)
    home.force.refresh()
    assert "last" not in home.force._ring.domains()
    home.force.forget()
    assert "last" in home.force._ring.domains()


def test_a_refresh_that_would_seal_equal_values_differently_changes_nothing(home: Home) -> None:
    """It had taken the keys up first and found the mistake afterwards."""
    home.rules.write_text((RULES % "clear").replace("domain: d", "domain: later") + "")
    home.force.prepare(home.rules)[1]()
    home.ring.create("later", os.urandom)
    home.ring.create("later", os.urandom)
    home.force.refresh()
    assert "later" not in home.force._ring.domains()
    home.ring.destroy(home.ring.newest("later").key_id)
    home.force.refresh()
    assert "later" in home.force._ring.domains()


def test_first_uses_are_told_once(home: Home) -> None:
    home.force._ring.newest("d")
    home.force.prepare(home.rules)[1]()
    home.force._ring.newest("d")
    assert home.told == ["d version 1 (key 1)"]
