"""The golden corpus on PostgreSQL 16: every entry comes out as it says. `make twin` runs it on every version, in every mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.twin.answers import Mode
from tests.twin.corpus import CorpusError, Feature, _read, read_corpus, read_pending, run_corpus
from tests.twin.tally import Tally, describe
from tests.twin.world import CLEAR, MASKED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.twin.world import World

FEATURES = read_corpus()
AT_LEAST = 600
AT_MOST_REFUSED = 0.05
MODES = (Mode.SIMPLE, Mode.PREPARED)


@pytest.fixture(scope="session")
def pending() -> frozenset[str]:
    return read_pending()


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)
def test_feature(shop_world: World, feature: Feature, pending: frozenset[str]) -> None:
    tally, deviations = run_corpus(shop_world, [feature], [CLEAR], MODES)
    masked, others = run_corpus(shop_world, [feature], [MASKED], MODES[:1])
    deviations += others
    new = [f"{d.line} -- {d.detail}" for d in deviations if d.place not in pending]
    assert not new, "\n".join(new)
    canaries = tally.canaries + masked.canaries
    assert not canaries, [describe(o) for _, o in canaries]


def test_there_are_enough_statements() -> None:
    assert sum(len(f.entries) for f in FEATURES) >= AT_LEAST
    assert len({" ".join(s.sql.split()).lower() for f in FEATURES for e in f.entries for s in e.steps}) >= AT_LEAST


def test_few_are_refused_to_who_sees_all_and_each_says_why() -> None:
    refused = [e for f in FEATURES for e in f.entries if CLEAR in e.expected and e.expected[CLEAR].reason]
    assert len(refused) / sum(len(f.entries) for f in FEATURES) <= AT_MOST_REFUSED
    assert not [e.key for e in refused if not e.expected[CLEAR].why]


def test_what_is_pending_is_in_the_corpus(pending: frozenset[str]) -> None:
    keys = {e.key for f in FEATURES for e in f.entries}
    assert not [line for line in pending if line.split(" | ")[1] not in keys]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-- Title\nSELECT 1;", "first paragraph"),
        ("-- # T\n\n-- a\nSELECT 1;\n\n-- a\nSELECT 2;", "occur twice"),
        ("-- # T\n\nSELECT 1;", "title and a statement"),
        ("-- # T\n\n-- a\n-- clear: maybe\nSELECT 1;", "not an expectation"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "10-x.sql"
    path.write_text(text)
    with pytest.raises(CorpusError, match=words):
        _read(path)


def test_directives(tmp_path: Path) -> None:
    path = tmp_path / "10-x.sql"
    path.write_text(
        "-- # T\n-- words\n\n-- a title\n-- of two lines\n-- $1 = x y\n-- $2 = NULL\n-- clear: refused ordering: why\n-- it is\n"
        "-- data: a\\tb\n-- data: c\n-- since: 17\nSELECT $1, $2; COPY t FROM STDIN;"
    )
    feature = _read(path)
    (entry,) = feature.entries
    assert (feature.title, feature.text, entry.key) == ("T", "words", "x: a title of two lines")
    assert [s.params for s in entry.steps] == [("x y", None), ()]
    assert entry.steps[1].data == b"a\tb\nc\n"
    assert (str(entry.expected[CLEAR]), entry.expected[CLEAR].why, entry.since) == ("refused ordering", "why it is", 17)


def test_an_empty_tally_is_well() -> None:
    assert Tally().ok
    assert Tally().refused_share(CLEAR) == 0
