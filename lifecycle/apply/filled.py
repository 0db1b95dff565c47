"""Columns that code in the database fills from masked ones (`rules.filled`), and who could read there what is masked elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lifecycle.apply.inspect import relation_sql
from lifecycle.apply.model import Obstacle
from rules.filled import filled_columns, lines_for
from rules.lexer import LexError
from rules.protect import is_own
from rules.rights import may_insert, may_update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifecycle.apply.inspect import State
    from lifecycle.apply.model import Draft
    from lifecycle.apply.privileges import People
    from rules.catalog import Relation
    from rules.filled import Filled, Unread, Written
    from rules.protect import ProtectionMap

_READS_ALL = "pg_read_all_data"


class Exposed(NamedTuple):
    """A column that is filled, what is to stand in the rules for it, and the logins that can read it and not see clear what it is made of."""

    filled: Filled
    lines: str
    readers: tuple[str, ...]


class Exposure(NamedTuple):
    """All of these, the code that can't be read, and what is written as the writer."""

    columns: tuple[Exposed, ...]
    unread: tuple[Unread, ...]
    written: tuple[Written, ...]


def exposure(state: State, people: People, protection: ProtectionMap) -> Exposure:
    """What the code of the database copies out of masked columns, and for whom."""
    found = filled_columns(protection)
    return Exposure(
        tuple(
            Exposed(f, lines_for(f, protection), tuple(sorted(_readers(state, people, protection, f))))
            for f in found.filled
        ),
        found.unread,
        found.written,
    )


def plan_filled(draft: Draft, state: State, people: People, protection: ProtectionMap) -> None:
    """An obstacle where somebody could read it, else a warning for as long as it is so."""
    found = exposure(state, people, protection)
    for filled, lines, readers in found.columns:
        what = f"{filled.by} fills it from {', '.join(map(str, filled.made_of))}"
        if readers:
            draft.obstacles.append(
                Obstacle(
                    str(filled.target),
                    f"{what}, which login {readers[0]} does not see clear and could read here",
                    f"name it in the rules: `{lines}`, or `level: general` where everybody may see it",
                )
            )
        else:
            draft.warnings.append(f"{filled.target}: {what}, and the rules do not name it: `{lines}`")
    for unread in found.unread:
        draft.warnings.append(
            f"{unread.relation}: {unread.by} {unread.why}: see that it puts {', '.join(c.column for c in sorted(unread.columns))} nowhere that somebody else reads"
        )

    for written in found.written:
        stopped = sorted(n for n in state.logins if not _may_write(state, people, protection, n, written))
        if stopped:
            draft.warnings.append(
                f"{written.by} writes {written.target} as whoever writes {written.relation}: {stopped[0]}, who does not see it clear, has no privilege to, and such statements end with 42501. "  # noqa: S608 - for people
                f"Name it `level: general` and REVOKE SELECT ({written.target.column}) ON {written.target.relation} from who is not to read it, or drop what compares it"
            )


def _may_write(state: State, people: People, protection: ProtectionMap, login: str, written: Written) -> bool:
    """Whether what a trigger writes as this login has its privilege, or no privilege is asked of it, or it can't write there anyway."""
    target, source = (state.catalog.by_name.get(n) for n in (written.target.relation, written.relation))
    column = protection.rules.column(written.target)
    if target is None or source is None or column is None or state.catalog.owns(login, target):
        return True
    wanted = {"", *(c.name for c in source.columns)}
    writes = (_holders(state, people, relation_sql(source.name), p, wanted) for p in ("INSERT", "UPDATE"))
    if not any(login in logins for each in writes for logins in each):
        return True
    policy = people.principals[login].policy
    return may_update(policy, column) if written.changes else may_insert(policy, column, protection.told)


def _readers(state: State, people: People, protection: ProtectionMap, filled: Filled) -> frozenset[str]:
    """Logins that the rules limit. A superuser counts where a role names him: whoever is in no role and reads everything is told of elsewhere."""
    relation = state.catalog.by_name[filled.target.relation]
    able = frozenset[str]().union(*_able(state, people, protection, relation, filled.target.column))
    return frozenset(
        n
        for n in able
        if people.limited(n, filled.made_of) and (n not in state.catalog.superusers or people.principals[n].roles)
    )


def _able(
    state: State, people: People, protection: ProtectionMap, relation: Relation, column: str
) -> Iterator[frozenset[str]]:
    """Who can read a column of a relation: by privilege, as owner, through views over it and functions that run as their owner."""
    memberships = state.catalog.memberships
    yield frozenset(n for n in state.logins if _READS_ALL in memberships(n))
    seen, ahead = {relation.oid}, [relation]
    while ahead:
        each = ahead.pop()
        yield people.owners(each.owner)
        wanted = {"", column} if each is relation else {"", *(c.name for c in each.columns)}
        yield from _holders(state, people, relation_sql(each.name), "SELECT", wanted)
        for view in state.catalog.relations.values():
            if view.oid not in seen and not is_own(view.name) and _names(protection, view.definition, each):
                seen.add(view.oid)
                ahead.append(view)
        for function in state.catalog.functions:
            if function.oid in state.routines and _names(protection, function.source, each):
                yield from _holders(state, people, state.routines[function.oid], "EXECUTE", {""})


def _holders(state: State, people: People, object_: str, privilege: str, columns: set[str]) -> Iterator[frozenset[str]]:
    for atom in state.held:
        if atom.object == object_ and atom.privilege == privilege and atom.column in columns:
            yield people.members(atom.grantee)


def _names(protection: ProtectionMap, text: str | None, relation: Relation) -> bool:
    try:
        return text is not None and relation.name.name in protection.sources.said(text).words
    except LexError:
        return True
