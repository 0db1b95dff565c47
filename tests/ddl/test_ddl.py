"""The matrix: kinds of change x moments x by whom x whose statements. No stale plan releases anything, and what is written is sealed."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
import pytest

from keys.sealed import SEALED_IN_TEXT, SealedError, open_batch
from proxy.wire import messages as m
from rules.model import ColumnName
from tests.ddl.changes import AFTERWARDS, CHANGES, Change
from tests.ddl.moments import MOMENTS, InFlight, Statement, ask
from tests.ddl.stage import BOSS, CANARIES, INSIDER, MASKER, NOBODY, OWNER, SEER, Line, Play, Stage, apply, make_stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keys.sealed import DataKey
    from lifecycle.demo.postgres import Postgres

SEALED = re.compile(SEALED_IN_TEXT.encode())
WRITTEN = re.compile(r"W(\d+)(?:pan|phone|note)")
_numbers = itertools.count(1000)


def fresh() -> tuple[str, str, str, str]:
    """A row that nobody has written yet."""
    n = next(_numbers)
    return str(n), f"W{n}pan", f"W{n}phone", f"W{n}note"


def again() -> tuple[str, str, str, str]:
    """The first row with other values."""
    return ("1", *fresh()[1:])


def line_of_copy() -> str:
    """The same as COPY data."""
    return "\t".join(fresh()) + "\n"


READS = tuple(
    Statement(sql)
    for sql in (
        "SELECT pan, phone, note FROM customers",
        "SELECT * FROM customers",
        "SELECT pan, phone, note FROM plain",
        "SELECT * FROM plain",
        "SELECT p, upper(phone), reverse(pan) FROM plain p",
        "SELECT pan, phone FROM shown",
        "SELECT told(1)",
        "SELECT pan, phone, note FROM loose",
    )
)
OTHERS = tuple(
    Statement(sql)
    for sql in (
        "SELECT note FROM customers",
        "SELECT pan, phone FROM accounts",
        "SELECT pan, phone FROM twins",
        "SELECT pan, phone FROM parts",
        "SELECT pan, phone FROM parts_1",
        "COPY customers TO STDOUT",
        "COPY plain TO STDOUT",
        "COPY (SELECT pan, phone FROM plain) TO STDOUT",
    )
)
_INSERT = "INSERT INTO {} (id, pan, phone, note) VALUES ($1, $2, $3, $4)"
WRITES = (
    Statement(_INSERT.format("customers"), fresh),
    Statement(_INSERT.format("customers") + " RETURNING pan", fresh),
    Statement(_INSERT.format("plain"), fresh),
    Statement("UPDATE customers SET pan = $2, phone = $3, note = $4 WHERE id = $1", again),
    Statement("COPY customers (id, pan, phone, note) FROM STDIN", copied=line_of_copy),
    Statement("COPY customers FROM STDIN", copied=line_of_copy),
    Statement("COPY plain (id, pan, phone, note) FROM STDIN", copied=line_of_copy),
)
_SOME = (READS[1], READS[2], READS[5], READS[6], OTHERS[0], OTHERS[6])
GROUPS = {
    "some": (_SOME, (MASKER, BOSS, SEER)),
    "reads": (READS, (MASKER, NOBODY, BOSS, SEER)),
    "other reads": (OTHERS, (MASKER, NOBODY, BOSS, SEER)),
    "writes": (WRITES, (SEER, MASKER)),
}
HOWS = ("unpolled", "polled", "through", "other worker", "same")
# Where what no description shows is looked at in each run.
_BLIND = ("between two Executes", "simple queries back to back", "query in flight, 1", "pipeline in flight, 1")
# Where the server's own locks keep others from changing a table: a portal is open.
HOLDING = frozenset({"between Bind and Execute", "portal suspended", "declared in SQL"})


@dataclass
class Case:
    """One play: a change at a moment, by somebody, among the statements of a group. `found`: what went wrong."""

    play: Play
    kind: str
    moment: str
    how: str
    lines: dict[tuple[str, str], tuple[Line, Statement]] = field(default_factory=dict)
    prevented: bool = False
    found: list[str] = field(default_factory=list)
    first: int = 0  # the first row that is written after the change

    @property
    def change(self) -> Change:
        return CHANGES[self.kind]

    def run(self, group: str) -> None:
        """Before, change, after, and the search."""
        statements, logins = GROUPS[group]
        if self.kind == "no longer a member of a role that sees":
            logins = (INSIDER,)
        moment = MOMENTS[self.moment]
        asked = [(login, statement) for login in logins for statement in statements]
        if group == "some":
            asked += [(SEER, statement) for statement in WRITES[:4]]
        for login, statement in asked:
            line = self.play.line(login)
            self.lines[login, statement.text] = line, statement
            moment.before(line, statement)
        self.first = next(_numbers)
        marks = {key: len(line.heard) for key, (line, _) in self.lines.items()}
        self._look(dict.fromkeys(marks, 0), before=True)
        if isinstance(moment, InFlight):
            for line, statement in self.lines.values():
                moment.begin(line, statement)
            self._change()
            for line, statement in self.lines.values():
                moment.end(line, statement)
        else:
            self._change()
            for line, statement in self.lines.values():
                moment.after(line, statement)
        self._stored()
        self._look(marks)

    def _change(self) -> None:
        change = self.change
        if change.own or self.how == "same":
            for line, _ in self.lines.values():
                self._by_itself(line)
            return
        if self.how in {"through", "other worker"}:
            line = self.play.line(OWNER, elsewhere=self.how == "other worker")
            line.query("SET lock_timeout = '40ms'")
            line.query("BEGIN")
            answers = [line.query(sql) for sql in change.statements]
            line.query("COMMIT")
            self.prevented = any(kind == m.Back.ERROR for answer in answers for kind, _ in answer)
        else:
            self.prevented = not self.play.directly(*change.statements)
        if change.applies and not self.prevented:
            asyncio.run(apply(self.play.stage.pg.dsn(self.play.database), self.play.stage.home, self.play.stage.ring))
        if self.how == "polled":
            self.play.poll()

    def _by_itself(self, line: Line) -> None:
        """The line's own login does it, on the same connection, in a transaction block or not."""
        block = line.session._state.pipeline.status == b"T"
        line.query("SAVEPOINT own" if block else "BEGIN")
        line.query("SET LOCAL lock_timeout = '40ms'")
        answers = [line.query(sql) for sql in self.change.statements]
        failed = any(kind == m.Back.ERROR for answer in answers for kind, _ in answer)
        if failed:
            line.query("ROLLBACK TO own" if block else "ROLLBACK")
        elif not block:
            line.query("COMMIT")

    # -- the search

    def _look(self, marks: dict[tuple[str, str], int], *, before: bool = False) -> None:
        for (login, text), (line, _) in self.lines.items():
            heard = bytes(line.heard[marks[login, text] :])
            got = self._got(login, heard) if login != INSIDER or not before else set()
            if got and not before:
                got -= self._allowed(login, text)
            self.found += [f"{login} got {what} by {text}" for what in sorted(got)]

    @staticmethod
    def _got(login: str, heard: bytes) -> set[str]:
        """What a login should not have been sent, as far as the rules of before say."""
        if login == SEER:
            return {"a sealed value"} if SEALED.search(heard) else set()
        return {c for c in CANARIES if _disguised(c, heard)}

    def _allowed(self, login: str, text: str) -> set[str]:
        """What a session gets of the statement that begins now, and knows all: the rules are about names, and names have changed.

        Only a change that everybody sees is looked at so; what a session has done to itself it alone sees.
        """
        if self.change.own:
            return set()
        self.play.poll()
        line = self.play.line(login)
        _, statement = self.lines[login, text]
        ask(line, statement, statement.simple())
        return self._got(login, bytes(line.heard))

    def _stored(self) -> None:
        """Where the values that were written are: sealed where the column is, plain where it is not, and to be opened again."""
        with psycopg.connect(self.play.stage.pg.dsn(self.play.database)) as admin:
            columns = admin.execute(
                "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'elsewhere') AND c.relkind = 'r'"
                " AND a.attnum > 1 AND NOT a.attisdropped"
            ).fetchall()
            for schema, table, column, type_ in columns:
                query = f'SELECT "{column}"::text FROM "{schema}"."{table}" WHERE "{column}" IS NOT NULL'
                values = [str(row[0]) for row in admin.execute(query.encode())]
                self.found += {
                    trouble
                    for value in values
                    if (trouble := self._trouble(ColumnName(schema, table, column), value, type_)) is not None
                }

    def _trouble(self, name: ColumnName, value: str, type_: str) -> str | None:
        """What is wrong with a stored value."""
        sealed = SEALED.fullmatch(value.encode()) is not None
        if not sealed:
            return f"plain value in {name} ({type_})" if type_ == "pgveil.sealed" else None
        ring, column = self.play.stage.ring, self.play.gate.column(name)
        domains = sorted(d for d in ring.domains() if not d.startswith("pgveil"))
        opened = {d: plain for d in domains if (plain := _open(value, ring.keys(d))) is not None}
        if not opened:
            return f"{name} holds a value that does not open"
        written = WRITTEN.fullmatch(next(iter(opened.values())))
        if written is None or int(written[1]) < self.first:
            return None  # it was there before the change
        if type_ != "pgveil.sealed":
            return f"sealed value written to {name} ({type_})"
        if column is None or column.domain not in opened:
            return f"{name} holds a value of another column's domain, {list(opened)}"
        return None


