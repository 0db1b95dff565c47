"""Between the moment when the database begins to make something of protected columns and the next `pgveil apply` (F2.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.ddl.stage import BOSS, CANARIES, INSIDER, MASKER, NOBODY, OWNER, SEER, Line, Play, Stage, apply, make_stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

REMEDY = "Run: pgveil apply --reload."
GENERATED = (
    "ADD COLUMN x text GENERATED ALWAYS AS (upper(phone)) STORED",
    "ADD COLUMN x tsvector GENERATED ALWAYS AS (to_tsvector('simple'::regconfig, phone)) STORED",
    "ADD COLUMN x text GENERATED ALWAYS AS (note || phone) STORED, ADD COLUMN y int",
    "ADD COLUMN x int GENERATED ALWAYS AS (length(phone)) STORED NOT NULL",
)


@pytest.fixture(scope="module")
def stage(pg: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return make_stage(pg, tmp_path_factory.mktemp("derived"))


@pytest.fixture
def play(stage: Stage) -> Iterator[Play]:
    with stage.play() as made:
        yield made


def said(line: Line, sql: str) -> str:
    """The rows as text, or the error's SQLSTATE with its words."""
    found = []
    for kind, body in line.query(sql):
        if kind == ord("E"):
            fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
            return f"{fields[b'C']} {fields[b'M']} {fields.get(b'H', '')}"
        if kind == ord("D"):
            found.append(body[2:].decode(errors="replace"))
    return "|".join(found)


def leaked(*lines: Line) -> list[str]:
    """The protected values, in whatever case, that any of these was sent."""
    heard = b"".join(bytes(line.heard) for line in lines).lower()
    return [canary for canary in CANARIES if canary.lower().encode() in heard]


@pytest.mark.parametrize("change", GENERATED)
@pytest.mark.parametrize("by", ["directly", "owner"])
def test_a_generated_column_is_shown_to_nobody_before_apply(play: Play, change: str, by: str) -> None:
    """Who sees masks is told what is missing and what to do, also a superuser; everything else goes on, and who sees all sees it."""
    lines = {who: play.line(who) for who in (SEER, OWNER, INSIDER, MASKER, NOBODY, BOSS)}
    sql = f"ALTER TABLE customers {change}"
    limited = [lines[who] for who in (MASKER, BOSS, NOBODY)]
    if by == "directly":
        assert play.directly(sql)
        # Before the catalog is read again the statement runs on the masking view, which has no such column.
        assert "x" not in said(limited[0], "SELECT * FROM customers").split("Zk")[-1]
        assert said(limited[0], "SELECT x FROM customers")[:5] in {"55000", "42703", "42501"}
        play.poll()
    else:
        assert said(lines[OWNER], sql) == ""
    for line in limited:
        for query in (
            "SELECT * FROM customers",
            "SELECT x FROM customers",
            "SELECT count(*) FROM customers WHERE x IS NULL",
        ):
            told = said(line, query)
            assert told.startswith(('55000 column "public.customers.x" is made of protected columns', "42501")), (
                line.login,
                told,
            )
            assert REMEDY in told or line.login == NOBODY, told
        assert "customersnote1" in said(line, "SELECT id, note FROM customers WHERE id = 1")
    assert leaked(*limited) == []
    for who in (SEER, OWNER, INSIDER):
        assert "Qphonecustomers1Zk" in said(lines[who], "SELECT * FROM customers WHERE id = 1"), who
        assert said(lines[who], "SELECT x IS NOT NULL FROM customers WHERE id = 1")[-1] == "t", who


def test_past_pgveil_and_after_apply(play: Play, tmp_path: Path) -> None:
    """The server itself gives it to nobody who has privileges on columns; `apply` makes it NULL for them."""
    assert play.directly(f"ALTER TABLE customers {GENERATED[0]}")
    dsn = play.stage.pg.dsn(play.database, MASKER)
    with psycopg.connect(dsn, autocommit=True) as past:
        for sql in ("SELECT x FROM customers", "SELECT * FROM customers", "COPY (SELECT x FROM customers) TO STDOUT"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                past.execute(sql)
    asyncio.run(apply(play.stage.pg.dsn(play.database), play.stage.home, play.stage.ring))
    play.poll()
    masker = play.line(MASKER)
    assert "customersnote1" in said(masker, "SELECT * FROM customers WHERE id = 1")
    assert said(masker, "SELECT x IS NULL FROM customers WHERE id = 1")[-1] == "t"
    assert leaked(masker) == []
    assert "QPHONECUSTOMERS1ZK" in said(play.line(SEER), "SELECT x FROM customers WHERE id = 1")
    with psycopg.connect(dsn, autocommit=True) as past, pytest.raises(psycopg.errors.InsufficientPrivilege):
        past.execute("SELECT x FROM customers")


@pytest.mark.parametrize("by", ["directly", "owner"])
def test_a_materialized_view_is_shown_to_who_sees_what_it_copies(play: Play, by: str) -> None:
    """Also one of another one, also with an index on it, however PUBLIC it is; refreshed by who sees all."""
    lines = {who: play.line(who) for who in (SEER, OWNER, MASKER, NOBODY, BOSS)}
    limited = [lines[who] for who in (MASKER, NOBODY, BOSS)]
    made = (
        "CREATE MATERIALIZED VIEW copied AS SELECT id, phone, upper(phone) AS loud, note FROM customers",
        "CREATE MATERIALIZED VIEW again AS SELECT id, loud FROM copied",
        "CREATE VIEW over AS SELECT loud FROM again",
        "CREATE INDEX ON copied (lower(phone))",
        "GRANT SELECT ON copied, again, over TO PUBLIC",
    )
    if by == "owner":
        assert [said(lines[OWNER], sql) for sql in made] == [""] * len(made)
    else:
        assert play.directly("SET ROLE owner", *made)
        play.poll()
    for refresh in ("copied", "again"):
        assert said(lines[OWNER], f"REFRESH MATERIALIZED VIEW {refresh}") == ""
    for line in limited:
        for sql in (
            "SELECT phone FROM copied",
            "SELECT * FROM again",
            "SELECT id, note FROM copied",
            "SELECT loud FROM over",
            "SELECT count(*) FROM copied WHERE phone LIKE 'Q%'",
            "SELECT c FROM copied c",
            "COPY copied TO STDOUT",
            "COPY (SELECT loud FROM again) TO STDOUT",
            "EXPLAIN (ANALYZE) SELECT * FROM copied WHERE loud > 'A'",
            "SELECT max(c.loud) FROM customers k JOIN copied c USING (id)",
            "REFRESH MATERIALIZED VIEW copied",
            "CREATE TEMP TABLE t AS TABLE copied",
        ):
            assert said(line, sql)[:5] in {"0AP01", "42501", "42809"}, (line.login, sql)
    assert leaked(*limited) == []
    assert "QPHONECUSTOMERS1ZK" in said(lines[SEER], "SELECT loud FROM again WHERE id = 1")
    assert "Qphonecustomers1Zk" in said(lines[SEER], "SELECT phone FROM copied WHERE id = 1")
