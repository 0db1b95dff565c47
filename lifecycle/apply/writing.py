"""Columns that somebody may change without seeing them clear: triggers that let only values pass that pgveil vouches for (ADR 0027).

The login keeps its privilege on such a column. Its values come as look-up tickets do, through `given`, which notes each for the rest of the
transaction; the trigger finds the new value among them, or refuses it. A mask of the value that is there is taken for that value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keys.lookup import TICKETS_REMEMBERED
from keys.mask import make_mask
from keys.typespec import parse_type
from lifecycle.apply.ground import digest
from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.lookups import SETTINGS, value_type
from lifecycle.apply.model import OWNER, SCHEMA, SEALED_TYPE, Change, Kind, MakeGate, Statements, options
from rules.logical import has_equality, type_of_oid
from rules.lookups import GIVEN, WRITING_SCHEMA, gate_name
from rules.model import Protection, TableName, Verdict, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People
    from rules.catalog import CatalogColumn, Relation
    from rules.model import Column, ColumnName, Rules
    from rules.protect import ProtectionMap

_PRIVATE, _SCHEMA = quote_ident(f"{SCHEMA}_private"), quote_ident(WRITING_SCHEMA)
_SETTING = "pgveil.given"
_REFUSED = "a value for this column must come through pgveil"
# Before triggers of others, which PostgreSQL fires in the order of their names: they may do with a value what they like.
_TRIGGER = "!pgveil "

# Behind those: what they leave of a row is what is inserted where it moves to another partition.
_MOVING = "!pgveil~ "
_MOVED = "pgveil.moved"

# Nothing is stored. Whether two sealed texts are equal everybody sees who may read them.
_SAME = """    IF TG_OP = 'UPDATE' AND {new} IS NOT DISTINCT FROM {old} THEN
        RETURN NEW;
    END IF;
"""
# A row that an UPDATE moves is a new one to its partition: the UPDATE vouches for it, whole as it is.
_ROW = f"""(SELECT pg_catalog.encode({_PRIVATE}.hmac_sha256(k.inner_pad, k.outer_pad,
                pg_catalog.convert_to('moved ' || pg_catalog.to_jsonb(NEW)::pg_catalog.text, 'UTF8')), 'hex') FROM {_PRIVATE}.lookup_key k)"""  # noqa: S608 - quoted names
_MOVES = f"""    IF TG_ARGV[0] = 'moves' THEN
        PERFORM pg_catalog.set_config('{_MOVED}', {_ROW}, true);
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' AND pg_catalog.current_setting('{_MOVED}', true) = {_ROW} THEN
        RETURN NEW;
    END IF;
