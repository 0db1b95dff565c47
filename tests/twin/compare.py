"""One role's statements on two connections, and what differs between the answers."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from rules.lexer import lex
from rules.tokens import Kind, LexError
from tests.twin.answers import Answer, HangError, LostError, Mode, ask, error_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGconn

    from tests.e2e.world import Tap
    from tests.twin.answers import Described
    from tests.twin.canaries import Canaries
    from tests.twin.refusals import Refusals

# What may change rows or advance a sequence.
WRITING = re.compile(
    r"(?i)\b(insert|update|delete|merge|create|alter|drop|truncate|copy|into|call|do|refresh|nextval|setval|execute)\b"
)
# What outlives a transaction that is rolled back: then the next block gets new connections.
LASTING = re.compile(r"(?i)\b(set|prepare|hold|temp|temporary|listen|load|discard|reset|advisory)\b|set_config|nextval")
CIPHERTEXT = re.compile(rb"[~^][A-Za-z0-9+/_-]{40,}")
UNGROUPED = "42803"
CONSTRAINTS = frozenset({"23505", "23503", "23P01"})
REFUSING = frozenset({"42501", "0AP01", "0A000"})
WORDS_OF_ALL = ("sqlstate", "message", "detail")  # what an error of pgveil's own must share with PostgreSQL's
WORDS_OF_SERVER = ("severity", "hint", "position", "schema", "table", "column", "type", "constraint")
FEW = 3
FIRST_OWN = 1 << 32
TEXT, TEXT_ARRAY, VARCHAR, VARCHAR_ARRAY = 25, 1009, 1043, 1015
SEALED = "<sealed>"


class Verdict(StrEnum):
    """What became of a statement, from good to bad."""

    SAME = "same"
    REFUSED = "refused"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a block. `params` in text form make it travel by the extended protocol; `data` is for COPY FROM STDIN.

    `several`: the text is several statements in one Query message. `ordered`: see World.compare.
    """

    sql: str
    params: tuple[str | None, ...] = ()
    ordered: bool | None = None
    data: bytes = b""
    several: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one statement for one role. `reason`: why it was refused, as docs/errors.md names it; "fence" is the server's own
    permission check behind pgveil, "constraint" a constraint over real values that a masked role ran into, "view" that a masking view has no primary key. `message`: the refusal's words. `canaries`: protected values that a masked role received.
    """

    role: str
    mode: Mode
    sql: str
    verdict: Verdict
    reason: str = ""
    message: str = ""
    differences: tuple[str, ...] = ()
    canaries: tuple[str, ...] = ()
    failed: bool = False
    """Both ended with the same error."""


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome to report for a statement that was run in several modes."""
    rank = {Verdict.SAME: 0, Verdict.REFUSED: 1, Verdict.DIFFERENT: 2}
    return max(outcomes, key=lambda o: (bool(o.canaries), rank[o.verdict]))


