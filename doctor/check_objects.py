"""What lets protected values out of their tables: privileges, views, functions, copies, extensions."""

# ruff: noqa: S608 - statements for people to run; nothing here runs them

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from doctor.facts import known
from doctor.model import Check, Found, Group, Severity, listed
from lifecycle.apply.filled import exposure
from lifecycle.apply.inspect import PUBLIC, relation_sql
from lifecycle.apply.moving import movable
from rules.hidden import hidden_reads
from rules.loose import loose_triggers
from rules.model import TableName, quote_ident, quote_literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts
    from rules.catalog import Relation

# Extensions that read past the tables' privileges or run texts elsewhere: what each does.
_EXTENSIONS: Final = {
    "dblink": (Severity.WARNING, "runs any text at any server that its user can log in to"),
    "postgres_fdw": (Severity.NOTE, "shows at one server what a user mapping's login sees at another"),
    "file_fdw": (Severity.NOTE, "reads files of the server's machine"),
    "adminpack": (Severity.WARNING, "reads and writes files of the server's machine"),
    "pageinspect": (Severity.WARNING, "shows pages as they lie on disk, masked columns plain"),
    "pg_walinspect": (Severity.WARNING, "shows what was written to the log, masked columns plain"),
    "xml2": (Severity.WARNING, "xpath_table runs a text"),
    "plperlu": (Severity.WARNING, "functions in it read files and open connections"),
    "plpython3u": (Severity.WARNING, "functions in it read files and open connections"),
    "pltclu": (Severity.WARNING, "functions in it read files and open connections"),
}
_WRITES_ALL: Final = "pg_write_all_data"
_WRITES: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"})


def _open_columns(facts: Facts) -> Iterator[Found]:
    columns: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for found in (f for f in facts.database.open_columns if f.privilege == "SELECT"):
        columns[found.login, found.through, found.object, found.sql].append(found.column)
    readers = {n for n in facts.limited() if _reads_everything(facts, n)}
    for (login, through, table, sql), names in columns.items():
        if login in readers:
            continue  # login-reads-all says it
        role = "" if through == login else f" as a member of {through}"
        yield Found(
            Severity.BAD,
            f"{table} for {login}",
            f"PostgreSQL lets {login}{role} read {listed(names)} of {table}, which it is to see masked",
            f"REVOKE SELECT ON {sql} FROM {quote_ident(through)}; or run pgveil apply again, which fences new grants",
        )


def _writable_columns(facts: Facts) -> Iterator[Found]:
    columns: dict[tuple[str, str, str, str, str], list[str]] = defaultdict(list)
    for found in (f for f in facts.database.open_columns if f.privilege != "SELECT"):
        columns[found.login, found.through, found.object, found.sql, found.privilege].append(found.column)
    for (login, through, table, sql, privilege), names in columns.items():
        role = "" if through == login else f" as a member of {through}"
        what = f"change {listed(names)} of" if privilege == "UPDATE" else f"give {listed(names)} in new rows of"
        fix = f"REVOKE {privilege} ON {sql} FROM {quote_ident(through)}; or run pgveil apply again, which fences new grants"
        if through == _WRITES_ALL:
            fix = f"REVOKE {_WRITES_ALL} FROM {quote_ident(login)};"
        yield Found(
            Severity.BAD,
            f"{table} for {login}",
            f"PostgreSQL lets {login}{role} {what} {table}, which it does not see clear: what it writes is compared with what is there",
            fix,
        )


def _mixed_domains(facts: Facts) -> Iterator[Found]:
    for moving in movable(facts.people, facts.protection, facts.database.state.held):
        yield Found(
            Severity.WARNING if moving.accepted else Severity.BAD,
            str(moving.into),
            f"{moving.into}: {moving.problem}",
            moving.fix,
        )


def _reads_everything(facts: Facts, login: str) -> bool:
    return "pg_read_all_data" in facts.database.state.catalog.memberships(login)