def _open(value: str, keys: Mapping[int, DataKey]) -> str | None:
    try:
        plain = open_batch(keys, [value.encode()])[0]
        return None if plain is None else plain.decode()
    except SealedError:
        return None


def _disguised(value: str, heard: bytes) -> bool:
    raw = value.encode()
    return any(form in heard for form in (raw, raw.upper(), raw[::-1], raw.hex().encode()))


def play(stage: Stage, kind: str, moment: str, how: str, group: str) -> Case:
    """One case, from its own copy of the database to the roles as they were."""
    try:
        with stage.play() as made:
            case = Case(made, kind, moment, how)
            case.run(group)
    finally:
        with psycopg.connect(stage.pg.dsn(), autocommit=True) as admin:
            for sql in AFTERWARDS:
                admin.execute(sql.encode())
    return case


def wrong(case: Case) -> list[str]:
    """What a case found, but for what docs/leaks.md says of the time before the catalog has been read."""
    remains = CHANGES[case.kind].remains
    blind = case.how in {"unpolled", "other worker"} or isinstance(MOMENTS[case.moment], InFlight)
    return [found for found in case.found if not (blind and remains and re.search(remains, found))]


def _some() -> list[tuple[str, str, str]]:
    """Each kind at a moment, what is done to tables at two, in turns; `test_every_kind_at_every_moment` runs them all."""
    moments = itertools.cycle(MOMENTS)
    hows = itertools.cycle(("unpolled", "other worker", "polled", "unpolled", "through", "unpolled", "same"))
    tables = {kind for kind, change in CHANGES.items() if change.statements[0].startswith("ALTER TABLE")}
    unshown = [kind for kind in CHANGES if kind.startswith(("view redefined", "function"))]
    blind = [
        (kind, moment, how)
        for kind, how in itertools.product(unshown, ("unpolled", "other worker"))
        for moment in _BLIND
    ]
    return [(kind, next(moments), next(hows)) for kind in CHANGES for _ in range(2 if kind in tables else 1)] + blind


@pytest.fixture(scope="module")
def stage(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """On PostgreSQL 16."""
    return make_stage(pg, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def every_stage(any_pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """On each version."""
    return make_stage(any_pg, tmp_path_factory.mktemp("stage"))


@pytest.mark.parametrize(("kind", "moment", "how"), _some())
def test_no_stale_plan(stage: Stage, kind: str, moment: str, how: str) -> None:
    assert not wrong(play(stage, kind, moment, how, "some"))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", CHANGES)
def test_every_kind_at_every_moment(every_stage: Stage, kind: str, moment: str) -> None:
    """By everybody, with all statements, in all ways on PostgreSQL 16 (an hour or two); on the others what is read, by who does not know yet."""
    whole = every_stage.pg.version_name == "16"
    hows, groups = (HOWS, ("reads", "other reads", "writes")) if whole else (("unpolled", "other worker"), ("reads",))
    cases = [play(every_stage, kind, moment, how, group) for how in hows for group in groups]
    assert not [found for case in cases for found in wrong(case)]
    assert not all(case.prevented for case in cases) or moment in HOLDING, "the change has happened"
