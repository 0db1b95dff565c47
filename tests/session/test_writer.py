"""Computed writes, scripted: what is asked of whom in which order, what the records say, and what goes wrong at each step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from audit.event import StatementEnded, StatementStarted
from proxy.session.computing import Answer, Compute, Leaf, Write
from proxy.session.gate import Admit, OffsetMap, Settings
from proxy.session.localtext import with_types
from proxy.wire import messages as m
from proxy.wire.arrays import text_array
from rules.encodings import encode_sql
from rules.plan import Action, ResultColumn, SealParam

from .calculators import Scripted
from .conftest import CARD, COMPUTED, PLAIN, Bench, opened, plan
from .conversation import Result, Server, Talk, error, error_of, kinds
from .test_computer import Counting, calculator_error, single, whole

if TYPE_CHECKING:
    from collections.abc import Callable

OID = 5000
READY = m.build_ready(b"I")
SQL = "UPDATE customers SET card = upper(card) WHERE score > $1"
SOURCE = b"SELECT ctid AS c0, card AS c1 FROM customers WHERE score > $1 FOR UPDATE"
APPLY = b"UPDATE customers SET card = $3 WHERE ctid = $2"
MANY = b"UPDATE customers SET card = v.c1 FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS v (c0, c1) WHERE ctid = v.c0"
RUNS = (
    b"UPDATE customers SET card = v.c1 FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]::type27[]),"
    b" pg_catalog.unnest($3::pg_catalog.text[]::type25[])) AS v (c0, c1) WHERE ctid = v.c0"
)
CTID = m.Field(b"c0", OID, -1, 27, 6, -1, 0)
SEALED = m.Field(b"c1", OID, 3, 25, -1, -1, 0)
LOCAL = m.build_row_description((CTID._replace(table=0, attnum=0), SEALED._replace(table=0, attnum=0, type=1043)))
COMPUTED_ROWS = (m.build_data_row((b"(0,1)", b"ABC")), m.build_data_row((b"(0,2)", None)))


@pytest.fixture(params=[whole, single], ids=["whole", "bytewise"])
def cut(request: pytest.FixtureRequest) -> Callable[[bytes], list[bytes]]:
    found: Callable[[bytes], list[bytes]] = request.param
    return found


def write(*results: ResultColumn, parameters: int = 0, returning: Compute | None = None) -> Write:
    """The update of SQL, its `$1` a constant where there are no parameters."""
    first = parameters + 1
    texts = [t if parameters else _renumbered(t) for t in (SOURCE, APPLY, MANY)]
    fetch = Admit(texts[0], OffsetMap(), (plan(PLAIN, opened(CARD)),), "shape of the source", 1)
    source = Compute(
        (Leaf("pgveil_leaf_0", ("c0", "c1"), fetch),), None, "SELECT c0, upper(c1) FROM pgveil_leaf_0", 0, "WITH ", " ",
        OffsetMap(), parameters, Action.UPDATE, "shape", 1, positions=False,
    )  # fmt: skip
    one = plan(
        *results, params=(SealParam(first + 1, CARD),), writes=True, action=Action.UPDATE, results=results or None
    )
    many = replace(one, params=(SealParam(first + 1, CARD, array=True),))
    return Write(
        source,
        Admit(texts[1], OffsetMap(), (one,), "shape", 1),
        first,
        Admit(texts[2], OffsetMap(), (many,), "shape", 1),
        (None, CARD),
        returning,
        parameters,
        Action.UPDATE,
        "shape",
        1,
    )


def _renumbered(text: bytes) -> bytes:
    return text.replace(b"$1", b"7").replace(b"$2", b"$1").replace(b"$3", b"$2")


class Scene:
    """A session with a scripted server and a scripted calculator, that runs one write."""

    def __init__(
        self, bench: Bench, cut: Callable[[bytes], list[bytes]], decision: Write, *outcomes: Any, sql: str = SQL
    ) -> None:
        self.bench = bench
        self.sql = sql.encode()
        self.calculator = bench.calculator = Scripted(*outcomes)
        bench.judge.sources = {(OID, 3): CARD.name}
        bench.judge.table[self.sql] = decision
        self.server = Server()
        card = bench.seal(CARD, "abc").encode()
        parameters = (23,) if decision.parameters else ()
        self.source = Result((CTID, SEALED), [(b"(0,1)", card), (b"(0,2)", None)], parameters)
        self.server.results[decision.source.leaves[0].fetch.text] = self.source
        self.runs = RUNS if decision.parameters else _renumbered(RUNS)
        self.server.results[decision.apply.text] = Result(parameters=(*parameters, 27, 25))
        self.server.results[self.runs] = self.written = Result()
        self.talk = Talk(bench.session(), self.server, cut)

    def query(self) -> bytes:
        return self.talk.say(m.build_query(self.sql))

    def wrote(self) -> bool:
        return self.runs in self.server.texts()

    def alive(self) -> None:
        session = self.talk.session
        assert session.closing is None
        assert session.wants_client
        assert session.wants_server
        assert self.bench.budget.held == 0
        assert kinds(self.talk.say(m.build_query(b"SELECT 1")))[-2:] in ("CZ", "EZ")

    def ended(self) -> list[tuple[str, str | None, int | None]]:
        return [(e.outcome, e.sqlstate, e.rows) for e in self.bench.recorder.events if isinstance(e, StatementEnded)]


DESCRIBED = Answer((1009, 1009), LOCAL)
VALUES = Answer((), LOCAL, COMPUTED_ROWS, b"SELECT 2")
TAG = m.build_command_complete(b"SELECT 0")  # what the scripted server says of everything


def test_a_write(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, write(), DESCRIBED, VALUES)
    assert scene.query() == TAG + READY
    sealed = [bench.seal(CARD, "ABC").encode(), None]
    bound = scene.server.binds[-1]
    assert bound.values == (text_array([b"(0,1)", b"(0,2)"]), text_array(sealed))
    assert bound.formats == (1, 1)
    started = [e for e in bench.recorder.events if isinstance(e, StatementStarted)]
    assert [(e.action, e.statement) for e in started] == [("update", "shape")]
    assert [(c.read, c.written) for c in started[0].columns] == [(True, False)]
    assert scene.ended() == [("ok", None, 0)]
    # Nothing of pgveil's stays open.
    opened_names = [body for kind, body in scene.server.seen if kind == "B"]
    closed = [body for kind, body in scene.server.seen if kind == "C" and body.startswith(b"Ppgveil_apply_")]
    assert len(opened_names) >= 2
    assert len(closed) == 2
    scene.alive()


def test_nothing_is_written_before_the_record_is_durable(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, write(), DESCRIBED, VALUES)
    bench.recorder.prompt = False
    assert scene.query() == b""
    assert not scene.talk.session.wants_server
    assert scene.calculator.kinds().count("run") == 0
    assert not scene.wrote()
    scene.talk.session.audit_durable(bench.recorder.flush())
    scene.talk.move()
    assert scene.talk.got() == TAG + READY
    scene.alive()


def test_a_lost_record_ends_the_write(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, write(), DESCRIBED)
    bench.recorder.prompt = False
    assert scene.query() == b""
    scene.talk.session.audit_failed()
    scene.talk.move()
    got = scene.talk.got()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "58030")
    assert scene.ended() == [("error", "58030", None)]
    assert not scene.wrote()
    scene.alive()


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("wrong", ["source", "value", "calculator", "bad", "apply"])
def test_what_goes_wrong_is_rolled_back_and_recorded(
    bench: Bench, cut: Callable[[bytes], list[bytes]], wrong: str, *, block: bool
) -> None:
    long = replace(VALUES, rows=(m.build_data_row((b"(0,1)", b"x" * 30)),))
    outcome = {"calculator": calculator_error("22012"), "bad": long}.get(wrong, VALUES)
    scene = Scene(bench, cut, write(), DESCRIBED, outcome)
    if wrong == "source":
        scene.source.broken = error("40001")
    if wrong == "value":
        scene.source.rows[0] = (b"(0,1)", b"pgv1:nonsense")
    if wrong == "apply":
        scene.written.broken = error("23505")
    if block:
        scene.talk.say(m.build_query(b"BEGIN"))
    got = scene.query()
    state = {"source": "40001", "value": "XX001", "calculator": "22012", "bad": "22001", "apply": "23505"}[wrong]
    assert kinds(got) == "EZ"
    assert error_of(got).sqlstate == state
    assert got[-1:] == scene.server.status == (b"E" if block else b"I")
    assert scene.ended() == [("error", state, None)]
    assert scene.wrote() == (wrong == "apply")
    scene.alive()


def test_look_ups_by_computed_values_are_counted(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    bench.meter = meter = Counting()
    bench.judge.lookups = 3
    decision = write()
    plans = tuple(None if p is None else replace(p, metered=1) for p in decision.apply.plans)
    decision = replace(decision, apply=replace(decision.apply, plans=plans))
    scene = Scene(bench, cut, decision, DESCRIBED, VALUES, VALUES)
    assert scene.query() == TAG + READY
    got = scene.query()
    assert (kinds(got), error_of(got).sqlstate) == ("EZ", "53400")
    assert [n for n in meter.spent if n] == [2, 2]
    assert scene.ended() == [("ok", None, 0), ("error", "53400", None)]
    scene.alive()


def test_the_client_leaves_while_values_are_computed(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    scene = Scene(bench, cut, write(), DESCRIBED, VALUES)
    scene.calculator.outcomes.pop(0)
    scene.talk.say(m.build_query(b"SELECT 1"))
    scene.calculator.outcomes.insert(0, DESCRIBED)
    steps = scene.calculator.asked
    original = scene.calculator.run

    def waiting(question: Any, wake: Callable[[], None]) -> Any:
        scene.calculator.prompt = False
        return original(question, wake)

    scene.calculator.run = waiting  # type: ignore[method-assign]
    assert scene.query() == b""
    scene.talk.session.client_eof()
    assert steps[-1].cancelled
    assert scene.ended() == [("disconnected", None, None)]
    assert not scene.wrote()


def returned() -> Write:
    """The same with RETURNING lower(card)."""
    made = write(opened(CARD))
    local = Compute(
        (Leaf("pgveil_leaf_0", ("card",), made.apply),), None, "SELECT lower(card) FROM pgveil_leaf_0 AS customers",
        0, "WITH ", " ", OffsetMap(), 0, Action.SELECT, "shape", 1, positions=False,
    )  # fmt: skip
    return replace(made, returning=local)


def test_what_is_returned_is_computed(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    shown = m.build_row_description((m.Field(b"lower", 0, 0, 25, -1, -1, 0),))
    row = m.build_data_row((b"abc",))
    answer = Answer((), shown, (row,), b"SELECT 1")
    decision = returned()
    scene = Scene(bench, cut, decision, DESCRIBED, replace(DESCRIBED, description=shown), VALUES, answer)
    field = SEALED._replace(name=b"card")
    scene.server.results[decision.apply.text].fields = (field,)
    scene.written.fields = (field,)
    scene.written.rows = [(bench.seal(CARD, "ABC").encode(),)]
    assert scene.query() == shown + row + m.build_command_complete(b"SELECT 1") + READY
    asked = scene.calculator.asked[-1].question
    assert asked is not None
    assert [list(a) for a in asked.arrays] == [[b"ABC"]]
    assert scene.ended() == [("ok", None, 1)]
    scene.alive()


def test_a_prepared_write(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    described = Answer((23, 1009, 1009), LOCAL)
    scene = Scene(bench, cut, write(parameters=1), described, VALUES, VALUES)
    got = scene.talk.say(m.build_parse(b"s", scene.sql), m.build_describe(b"S", b"s"), m.SYNC)
    assert got == m.PARSE_COMPLETE + m.build_parameter_description((23,)) + m.NO_DATA + READY
    run = m.build_bind(b"", b"s", (0,), (b"7",), ()) + m.build_execute(b"") + m.SYNC
    for _ in range(2):
        assert scene.talk.say(run) == m.BIND_COMPLETE + TAG + READY
    source, apply = [b for b in scene.server.binds if b.portal != b"pgveil_probe"][-2:]
    assert source.values == (b"7",)
    assert apply.values[0] is None
    assert scene.ended() == [("ok", None, 0)] * 2
    scene.alive()


def test_an_error_in_a_batch_of_writes(bench: Bench, cut: Callable[[bytes], list[bytes]]) -> None:
    described = Answer((23, 1009, 1009), LOCAL)
    scene = Scene(bench, cut, write(COMPUTED, parameters=1), described, VALUES, calculator_error("22012"))
    field = m.Field(b"id", OID, 1, 23, 4, -1, 0)
    scene.server.results[APPLY].fields = (field,)
    scene.written.fields = (field,)
    scene.written.rows = [(b"1",)]
    scene.talk.say(m.build_parse(b"s", scene.sql), m.SYNC)
    run = m.build_bind(b"", b"s", (0,), (b"7",), ()) + m.build_execute(b"")
    got = scene.talk.say(run, run, m.SYNC)
    assert kinds(got) == "2DC2EZ"
    assert scene.ended() == [("ok", None, 1), ("error", "22012", None)]
    scene.alive()


@pytest.mark.parametrize(
    "constant",
    [
        *(
            "'pg_catalog.unnest($2)'",
            "E'\\'pg_catalog.unnest($2)'",
            "$x$pg_catalog.unnest($2)$x$",
            "/* pg_catalog.unnest($2) */ 'a'",
        ),
        *(
            "U&'pg_catalog.unnest($3)'",
            "'pg_catalog.unnest($22)'",
            'x."pg_catalog.unnest($2)"',
            "-- pg_catalog.unnest($2)\n 'a'",
        ),
        *("'\u8868pg_catalog.unnest($2)'", "'\u20ac'"),
    ],
)
@pytest.mark.parametrize("encoding", ["UTF8", "SJIS", "GB18030"])
def test_only_parameters_get_their_types(constant: str, encoding: str) -> None:
    """F1.7: what the client wrote stays, though it looks like what is put in."""
    if encoding == "SJIS" and "\u20ac" in constant:
        constant = "'\uff83'"
    settings = Settings(client_encoding=encoding)
    text = f"UPDATE t SET a = v.c1, b = {constant}, c = $1 FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS v (c0, c1)"
    typed = with_types(encode_sql(text, encoding), {2: "tid", 3: "varchar"}, settings)
    before, found, after = text.rpartition("pg_catalog.unnest($2), pg_catalog.unnest($3)")
    arrays = found.replace("$2", "$2::pg_catalog.text[]::tid[]").replace("$3", "$3::pg_catalog.text[]::varchar[]")
    assert typed == encode_sql(before + arrays + after, encoding)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            b"cannot execute SELECT FOR UPDATE in a read-only transaction",
            b"cannot execute UPDATE in a read-only transaction",
        ),
        (b"SELECT FOR NO KEY UPDATE ist nicht erlaubt", b"UPDATE ist nicht erlaubt"),
        (
            b"cannot execute nextval() in a read-only transaction",
            b"cannot execute nextval() in a read-only transaction",
        ),
    ],
)
def test_a_read_only_transaction_refuses_what_the_client_sent(
    bench: Bench, cut: Callable[[bytes], list[bytes]], said: bytes, told: bytes
) -> None:
    scene = Scene(bench, cut, write(), DESCRIBED, VALUES)
    scene.source.broken = error("25006", said.decode())
    answer = scene.query()
    assert error_of(answer).sqlstate == "25006"
    assert error_of(answer).get("M") == told
    assert scene.ended() == [("error", "25006", None)]
    scene.alive()
