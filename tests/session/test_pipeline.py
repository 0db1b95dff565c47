"""The queue of expectations."""

from __future__ import annotations

import pytest

from proxy.errors import ProtocolError
from proxy.session.pipeline import TRANSITIONS, Expectation, Flow, Kind, Pipeline, Step


def piped(*kinds: Kind) -> Pipeline:
    pipeline = Pipeline()
    for kind in kinds:
        pipeline.sent(Expectation(kind))
    return pipeline


def left(pipeline: Pipeline) -> list[Kind]:
    return [entry.kind for entry in pipeline.waiting()]


def test_every_kind_has_its_row() -> None:
    assert set(TRANSITIONS) == set(Kind)
    for row in TRANSITIONS.values():
        assert ord("E") not in row
        assert not set(row) & set(b"NAS")


def test_answers_meet_expectations_in_order() -> None:
    pipeline = piped(Kind.PARSE, Kind.BIND, Kind.EXECUTE, Kind.SYNC)
    for answer, step in ((b"1", Step.DONE), (b"2", Step.DONE), (b"D", Step.STAY), (b"C", Step.DONE), (b"Z", Step.DONE)):
        assert pipeline.step(answer[0]) is step
        if step is Step.DONE:
            pipeline.done()
    assert pipeline.idle


@pytest.mark.parametrize(
    ("kinds", "answer"), [((), b"Z"), ((Kind.PARSE,), b"2"), ((Kind.SYNC,), b"C"), ((Kind.QUERY,), b"1")]
)
def test_what_nothing_expects_is_an_error(kinds: tuple[Kind, ...], answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        piped(*kinds).step(answer[0])


def test_an_error_drops_up_to_the_sync() -> None:
    pipeline = piped(Kind.PARSE, Kind.BIND, Kind.QUERY, Kind.SYNC, Kind.QUERY)
    assert [e.kind for e in pipeline.error()] == [Kind.PARSE, Kind.BIND, Kind.QUERY]
    assert left(pipeline) == [Kind.SYNC, Kind.QUERY]
    assert not pipeline.ignoring


def test_an_error_without_a_sync_makes_the_server_ignore() -> None:
    pipeline = piped(Kind.PARSE, Kind.BIND)
    pipeline.error()
    assert pipeline.ignoring
    pipeline.sent(Expectation(Kind.SYNC))
    assert not pipeline.ignoring


@pytest.mark.parametrize("kind", [Kind.QUERY, Kind.SYNC, Kind.FUNCTION_CALL, Kind.STARTUP])
def test_an_error_leaves_what_ends_with_ready(kind: Kind) -> None:
    pipeline = piped(kind, Kind.QUERY)
    assert pipeline.error() == []
    assert left(pipeline) == [kind, Kind.QUERY]


def test_a_sync_sent_before_copy_data_is_no_expectation() -> None:
    pipeline = piped(Kind.EXECUTE, Kind.SYNC)
    pipeline.copy_begins()
    assert left(pipeline) == [Kind.EXECUTE]
    assert pipeline.sync_is_ignored()
    pipeline.copy_ended()
    assert not pipeline.sync_is_ignored()
    head = pipeline.head
    assert head is not None
    assert head.flow is Flow.COPY_ENDED


def test_copy_data_sent_blindly() -> None:
    pipeline = piped(Kind.EXECUTE, Kind.SYNC)
    pipeline.copy_ended()
    pipeline.sent(Expectation(Kind.SYNC))
    pipeline.copy_begins()
    assert left(pipeline) == [Kind.EXECUTE, Kind.SYNC]
    assert not pipeline.sync_is_ignored()


def test_the_end_of_copy_data_that_nobody_reads_means_nothing() -> None:
    pipeline = piped(Kind.QUERY)
    pipeline.copy_ended()
    pipeline.sent(Expectation(Kind.QUERY))
    pipeline.done()
    assert pipeline.head is not None
    assert pipeline.head.kind is Kind.QUERY
    assert left(pipeline) == [Kind.QUERY]


def test_a_sync_that_met_a_failing_copy_may_still_be_answered() -> None:
    pipeline = piped(Kind.EXECUTE)
    pipeline.copy_begins()
    assert pipeline.sync_is_ignored()
    pipeline.error()
    assert pipeline.take_stray_ready()
    assert not pipeline.take_stray_ready()


def test_batches() -> None:
    pipeline = piped(Kind.PARSE, Kind.SYNC, Kind.BIND, Kind.EXECUTE)
    assert [e.kind for e in pipeline.batch()] == [Kind.EXECUTE, Kind.BIND]
    assert pipeline.before_sync() == []
    ready = pipeline.ready_of_head()
    assert ready is not None
    assert ready.kind is Kind.SYNC
    assert piped(Kind.BIND, Kind.EXECUTE).ready_of_head() is None