def _open_objects(facts: Facts) -> Iterator[Found]:
    logins: dict[tuple[str, str], list[str]] = defaultdict(list)
    through: dict[str, set[str]] = defaultdict(set)
    for found in facts.database.open_objects:
        if not _reads_everything(facts, found.login):
            logins[found.object, found.sql].append(found.login)
            through[found.sql].add(quote_ident(found.through))
    for (object_, sql), each in logins.items():
        word = "EXECUTE ON ROUTINE" if object_.startswith("function ") else "SELECT ON"
        yield Found(
            Severity.BAD,
            object_,
            f"{object_} reads columns that {listed(each)}, who may use it, are to see masked",
            f"REVOKE {word} {sql} FROM {', '.join(sorted(through[sql]))}, PUBLIC; or run pgveil apply again",
        )


def _public(facts: Facts) -> Iterator[Found]:
    state, protection = facts.database.state, facts.protection
    for relation in sorted(state.catalog.relations.values(), key=lambda r: r.name):
        if not protection.columns_of(relation):
            continue
        name = relation_sql(relation.name)
        held = sorted(
            {a.privilege for a in state.held if a.object == name and a.grantee == PUBLIC and a.privilege in _WRITES}
        )
        if held:
            yield Found(
                Severity.WARNING,
                str(relation.name),
                f"PUBLIC holds {listed(held)} on {relation.name}, or on columns of it: so does every login that will ever be made",
                f"REVOKE ALL ON {name} FROM PUBLIC; and grant to roles",
            )


def _defaults(facts: Facts) -> Iterator[Found]:
    limited, people = facts.limited(), facts.people
    for owner, grantee, schema in facts.database.default_grants:
        reached = sorted(people.members(grantee) & limited.keys())
        if reached:
            where = "" if schema is None else f" IN SCHEMA {quote_ident(schema)}"
            who = "PUBLIC" if grantee == PUBLIC else quote_ident(grantee)
            yield Found(
                Severity.WARNING,
                f"{owner} to {'PUBLIC' if grantee == PUBLIC else grantee}",
                f"tables that {owner} makes are open to {listed(reached)} from their first moment until pgveil apply has run",
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote_ident(owner)}{where} REVOKE SELECT ON TABLES FROM {who};",
            )


def _foreign(facts: Facts) -> Iterator[Found]:
    limited = facts.limited()
    tables: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for found in facts.database.foreign:
        if found.login in limited:
            tables[found.object, found.through, found.sql].append(found.login)
    for (table, server, sql), logins in tables.items():
        yield Found(
            Severity.WARNING,
            table,
            f"foreign table {table} (server {server}) is open to {listed(logins)}, who see masks here: it shows what its user mapping's login sees there",
            f"REVOKE SELECT ON {sql} FROM the role that has it; or map a login that sees masks: ALTER USER MAPPING FOR ... SERVER {quote_ident(server)}",
        )


def _copies(facts: Facts) -> Iterator[Found]:
    database, protection = facts.database, facts.protection
    for relation in sorted(database.state.catalog.relations.values(), key=lambda r: r.name):
        lineage = protection.lineage_of(relation) if relation.kind == "m" else None
        inside = sorted(c for c in lineage.inside if facts.rules.is_masked(c)) if lineage is not None else []
        if inside:
            yield Found(
                Severity.NOTE,
                str(relation.name),
                f"materialized view {relation.name} is a copy of {listed(inside)}, plain, as of its last refresh",
                f"DROP MATERIALIZED VIEW {relation_sql(relation.name)}; or keep it to logins that see these columns clear",
            )


def _derived(facts: Facts) -> Iterator[Found]:
    for warning in known(facts.database.plan).warnings:
        if warning.startswith("generated column "):
            name = warning.split()[2]
            yield Found(
                Severity.BAD,
                name,
                warning.partition(": ")[0].removesuffix(": classify it too"),
                f"classify {name} in the rules, with a mask",
            )


def _statistics(facts: Facts) -> Iterator[Found]:
    for kept in facts.database.statistics:
        if kept.readers:
            everybody = "run fix-CVE-2024-4317.sql of PostgreSQL's share directory in every database; or "
            yield Found(
                Severity.BAD,
                kept.name,
                f"{kept.kind} {kept.name} is made of {listed(kept.made_of)}, and PostgreSQL shows its statistics, values among them, to {listed(kept.readers)}, who are to see masks",
                f"{everybody if kept.to_all else ''}DROP {kept.kind.upper()} {kept.sql}; or let other logins own the table, and read all data",
            )


