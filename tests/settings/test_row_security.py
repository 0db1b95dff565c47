"""COPY looks at privileges before it looks at row security; the question that pgveil asks before it must not turn that round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire import messages as m

from .conftest import errors, run

if TYPE_CHECKING:
    from .conftest import Both

COPIES = [
    "copy guarded to stdout",
    "copy public.guarded (id) to stdout",
    "copy (select * from guarded) to stdout",
    'copy "Guarded too" to stdout',
    'copy "Guarded too" ("o\'clock") to stdout',
    "copy partly to stdout",
    "copy partly (day) to stdout",
    "copy partly (id) to stdout",
    "copy elsewhere.guarded to stdout",
    "copy (select id from t order by id) to stdout",
]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("security", ["on", "off"])
def test_errors_are_those_of_copy(both: Both, copy: str, security: str) -> None:
    both.query(f"set row_security to {security}")
    alone = both.query(copy)
    both.query("begin")
    assert errors(both.query(copy)) == errors(alone)
    both.query("select 1")
    both.query("rollback")
    parsed = m.build_parse(b"", copy.encode()) + m.build_bind(b"", b"") + m.build_execute(b"")
    assert errors(both.say(parsed, run("select 1"), m.SYNC)) == errors(alone)