@dataclass
class Side:
    """One way to ask: a login's connection, made when it is needed, and an owner's to the same database for what tests set up."""

    dsn: str
    admin_dsn: str
    notices: list[tuple[str, ...]] = field(default_factory=list)
    _connection: psycopg.Connection[Any] | None = None
    _admin: psycopg.Connection[Any] | None = None
    _sequences: list[tuple[str, int, bool]] | None = None

    @property
    def pg(self) -> PGconn:
        """The login's connection."""
        if self._connection is None:
            self._connection = psycopg.connect(self.dsn, autocommit=True)
            self._connection.pgconn.notice_handler = self._noticed
            self.notices.clear()
        return self._connection.pgconn

    @property
    def admin(self) -> psycopg.Connection[Any]:
        """The owner's connection, straight to the server."""
        if self._admin is None:
            self._admin = psycopg.connect(self.admin_dsn, autocommit=True)
        return self._admin

    def note_sequences(self) -> None:
        """Remember the sequences' state, once."""
        if self._sequences is None:
            rows = self.admin.execute(
                "select format('%%I.%%I', schemaname, sequencename), coalesce(last_value, start_value), last_value is not null"
                " from pg_sequences",
                [],
            ).fetchall()
            self._sequences = [(name, value, called) for name, value, called in rows]

    def reset_sequences(self) -> None:
        """Sequences stay advanced when a transaction is rolled back: as they were at first."""
        if self._sequences:
            calls = ", ".join("setval(%s, %s, %s)" for _ in self._sequences)
            self.admin.execute(f"select {calls}", [v for each in self._sequences for v in each])

    def renew(self) -> None:
        """The next statement gets a new connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close both."""
        self.renew()
        if self._admin is not None:
            self._admin.close()

    def binary(self, sql: str, params: Sequence[str | None]) -> list[bytes | None] | None:
        """The parameters in binary form, by the server's own conversion; None where it knows no types for them here."""
        pg = self.admin.pgconn
        prepared = pg.prepare(b"twin_types", sql.encode())
        if prepared.status != pq.ExecStatus.COMMAND_OK:
            return None
        described = pg.describe_prepared(b"twin_types")
        types = [described.param_type(i) for i in range(described.nparams)]
        pg.exec_(b"deallocate twin_types")
        found: list[bytes | None] = []
        for type_, value in zip(types, params, strict=False):
            text = None if value is None else value.encode()
            result = pg.exec_params(b"select $1", [text], param_types=[type_], result_format=1)
            if result.status != pq.ExecStatus.TUPLES_OK:
                return None
            found.append(result.get_value(0, 0))
        return found if len(found) == len(params) else None

    def _noticed(self, result: pq.abc.PGresult) -> None:
        fields = error_fields(result)
        self.notices.append(tuple(fields.get(name, "") for name in ("severity", "sqlstate", "message")))