def _filled(facts: Facts) -> Iterator[Found]:
    found = exposure(facts.database.state, facts.people, facts.protection)
    for filled, lines, readers in found.columns:
        what = f"{filled.by} fills {filled.target} from {listed(filled.made_of)}, and the rules do not name it"
        yield Found(
            Severity.BAD if readers else Severity.NOTE,
            str(filled.target),
            f"{what}: it is open to {listed(readers)}, who are to see masks" if readers else what,
            f"name it in the rules: `{lines}`, or `level: general` where everybody may see it",
        )
    for unread in found.unread:
        yield Found(
            Severity.WARNING,
            f"{unread.relation} ({unread.by})",
            f"{unread.by} {unread.why}, and is given {listed(c.column for c in sorted(unread.columns))}",
            "see that it puts them nowhere that somebody else reads, and accept this finding",
        )


def _sent(facts: Facts) -> Iterator[Found]:
    database = facts.database
    for sent in database.publications:
        table = TableName(sent.schema, sent.table)
        relation = database.state.catalog.by_name.get(table)
        names = {} if relation is None else facts.protection.columns_of(relation)
        plain = sorted(c for c in sent.columns if c in names and facts.rules.is_masked(names[c]))
        if plain:
            yield Found(
                Severity.WARNING,
                f"publication {sent.publication}",
                f"publication {sent.publication} sends {listed(plain)} of {sent.schema}.{sent.table} plain to whoever subscribes",
                f"DROP PUBLICATION {quote_ident(sent.publication)}; or publish {relation_sql(table)} with a list of the other columns; or protect the "
                "subscriber with the same rules",
            )
    for slot in database.slots:
        yield Found(
            Severity.WARNING,
            f"slot {slot}",
            f"logical replication slot {slot} streams every change of this database, masked columns plain",
            f"SELECT pg_drop_replication_slot({quote_literal(slot)}); or see that its reader is one that may see these columns",
        )


def _received(facts: Facts) -> Iterator[Found]:
    protected = {str(r.name) for r in _protected(facts)}
    for subscription, table in facts.database.subscribed:
        if table in protected:
            yield Found(
                Severity.WARNING,
                f"subscription {subscription}",
                f"subscription {subscription} writes {table} past pgveil: plain values stop at the sealed columns' check, and stop the subscription",
                f"publish {table} from a database that is sealed under the same keys",
            )


def _protected(facts: Facts) -> Iterator[Relation]:
    return (r for r in facts.database.state.catalog.relations.values() if facts.protection.columns_of(r))


def _hidden(facts: Facts) -> Iterator[Found]:
    limited = facts.limited()
    for read in hidden_reads(facts.protection):
        if not read.fenced and any(columns & read.columns for columns in limited.values()):
            yield Found(
                Severity.WARNING,
                str(read.relation),
                f"writing {read.relation} runs {read.what}, which reads {listed(sorted(read.columns))} with rights that are not the writer's",
                "make the function SECURITY INVOKER, or drop the rule",
            )
    for loose in loose_triggers(facts.protection):
        if any(columns & loose.columns for columns in limited.values()):
            yield Found(
                Severity.WARNING,
                str(loose.relation),
                f"trigger function {loose.function} is given rows of {loose.relation} and finds names by the writer's search_path: who sees {min(loose.columns)} masked could put tables or functions of its own there",
                f"ALTER FUNCTION {loose.function}() SET search_path = {loose.relation.schema}, pg_temp",
            )
    for table, trigger in facts.database.triggers:
        yield Found(
            Severity.NOTE,
            f"{table} ({trigger})",
            f"trigger {trigger} on {table} sees real values of masked columns, and ciphertext of sealed ones",
            "see that it writes them nowhere that somebody else reads",
        )


def _extensions(facts: Facts) -> Iterator[Found]:
    for name in sorted(facts.database.extensions.keys() & _EXTENSIONS.keys()):
        severity, what = _EXTENSIONS[name]
        yield Found(
            severity,
            name,
            f"extension {name} is installed: it {what}",
            f"DROP EXTENSION {quote_ident(name)}; or keep it to administrators: REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ... FROM PUBLIC",
        )


