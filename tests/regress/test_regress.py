"""Some files of PostgreSQL's own regression suite, directly and through pgveil. `make regress` runs them all (docs/regress.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from lifecycle.demo.postgres import PostgresUnavailableError
from tests.regress import report
from tests.regress.compare import compare, difference
from tests.regress.exceptions import EXCEPTIONS, NOT_AS_EXPECTED
from tests.regress.source import SourceMissingError, find
from tests.regress.suite import Suite, load_suite, meets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.regress.source import Source

# Quick ones of many kinds, none of which needs others than test_setup.
SHORT: Final = (
    "test_setup",
    "strings",
    "copy",
    "copyselect",
    "async",
    "errors",
    "prepared_xacts",
    "namespace",
    "transactions",
    "prepare",
    "largeobject",
    "temp",
    "jsonb",
    "returning",
)


@pytest.fixture(scope="module")
def source() -> Source:
    try:
        return find()
    except (SourceMissingError, PostgresUnavailableError) as error:
        pytest.skip(str(error))


@pytest.mark.timeout(900)
def test_files_that_print_the_same_through_pgveil(source: Source, tmp_path: Path) -> None:
    outcomes = compare(source, load_suite(source.directory), SHORT, tmp_path)
    for outcome in outcomes:
        assert outcome.identical, difference(tmp_path, outcome.name)
        assert outcome.direct, f"{outcome.name} is not as in expected/"
        assert outcome.proxied
    assert [o.name for o in outcomes] == list(SHORT)


def test_exceptions_are_of_files_that_there_are(source: Source) -> None:
    suite = load_suite(source.directory)
    excepted = {name for reasons in EXCEPTIONS.values() for name in reasons}
    assert excepted | set(NOT_AS_EXPECTED) | set(SHORT) <= set(suite.names)
    assert not excepted & set(SHORT)
    assert len(suite.names) > 200
    assert all(suite.script(name).exists() and suite.expected(name) for name in suite.names)


def test_the_schedule_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "parallel_schedule").write_text("# test: not this\ntest: test_setup\n\nignore: b\ntest: a b\ntest: c\n")
    assert load_suite(tmp_path) == Suite(tmp_path, ("test_setup", "a", "b", "c"))


def test_an_output_meets_one_of_the_answers_but_for_white_space(tmp_path: Path) -> None:
    (tmp_path / "expected").mkdir()
    (tmp_path / "expected/a.out").write_bytes(b" id | b\n 1 | 2\n")
    (tmp_path / "expected/a_1.out").write_bytes(b"other\n")
    (tmp_path / "expected/a_b.out").write_bytes(b"no variant\n")
    answers = Suite(tmp_path, ("a",)).expected("a")
    assert len(answers) == 2
    assert meets(b"id|b\n  1 |  2\n", answers)
    assert meets(b"other\n", answers)
    assert not meets(b"id|b\n1|3\n", answers)
    assert not meets(b"id|b\n1|2\n\nmore", answers)


def test_the_page_has_the_numbers_of_the_last_runs() -> None:
    results = report.load()
    assert "15" in {r.version for r in results}

    assert report.written() == report.tables(results)
    for result in results:
        assert result.identical + len(result.different) == result.files
        assert set(result.different) <= set(EXCEPTIONS[result.version]), "a file differs that is not listed"
        if result.suite == result.server:
            assert set(result.not_as_expected) <= set(NOT_AS_EXPECTED)