@dataclass
class Run:
    """One role's pair of connections. `limited`: it sees masks. `copied`: the first OID that is not the same in all databases. `tables`: SELECTs by which contents are compared."""

    role: str
    login: str
    reference: Side
    sealed: Side
    tables: Sequence[str]
    limited: bool
    copied: int
    canaries: Canaries | None
    tap: Tap
    refusals: Refusals

    def close(self) -> None:
        """Close all connections."""
        self.reference.close()
        self.sealed.close()

    def block(self, steps: Sequence[Step], mode: Mode, *, autocommit: bool) -> list[Outcome]:
        """See World.compare_block."""
        own = "\n".join(s.sql + "\n" + "\n".join(p or "" for p in s.params) for s in steps).encode()
        own += b"".join(s.data for s in steps)
        writing = any(WRITING.search(s.sql) for s in steps)
        outcomes: list[Outcome] = []
        lasting = autocommit or any(LASTING.search(s.sql) for s in steps)
        try:
            self._open(autocommit)
            for index, step in enumerate(steps):
                outcomes.append(self._step(step, mode, own))
                if outcomes[-1].verdict is not Verdict.SAME:
                    if autocommit:
                        self._rest(steps[index + 1 :], mode)
                    break
            if outcomes[-1].verdict is Verdict.SAME and writing:
                outcomes[-1] = self._contents(outcomes[-1], own, every=mode is Mode.SIMPLE)
        except (HangError, LostError) as error:
            lasting = True
            words = f"{type(error).__name__}: {error}"
            step = steps[min(len(outcomes), len(steps) - 1)]
            outcomes.append(Outcome(self.role, mode, step.sql, Verdict.DIFFERENT, differences=(words,)))
        self._end(writing=writing, lasting=lasting)
        return outcomes

    def _open(self, autocommit: bool) -> None:
        for side in (self.reference, self.sealed):
            side.note_sequences()
            if not autocommit:
                ask(side.pg, "begin")
            side.notices.clear()

    def _end(self, *, writing: bool, lasting: bool) -> None:
        for side in (self.reference, self.sealed):
            if lasting:
                side.renew()
            elif side.pg.transaction_status != pq.TransactionStatus.IDLE:
                ask(side.pg, "rollback")
            if writing:
                side.reset_sequences()

    def _rest(self, steps: Sequence[Step], mode: Mode) -> None:
        """What cleans up after a block that ended early."""
        for step in steps:
            for side in (self.reference, self.sealed):
                self._ask(side, step, mode, None)

    def _step(self, step: Step, mode: Mode, own: bytes) -> Outcome:
        if step.several:
            mode = Mode.SIMPLE
        elif step.params and mode is Mode.SIMPLE:
            mode = Mode.EXTENDED
        binary = self.reference.binary(step.sql, step.params) if step.params and mode is Mode.PREPARED else None
        mark, start = self.refusals.mark(self.login), self._received()
        expected = self._ask(self.reference, step, mode, binary)
        got = self._ask(self.sealed, step, mode, binary)
        received = bytes(self.tap.sent.get(self.login, b"")[start:])
        canaries = self.canaries.seen(received, own) if self.canaries else ()
        refused = _refusal(expected, got, limited=self.limited)
        reason = "fence"
        if refused is not None and "routine" not in refused:
            reason = self.refusals.since(self.login, mark)
        elif refused is None and self.limited:
            reason, refused = "constraint", _constraint(expected, got)
            if refused is None:
                reason, refused = "view", _keyless(expected, got)
        if refused is not None:
            return Outcome(
                self.role, mode, step.sql, Verdict.REFUSED, reason, refused.get("message", ""), canaries=canaries
            )
        ordered = is_ordered(step.sql) if step.ordered is None else step.ordered
        found = differences(expected, got, ordered=ordered, limited=self.limited, copied=self.copied)
        found += self._states(limited=self.limited)
        if CIPHERTEXT.search(received):
            found.append("ciphertext was sent")
        verdict = Verdict.DIFFERENT if found else Verdict.SAME
        failed = any(a.error for a in expected)
        return Outcome(self.role, mode, step.sql, verdict, differences=tuple(found), canaries=canaries, failed=failed)

    def _ask(self, side: Side, step: Step, mode: Mode, binary: Sequence[bytes | None] | None) -> list[Answer]:
        params = [None if p is None else p.encode() for p in step.params]
        if binary is not None:
            return ask(side.pg, step.sql, binary, mode, data=step.data, formats=[1] * len(binary))
        return ask(side.pg, step.sql, params, mode, data=step.data)

    def _received(self) -> int:
        return len(self.tap.sent.get(self.login, b""))

    def _states(self, *, limited: bool) -> list[str]:
        found = []
        a, b = self.reference.pg.transaction_status, self.sealed.pg.transaction_status
        if a != b:
            found.append(f"transaction status {pq.TransactionStatus(b).name} instead of {pq.TransactionStatus(a).name}")
        if self.reference.notices != self.sealed.notices and not limited:
            found.append(f"notices {self.sealed.notices} instead of {self.reference.notices}")
        self.reference.notices.clear()
        self.sealed.notices.clear()
        return found

    def _contents(self, outcome: Outcome, own: bytes, *, every: bool) -> Outcome:
        """What the tables hold after writing: a SELECT of each by the role, both ways; without `every`, of those that are named."""
        start, found = self._received(), []
        if self.reference.pg.transaction_status == pq.TransactionStatus.INERROR:
            return outcome
        for side in (self.reference, self.sealed):
            ask(side.pg, "savepoint twin_contents")
        named = [sql for sql in self.tables if sql.rpartition(" ")[2].strip('"').encode() in own]
        for sql in self.tables if every else named:
            expected, got = ask(self.reference.pg, sql), ask(self.sealed.pg, sql)
            failed = next((a for a in (*got, *expected) if a.error), None)
            if failed is None:
                a, b = Counter(expected[0].rows), Counter(got[0].rows)
                if a != b:
                    found.append(f"contents: {sql}: {_rows_differ(a, b)}")
                continue
            # The block itself has taken the table away, or the right to read it; or the role may not read it at all.
            if _refusal(expected, got, limited=self.limited) is None:
                same = [a.sqlstate for a in expected] == [a.sqlstate for a in got]
                found += [] if same else [f"{sql}: {failed.error}"]
            for side in (self.reference, self.sealed):
                ask(side.pg, "rollback to twin_contents")
        received = bytes(self.tap.sent.get(self.login, b"")[start:])
        canaries = outcome.canaries + (self.canaries.seen(received, own) if self.canaries else ())
        if not found and not canaries:
            return outcome
        verdict = Verdict.DIFFERENT if found else outcome.verdict
        return Outcome(self.role, outcome.mode, outcome.sql, verdict, differences=tuple(found), canaries=canaries)