CHECKS: Final = (
    Check(
        "column-open",
        Group.OBJECTS,
        "PostgreSQL itself lets no login read a column that it is to see masked",
        "Past pgveil, and in whatever pgveil's analysis missed, the server's own privileges are the wall. This asks the server, not apply's books.",
        _open_columns,
    ),
    Check(
        "column-writable",
        Group.OBJECTS,
        "PostgreSQL itself lets no login change a column that it does not see clear",
        "A write compares: the size of an UPDATE's log record and a constraint's error tell whether a guess is right. And a sealed value could be forged or moved.",
        _writable_columns,
    ),
    Check(
        "domain-mixed",
        Group.OBJECTS,
        "No login can carry a sealed value to a column that it sees clear",
        "Sealed values open in every column of their key domain. Who may write one that it sees clear, and read what is stored in one that it does not, copies it over past pgveil and reads it here.",
        _mixed_domains,
    ),
    Check(
        "object-open",
        Group.OBJECTS,
        "No view or SECURITY DEFINER function hands masked columns to a login that is to see masks",
        "Views and such functions read with their owner's rights, so the columns' privileges don't fence who may use them.",
        _open_objects,
    ),
    Check(
        "table-public",
        Group.OBJECTS,
        "PUBLIC holds no privilege on a protected table",
        "What PUBLIC holds, each new login holds before anybody has given it a role.",
        _public,
    ),
    Check(
        "default-privileges",
        Group.OBJECTS,
        "No default privilege opens new tables to logins that are to see masks",
        "A table that is made, or a copy of a protected one, is readable until the rules name it and apply has run.",
        _defaults,
    ),
    Check(
        "foreign-table",
        Group.OBJECTS,
        "No foreign table is open to a login that is to see masks",
        "A foreign table can lead back to the same data by a login that sees it clear.",
        _foreign,
    ),
    Check(
        "materialized-copy",
        Group.OBJECTS,
        "No materialized view holds masked columns",
        "It is a copy that outlives a change, or the destruction, of the original, until it is refreshed.",
        _copies,
    ),
    Check(
        "derived-column",
        Group.OBJECTS,
        "Generated columns that are made of masked ones are masked too",
        "PostgreSQL computes them from the real values, and shows them to whoever may read the table.",
        _derived,
    ),
    Check(
        "derived-statistics",
        Group.OBJECTS,
        "PostgreSQL shows the statistics of expressions over masked columns to nobody who is to see masks",
        "ANALYZE keeps the most common values of what an index or CREATE STATISTICS computes. pg_stats shows an index's to who owns it or reads all data; pg_stats_ext shows the others to the owner, and in clusters from before CVE-2024-4317 was mended to everybody.",
        _statistics,
    ),
    Check(
        "filled-column",
        Group.OBJECTS,
        "No trigger, rule or function fills a column that the rules do not name from masked ones",
        "An audit table, a history or a search vector shows in the clear what is masked where it comes from. Code is read by its text; what can't be read is told.",
        _filled,
    ),
    Check(
        "publication",
        Group.OBJECTS,
        "No publication or logical slot sends masked columns away",
        "Replication reads past privileges. What arrives elsewhere is plain there, and under no rules.",
        _sent,
    ),
    Check(
        "subscription",
        Group.OBJECTS,
        "No subscription writes protected tables",
        "Its worker writes past pgveil, as the subscription's owner.",
        _received,
    ),
    Check(
        "trigger-reads",
        Group.OBJECTS,
        "No trigger or rule reads masked columns for somebody else",
        "A rule reads with its table's owner's rights, a SECURITY DEFINER trigger with its own: who may write there can be shown what it reads. A trigger function without a search_path of its own finds names by the writer's, temporary tables first: it could be led to put its row there.",
        _hidden,
    ),
    Check(
        "extension",
        Group.OBJECTS,
        "No extension that reads past privileges is installed",
        "Such functions read pages, files or other servers. pgveil refuses them to logins that can't be fenced, and knows them by name only.",
        _extensions,
    ),
)
