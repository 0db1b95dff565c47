"""What the database does to a sealed text between a client and the table is told to the client, and stored nowhere (F1.1, F1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

BODIES = {
    "lower": "new.pan := lower(new.pan);",
    "cut": "new.pan := left(new.pan, 19);",
    "row": "new := jsonb_populate_record(new, jsonb_build_object('pan', new.pan || ' '));",
}


@pytest.fixture
def past(world: World) -> Iterator[psycopg.Connection]:
    """The superuser past pgveil; the trigger that a test makes goes with it."""
    with psycopg.connect(world.dsn("postgres", direct=True), autocommit=True) as connection:
        yield connection
        connection.execute("DROP TRIGGER IF EXISTS rewrites ON cards; DROP FUNCTION IF EXISTS rewrites()")


@pytest.mark.parametrize("body", BODIES)
def test_a_trigger_that_rewrites_is_told_of(world: World, past: psycopg.Connection, body: str) -> None:
    before = past.execute("SELECT id, pan FROM cards ORDER BY id").fetchall()
    past.execute(
        f"CREATE FUNCTION rewrites() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {BODIES[body]} RETURN new; END $$"
    )
    past.execute("CREATE TRIGGER rewrites BEFORE UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION rewrites()")
    with psycopg.connect(world.dsn("teller")) as teller:
        first = before[0][0]
        for sql in (
            "UPDATE cards SET id = id WHERE id = %s",
            "UPDATE cards SET pan = '6222021234567890123' WHERE id = %s",
        ):
            with pytest.raises(psycopg.errors.CheckViolation) as caught:
                teller.execute(sql, (first,))
            assert caught.value.diag.message_primary == "a value for a sealed column is not as pgveil has sealed it"
            assert "trigger" in str(caught.value.diag.message_detail)
            assert "pgveil apply --plan" in str(caught.value.diag.message_hint)
            assert str(before[0][1])[:20] not in str(caught.value)
            teller.rollback()
    assert past.execute("SELECT id, pan FROM cards ORDER BY id").fetchall() == before


def test_the_guard_stands_past_pgveil(past: psycopg.Connection) -> None:
    """For whoever is no superuser and may not drop it; tests/lifecycle/test_apply_guards.py has the owner."""
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        past.execute("ALTER TABLE cards ALTER COLUMN pan TYPE varchar(19) USING pan::varchar(19)")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        past.execute("ALTER TABLE cards DROP COLUMN pan")