def is_ordered(sql: str) -> bool:
    """Whether an ORDER BY stands outside all parentheses of a query: rows then come in an order, if it is a full one."""
    try:
        tokens = lex(sql).tokens
    except LexError:
        return False
    if not tokens or tokens[0].value not in {"select", "with", "table", "values", "("}:
        return False
    depth = 0
    for before, token in itertools.pairwise(tokens):
        if token.kind is Kind.PUNCT and token.value in "([":
            depth += 1
        elif token.kind is Kind.PUNCT and token.value in ")]":
            depth -= 1
        elif depth == 0 and token.value == "by" and before.value == "order":
            return True
    return False


def _refusal(expected: Sequence[Answer], got: Sequence[Answer], *, limited: bool) -> dict[str, str] | None:
    """The error's fields, where pgveil refused (or, for a masked role, the server's own permission check did)."""
    for index, answer in enumerate(got):
        wanted = expected[index].error if index < len(expected) else {}
        if not answer.error or answer.sqlstate not in REFUSING:
            continue
        if all(wanted.get(name) == answer.error.get(name) for name in WORDS_OF_ALL):
            continue
        own = "routine" not in answer.error
        if own or (limited and answer.sqlstate == "42501"):
            return answer.error
    return None


def _keyless(expected: Sequence[Answer], got: Sequence[Answer]) -> dict[str, str] | None:
    """The error's fields, where columns depended on a primary key, which a masking view doesn't have."""
    pairs = zip(expected, got, strict=False)
    return next((b.error for a, b in pairs if not a.error and b.sqlstate == UNGROUPED), None)


def _constraint(expected: Sequence[Answer], got: Sequence[Answer]) -> dict[str, str] | None:
    """The error's fields where a constraint held against the real values, which masks could not: they are not unique."""
    return next(
        (b.error for a, b in zip(expected, got, strict=False) if not a.error and b.sqlstate in CONSTRAINTS), None
    )


def differences(
    expected: Sequence[Answer],
    got: Sequence[Answer],
    *,
    ordered: bool = False,
    limited: bool = False,
    copied: int = FIRST_OWN,
) -> list[str]:
    """What differs between two answers to one statement, in words. `limited`: for a role that sees masks.

    OIDs from `copied` on are those of objects that were made in each database by itself.
    """
    if expected and got and expected[-1].error and got[-1].error:
        # The server finds some errors in constants when it runs a statement, pgveil when it seals them.
        expected, got = expected[-1:], got[-1:]
    if len(expected) != len(got):
        words = [a.error or a.tag for a in got]
        return [
            f"{len(got)} answers instead of {len(expected)}: {words} instead of {[a.error or a.tag for a in expected]}"
        ]
    found: list[str] = []
    for a, b in zip(expected, got, strict=True):
        found += _one(a, b, ordered=ordered, limited=limited, copied=copied)
    return found


