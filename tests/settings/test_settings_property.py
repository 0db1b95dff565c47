"""Random orders of settings and statements, through pgveil and directly: the answers are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from proxy.wire import messages as m

from .conftest import CLEAR, MASKED, Both, Client, run

if TYPE_CHECKING:
    from typing import Any

    from .conftest import Twins

PARAMETERS = {
    "DateStyle": ["ISO, MDY", "German, DMY", "SQL, DMY", "Postgres, MDY"],
    "TimeZone": ["UTC", "Asia/Tokyo", "America/New_York"],
    "bytea_output": ["hex", "escape"],
    "extra_float_digits": ["1", "-10", "3"],
    "IntervalStyle": ["postgres", "iso_8601"],
    "search_path": ["public", "elsewhere, public"],
}
COMPUTED = "select born::text, born + 1, upper(name) from public.t order by id"
READS = [
    "select id, born, seen, body, ratio, day, name from public.t order by id",
    "select born, name from t where id = 1",
    "select o.born, t.body from public.other o join public.t on t.id = o.id order by o.id",
    COMPUTED,
    "select current_setting('DateStyle'), day from plain",
]
WRITES = [
    "insert into public.t (id, born, seen, day) values (70, '2031-02-03', '2031-02-03 04:05:06', '2031-02-03')",
    "update public.t set born = '2032-03-04' where id = 2",
    "delete from public.t where id = 70",
]
ENDS = ["begin", "commit", "rollback", "savepoint s", "rollback to s", "release s", "select 1/0"]


def _set(pair: tuple[str, str], how: int) -> str:
    name, value = pair
    listed = ", ".join(f"'{part.strip()}'" for part in value.split(","))
    return [
        f"set {name} to {listed}",
        f"set local {name} to {listed}",
        f"select set_config('{name}', '{value}', false)",
        f"select set_config('{name}', '{value}', true)",
        f"reset {name}",
        f"update pg_settings set setting = '{value}' where name = '{name}'",
        "select sets('German, DMY')",
        "insert into triggered values (1)",
    ][how]


pairs = st.sampled_from([(name, value) for name, values in PARAMETERS.items() for value in values])
changes = st.builds(_set, pairs, st.integers(0, 7)) | st.sampled_from(["reset all", "discard all"])
statements = changes | st.sampled_from(READS) | st.sampled_from(READS) | st.sampled_from(ENDS)
# A portal that gives its rows one by one, in whatever transaction there is.
portals = st.sampled_from(["@open", "@more", "@more"])
batches = st.tuples(st.just("batch"), st.lists(statements | portals, min_size=1, max_size=6))
texts = st.tuples(st.just("text"), st.lists(statements, min_size=1, max_size=4))
pipelines = st.tuples(st.just("queries"), st.lists(statements, min_size=1, max_size=4))
scripts = st.lists(batches | texts | pipelines, min_size=1, max_size=5)


PORTAL = {
    "@open": m.build_close(b"P", b"p") + run(READS[0], portal=b"p", limit=1),
    "@more": m.build_execute(b"p", 1),
}


def _said(kind: str, parts: list[str]) -> tuple[bytes, int]:
    """The messages, and how many ReadyForQuery they bring."""
    if kind == "batch":
        return b"".join(PORTAL.get(p) or run(p) for p in parts) + m.SYNC, 1
    if kind == "text":
        return m.build_query("; ".join(parts).encode()), 1
    return b"".join(m.build_query(p.encode()) for p in parts), len(parts)


def _refused(kind: str, parts: list[str], heard: list[tuple[Any, ...]]) -> bool:
    """Whether pgveil said of one text of several statements that it can't do this. What follows has another state then."""
    told = [message[1] for message in heard if message[0] == "E"]
    # What is computed has to come by itself; a login with limits is told so in other words. In a failed transaction nothing can be asked.
    one_of_several = told in (["0AP01"], ["25P02"]) or (told == ["42501"] and COMPUTED in parts)
    return kind == "text" and len(parts) > 1 and one_of_several


def _play(both: Both, script: list[tuple[str, list[str]]]) -> None:
    for kind, parts in script:
        data, times = _said(kind, parts)
        wanted = both.direct.say(data).until_ready(times)
        found = both.through.say(data).until_ready(times)
        note(f"{kind} {parts}: {found}")
        if found != wanted:
            assert _refused(kind, parts, found), (found, wanted)
            return


def _reset(client: Client) -> None:
    client.query("rollback")
    client.query("discard all")


@pytest.fixture(scope="module", params=[CLEAR, MASKED])
def lasting(twins: Twins, request: pytest.FixtureRequest) -> Both:
    """Clients for a whole run."""
    return twins.both(request.param)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts)
def test_random_orders(lasting: Both, script: list[tuple[str, list[str]]]) -> None:
    try:
        _play(lasting, script)
    finally:
        _reset(lasting.direct)
        _reset(lasting.through)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scripts)
def test_many_random_orders(lasting: Both, script: list[tuple[str, list[str]]]) -> None:
    try:
        _play(lasting, script)
    finally:
        _reset(lasting.direct)
        _reset(lasting.through)