"""

GIVEN_SQL = f"""CREATE FUNCTION {_SCHEMA}.{GIVEN}(ticket pg_catalog.text, name pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    value text := {_PRIVATE}.lookup_value(ticket, name);
BEGIN
    IF value IS NOT NULL THEN
        PERFORM set_config('{_SETTING}', left(ticket || ' ' || coalesce(current_setting('{_SETTING}', true), ''), {TICKETS_REMEMBERED}), true);
    END IF;
    RETURN value;
END $$"""


def plan_writing(draft: Draft, state: State, rules: Rules, people: People, protection: ProtectionMap) -> list[Change]:
    """Plan the triggers. Gives back what must be done first: those that have to go."""
    first: list[Change] = []
    needed: dict[TableName, MakeGate] = {}
    for relation in sorted(state.catalog.relations.values(), key=lambda r: r.name):
        # Partitions have their parent's triggers.
        if relation.kind not in {"r", "p"} or any(
            (parent := state.catalog.relations.get(oid)) is not None and parent.kind == "p" for oid in relation.parents
        ):
            continue
        for own, name in sorted(protection.columns_of(relation).items()):
            rule, column = rules.column(name), relation.column(own)
            logins = _logins(state, people, name)
            if rule is not None and column is not None and logins:
                made = _gate(relation, column, rule, logins, protection)
                needed[TableName(WRITING_SCHEMA, made.name)] = made
    if needed and not state.writing_schema:
        grant = f"GRANT USAGE ON SCHEMA {_SCHEMA} TO PUBLIC"
        sql = f"CREATE SCHEMA {_SCHEMA} AUTHORIZATION {quote_ident(OWNER)}"
        draft.add(Kind.WRITE, WRITING_SCHEMA, "create schema", sql, grant)
    signature = f"{_SCHEMA}.{GIVEN}(pg_catalog.text, pg_catalog.text)"
    given = TableName(WRITING_SCHEMA, GIVEN)
    if needed:
        grant = f"GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC"
        needed[given] = MakeGate(GIVEN, signature, GIVEN_SQL, (grant,), digest(GIVEN_SQL))
    for there_name, found in sorted(state.gates.items()):
        due = needed.get(there_name)
        if due is None or found.digest != due.digest or found.owner != OWNER:
            # With its triggers, which nobody but apply makes.
            arguments = "(pg_catalog.text, pg_catalog.text)" if there_name == given else "()"
            sql = f"DROP FUNCTION {relation_sql(there_name)}{arguments} CASCADE"
            # Never later: who gains by it is refused till then.
            first.append(Change(Kind.DROP, str(there_name), "drop a function for writing", Statements((sql,))))
    for due_name in sorted(needed, key=lambda n: n != given):
        made, there = needed[due_name], state.gates.get(due_name)
        if there is None or there.digest != made.digest or there.owner != OWNER:
            what = "create function for values" if due_name == given else "create triggers for values"
            draft.changes.append(Change(Kind.WRITE, str(due_name), what, made))
    return first


def _logins(state: State, people: People, name: ColumnName) -> dict[str, Verdict]:
    """Who may change a column without seeing it clear, and what they see."""
    return {
        login: principal.policy.verdict(name)
        for login, principal in sorted(people.principals.items())
        if name in principal.policy.writes and login not in state.catalog.superusers
    }


def _gate(
    relation: Relation,
    column: CatalogColumn,
    rule: Column,
    logins: dict[str, Verdict],
    protection: ProtectionMap,
) -> MakeGate:
    name = gate_name(relation.name, column.name)
    signature = f"{_SCHEMA}.{quote_ident(name)}()"
    new, old = f"NEW.{quote_ident(column.name)}", f"OLD.{quote_ident(column.name)}"
    sealed = rule.protection is Protection.SEALED
    type_ = SEALED_TYPE if sealed else value_type(column)
    known = type_of_oid(column.type_oid, -1)
    compared = "" if sealed or (known is not None and has_equality(known)) else "::pg_catalog.text"
    keep = _SAME.format(new=new, old=old) if sealed else _keeping(column, rule, logins, old, new, compared)
    # Tickets as `given` has left them: with a blank behind each, the last one perhaps cut.
    inserts = sealed or rule.name in protection.told
    moves = inserts and relation.kind == "p"
    body = f"""
BEGIN
{_MOVES if moves else ""}{keep}    IF {new} IS NULL OR EXISTS (
        SELECT FROM pg_catalog.string_to_array(pg_catalog.current_setting('{_SETTING}', true), ' ') AS s (all_of_them),
                    pg_catalog.unnest(all_of_them[1:pg_catalog.cardinality(all_of_them) - 1]) AS t (ticket)
         WHERE {_PRIVATE}.ticket_value(t.ticket, {quote_literal(str(rule.name))})::{type_}{compared} = {new}{compared}) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = {quote_literal(_REFUSED)}, COLUMN = {quote_literal(column.name)};
END """
    definition = (
        f"CREATE FUNCTION {signature} RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {SETTINGS}\n"
        f"AS {quote_literal(body)}"
    )
    who = f"session_user = ANY ({_array(logins)})"
    # Functions with other rights than the login's write what they are made to write.
    when = f"WHEN ({who} AND pg_catalog.pg_has_role(session_user, current_user, 'MEMBER'))"
    trigger, table = quote_ident(_TRIGGER + column.name), relation_sql(relation.name)
    run = f"FOR EACH ROW {when} EXECUTE FUNCTION {signature}"
    triggers = [f"CREATE TRIGGER {trigger} BEFORE UPDATE OF {quote_ident(column.name)} ON {table} {run}"]
    if moves:
        moved = quote_ident(_MOVING + column.name)
        run_moved = run.replace("()", "('moves')", 1)
        triggers.append(f"CREATE TRIGGER {moved} BEFORE UPDATE ON {table} {run_moved}")
    if inserts:
        added = quote_ident(_TRIGGER + column.name + " +")
        triggers.append(f"CREATE TRIGGER {added} BEFORE INSERT ON {table} {run}")
    return MakeGate(name, signature, definition, tuple(triggers), digest("\n".join((definition, *triggers))))


def _keeping(column: CatalogColumn, rule: Column, logins: dict[str, Verdict], old: str, new: str, compared: str) -> str:
    """What keeps the value where the mask that it is shown as is written over it."""
    shown = "NULL"
    logical = type_of_oid(column.type_oid, column.typmod)
    if rule.mask is not None and rule.mask.kind != "null" and logical is not None:
        shown = make_mask(rule.mask.kind, options(rule), parse_type(logical)).sql(old)
    blind = [login for login, verdict in logins.items() if verdict is Verdict.REFUSED]
    if blind and shown != "NULL":
        shown = f"CASE WHEN session_user <> ALL ({_array(blind)}) THEN {shown} END"
    return (
        f"    IF TG_OP = 'UPDATE' AND {new}{compared} IS NOT DISTINCT FROM ({shown}){compared} THEN\n"
        f"        {new} := {old};\n        RETURN NEW;\n    END IF;\n"
    )


def _array(names: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_literal, names))}]::pg_catalog.name[]"