def _one(a: Answer, b: Answer, *, ordered: bool, limited: bool, copied: int) -> list[str]:
    if a.error or b.error:
        return _errors(a, b, limited=limited)
    if (a.fields is None) != (b.fields is None) or a.copied != b.copied:
        return [f"{b.tag or b.fields} instead of {a.tag or a.fields}"]
    found = _shapes(a, b, limited=limited, copied=copied)
    if _as_text(a.params) != _as_text(b.params):
        found.append(f"parameter types {b.params} instead of {a.params}")
    if a.fields is not None and [f.name for f in a.fields] == ["QUERY PLAN"]:
        # Costs and names differ; that no value is in a plan is for the canaries.
        return found if bool(a.rows) == bool(b.rows) else [*found, "no plan"]
    if a.tag != b.tag:
        found.append(f"tag {b.tag} instead of {a.tag}")
    if Counter(a.rows) != Counter(b.rows):
        found.append(f"rows: {_rows_differ(Counter(a.rows), Counter(b.rows))}")
    elif ordered and a.rows != b.rows:
        at = next(i for i, (x, y) in enumerate(zip(a.rows, b.rows, strict=True)) if x != y)
        found.append(f"order: row {at + 1} is {b.rows[at]} instead of {a.rows[at]}")
    return found


def _shapes(a: Answer, b: Answer, *, limited: bool, copied: int) -> list[str]:
    if a.fields is None or b.fields is None:
        return []
    if [f.name for f in a.fields] != [f.name for f in b.fields]:
        return [f"columns {[f.name for f in b.fields]} instead of {[f.name for f in a.fields]}"]
    found = []
    for x, y in zip(a.fields, b.fields, strict=True):
        found += [
            f"{name} of {x.name}: {getattr(y, name)} instead of {getattr(x, name)}"
            for name in ("type", "size", "typmod", "format")
            if getattr(x, name) != getattr(y, name)
            # The row type of a masking view is another one than its table's.
            and not (name == "type" and (y.type if limited else min(x.type, y.type)) >= copied)
        ]
        if not limited and not _same_source(x, y, copied):
            found.append(f"table of {x.name}: {(y.table, y.attnum)} instead of {(x.table, x.attnum)}")
    return found


def _as_text(params: tuple[int, ...] | None) -> list[int]:
    """Parameter types, varchar as text: which of the two the server infers depends on how many stand in a list."""
    return [{VARCHAR: TEXT, VARCHAR_ARRAY: TEXT_ARRAY}.get(p, p) for p in params or ()]


def _same_source(x: Described, y: Described, copied: int) -> bool:
    """Whether the same table column stands behind a result column; a computed result may have none. Views of masks are others."""
    if (y.table, y.attnum) == (0, 0):
        return True
    return x.attnum == y.attnum and (x.table == y.table or min(x.table, y.table) >= copied)


def _errors(a: Answer, b: Answer, *, limited: bool) -> list[str]:
    found = []
    names = WORDS_OF_ALL if "routine" not in b.error else (*WORDS_OF_ALL, *WORDS_OF_SERVER)
    for name in names:
        if _words_agree(name, a.error.get(name), b.error.get(name), own="routine" not in b.error):
            continue
        wanted, given = a.error.get(name), b.error.get(name)
        if name == "position" and given is None:
            continue  # what pgveil computes in parts is no text of the client's
        if limited and name in {"detail", "schema", "table"}:
            continue  # PostgreSQL leaves out what the login may not read; a masking view has its own name
        found.append(f"{name} {given!r} instead of {wanted!r}")
    if found and not (a.error and b.error):
        return [f"{b.error or b.tag} instead of {a.error or a.tag}"]
    return found


def _words_agree(name: str, wanted: str | None, given: str | None, *, own: bool) -> bool:
    """Equal but for values, which pgveil writes into no error: "<sealed>" stands for them, or the message ends before them."""
    if wanted == given:
        return True
    if given is not None and wanted is not None and SEALED in given:
        return re.fullmatch(".*".join(map(re.escape, given.split(SEALED))), wanted, re.DOTALL) is not None
    if own and name == "message" and given is not None and wanted is not None:
        return wanted.startswith(f'{given}: "')
    return own and name == "detail" and given is None


def _rows_differ(a: Counter[Any], b: Counter[Any]) -> str:
    return f"{list((b - a).elements())[:FEW]} instead of {list((a - b).elements())[:FEW]}"
