"""The leak list: each way to a protected value that somebody could try, how it is closed, which tests try it, and what remains.

docs/leaks.md is `page()` written out; `test_coverage` holds both against the tests that there are. Write it anew with
`python -m tests.leaks.coverage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ATTEMPTS, SCRIPTS = "test_attempts::test_single_statements", "test_attempts::test_scripts"
DDL = "tests.ddl.test_ddl"
UNFENCED = "test_unfenced"
ORACLES, PROTOCOL, EXTENSIONS, LOOKUPS = "test_oracles", "test_protocol", "test_extensions", "test_lookups"
GUESSES = f"{ORACLES}::test_right_and_wrong_guesses_look_alike"


@dataclass(frozen=True, slots=True)
class Leak:
    """One entry. `tests`: "module::function", with "[key]" for a part of a table."""

    entry: str
    closed: str
    tests: tuple[str, ...]
    remains: str = ""


_VIEW = "The statement runs over the masking view, so the server has only masks to work on."
_WALL = "PostgreSQL's privileges: a masked login may not read the column, whatever reads for it."

LEAKS: tuple[Leak, ...] = (
    Leak(
        "error texts and DETAILs",
        "Over a masking view an error can quote masks only. DETAIL shows columns that the login may read. For logins that privileges can't fence, pgveil takes DETAIL, CONTEXT and functions' own words out.",
        (
            f"{ATTEMPTS}[error texts]",
            f"{SCRIPTS}[error texts]",
            f"{ORACLES}::test_a_constraint_s_detail_names_no_value_of_others",
        ),
        "A CHECK or a generated column that works on a masked column together with one that the login may write can fail with the masked value in its message: do not write such checks.",
    ),
    Leak(
        "pg_stats and statistics",
        "pg_stats shows columns that the login may read, an index's expressions to who owns it; pg_stats_ext to who owns the table; pg_statistic is a superuser's. Refused to logins that can't be fenced.",
        (f"{ATTEMPTS}[statistics]", f"{SCRIPTS}[statistics]"),
    ),
    Leak(
        "pg_stat_activity and other sessions' texts",
        "PostgreSQL shows texts to their own login only. Refused to logins that can't be fenced.",
        (f"{PROTOCOL}::test_other_sessions_texts_are_theirs",),
        "Two people who share a login see each other's texts.",
    ),
    Leak(
        "pg_stat_statements",
        "As before; constants of queries are parameters there.",
        (f"{EXTENSIONS}::test_nothing_comes_back[pg_stat_statements]",),
    ),
    Leak(
        "log settings",
        "What is logged of a masked login's statement is the text that runs, over the view. Settings of the server's log are a superuser's.",
        (
            f"{ATTEMPTS}[log settings]",
            f"{SCRIPTS}[log settings]",
            f"{PROTOCOL}::test_the_server_s_log_has_no_value_from_a_masked_login",
        ),
        "Statements of clear logins with masked columns' values are in the server's log if it logs statements. What a login that privileges can't fence makes fail is there with the DETAIL that pgveil takes out of its answer: whoever reads the log reads that.",
    ),
    Leak(
        "EXPLAIN of filters, with row counts and estimates",
        f"{_VIEW} Its expressions have no statistics of their own.",
        (f"{ATTEMPTS}[explain]", f"{GUESSES}[predicates]"),
    ),
    Leak(
        "predicates in WHERE",
        _VIEW,
        (f"{GUESSES}[predicates]", f"{ORACLES}::test_binary_search_by_income_finds_its_mask"),
        "What the mask shows can be searched.",
    ),
    Leak("ORDER BY as an oracle", _VIEW, (f"{GUESSES}[order by]",)),
    Leak("CASE as an oracle", _VIEW, (f"{GUESSES}[case and errors]",)),
    Leak("division by zero and other errors as oracles", _VIEW, (f"{GUESSES}[case and errors]",)),
    Leak("timing of a function", _VIEW, (f"{GUESSES}[timing]",), "How long a mask takes can tell a value's length."),
    Leak("JOIN with a table of guesses", _VIEW, (f"{GUESSES}[joins]",)),
    Leak(
        "unique violations",
        "Who does not see a column clear has no privilege to change it, nor to give it a value in a new row where an index or a constraint would compare that (ADR 0027).",
        (
            f"{GUESSES}[unique violations]",
            f"{GUESSES}[written comparisons]",
            f"{ORACLES}::test_a_sealed_value_can_not_be_guessed_by_writing_it",
            f"{ORACLES}::test_who_may_look_up_may_not_write",
        ),
    ),
    Leak(
        "ON CONFLICT",
        "As unique violations. Targets and updates of masked columns need SELECT on them.",
        (f"{GUESSES}[on conflict]",),
    ),
    Leak("count", _VIEW, (f"{GUESSES}[counts]",), "How many rows there are is not hidden."),
    Leak(
        "sort order of masked results",
        f"{_VIEW} It sorts by masks.",
        (f"{ATTEMPTS}[sort order]", f"{GUESSES}[order by]"),
        "Without ORDER BY rows come as they lie, which can follow an index on the real value.",
    ),
    Leak("aggregate of one row", _VIEW, (f"{ATTEMPTS}[aggregates]",)),
    Leak("window frames", _VIEW, (f"{ATTEMPTS}[window frames]",)),
    Leak("sequences", "A value must be read to be put into one.", (f"{SCRIPTS}[sequences]",)),
    Leak(
        "statistics side channels",
        "Estimates over masking views know no values; extended statistics need ownership.",
        (f"{SCRIPTS}[statistics]", f"{GUESSES}[predicates]"),
    ),
    Leak(
        "views over protected tables",
        "`apply` takes them from logins that do not see all of it clear; pgveil refuses them; one that it does not know yet waits until it does.",
        (f"{ATTEMPTS}[views]", f"{SCRIPTS}[views]", f"{PROTOCOL}::test_a_view_made_a_moment_ago_past_pgveil"),
        "A view made since the last `apply` shows what its owner granted, past pgveil.",
    ),
    Leak(
        "changes of the schema, roles and settings under a running statement",
        "The server describes each execution anew before a row passes, a COPY and a write of sealed values before they run; a column or relation that pgveil does not know waits for the catalog. What may use a view, a function or a trigger waits for it before it runs, and its answer again ([ADR 0025](adr/0025-asking-again.md)).",
        (f"{DDL}::test_no_stale_plan", f"{DDL}::test_every_kind_at_every_moment"),
        "Until the catalog has been read (a second): what a default or a domain's check reads; what is computed from a plain table whose name a view has taken; what a role that was just taken away shows; what several statements in one simple query copy or write. A renamed table leaves the rules.",
    ),
    Leak(
        "functions, SECURITY DEFINER included",
        "The same for functions, operators and aggregates that read protected columns or run texts.",
        (f"{ATTEMPTS}[security definer]", f"{SCRIPTS}[security definer]"),
        "Extensions' functions in C are known by name only.",
    ),
    Leak(
        "functions in C and internal",
        "What an extension did not bring is held to read everything. Making them is refused to logins that can't be fenced, by whatever spelling of the language or the function.",
        (
            f"{SCRIPTS}[functions in C]",
            f"{ATTEMPTS}[security definer]",
            f"{UNFENCED}::test_what_pgveil_can_not_see_is_refused",
        ),
        "As above.",
    ),
    Leak(
        "system catalogs",
        "PostgreSQL lets superusers alone write them. Refused to logins that can't be fenced, and so is another name for the schema of a protected table.",
        (f"{SCRIPTS}[system catalogs]", f"{UNFENCED}::test_what_pgveil_can_not_see_is_refused"),
        "A superuser can make roles, and make itself a member of one: who is who is theirs to say.",
    ),
    Leak("DO blocks", f"{_WALL} Refused to logins that can't be fenced.", (f"{ATTEMPTS}[DO blocks]",)),
    Leak(
        "dynamic SQL",
        f"{_WALL} Refused to logins that can't be fenced.",
        (f"{ATTEMPTS}[dynamic SQL]", f"{SCRIPTS}[dynamic SQL]"),
    ),
    Leak(
        "query_to_xml and relatives",
        f"{_WALL} Refused to logins that can't be fenced.",
        (f"{ATTEMPTS}[query_to_xml]", f"{EXTENSIONS}::test_nothing_comes_back[query_to_xml]"),
    ),
    Leak(
        "dblink",
        "It logs in again, and finds its login's privileges. Refused to logins that can't be fenced.",
        (f"{EXTENSIONS}::test_nothing_comes_back[dblink]",),
        "A connection string with a clear login's password is that login.",
    ),
    Leak(
        "foreign tables",
        "As dblink. Servers, user mappings and foreign tables can't be made or changed by logins that can't be fenced, nor subscriptions, languages and the server's settings.",
        (
            f"{UNFENCED}::test_what_pgveil_can_not_see_is_refused",
            f"{EXTENSIONS}::test_nothing_comes_back[foreign tables]",
        ),
        "A user mapping to a clear login, made by an administrator, shows what that login sees: fence the foreign table.",
    ),
    Leak(
        "raw pages and files",
        "Superusers' functions; refused to logins that can't be fenced.",
        (f"{UNFENCED}::test_the_server_s_own_functions_are_known", f"{EXTENSIONS}::test_nothing_comes_back[raw pages]"),
    ),
    Leak("large objects", "A value must be read to be put into one.", (f"{SCRIPTS}[large objects]",)),
    Leak("advisory tricks", _VIEW, (f"{ATTEMPTS}[advisory tricks]", f"{GUESSES}[ways around]")),
    Leak(
        "rules and triggers created by the user",
        "TRIGGER is taken from masked logins, rules need ownership, and one's own triggers read with one's own rights. Rules, triggers and defaults that read for others are refused by pgveil and named by `apply`.",
        (f"{SCRIPTS}[rules and triggers]", f"{SCRIPTS}[own indexes and constraints]"),
        "Triggers of the application on a protected table see real values and can tell them.",
    ),
    Leak(
        "casts through user types and operators",
        f"{_VIEW} They are given masks.",
        (f"{SCRIPTS}[user types and operators]",),
    ),
    Leak(
        "operator and function shadowing through search_path",
        "Masks name everything by schema. Shadowed operators of one's own are given masks.",
        (f"{SCRIPTS}[search_path shadowing]",),
    ),
    Leak(
        "temporary tables of the same name",
        "The session's own relations are known by their names, asked of the server; the name is protected again when they are gone.",
        (f"{SCRIPTS}[temp tables of the same name]", f"{PROTOCOL}::test_temporary_tables_go_on_working"),
    ),
    Leak(
        "SET ROLE and SESSION AUTHORIZATION",
        "The login counts, not the current role.",
        (f"{ATTEMPTS}[set role]", f"{SCRIPTS}[set role]"),
        "Past pgveil a login that is a member of a clear role has that role's rights: `apply` names it.",
    ),
    Leak(
        "standard_conforming_strings",
        "The lexer follows the session's setting, asked of the server where it is in doubt.",
        (f"{SCRIPTS}[standard_conforming_strings]",),
    ),
    Leak(
        "client_encoding",
        "Texts are read in the session's encoding.",
        (
            f"{SCRIPTS}[client_encoding]",
            f"{PROTOCOL}::test_a_character_that_holds_a_backslash_hides_no_quote",
        ),
    ),
    Leak(
        "settings of the startup packet",
        "Asked of the server as those of SET.",
        (f"{PROTOCOL}::test_settings_of_the_startup_packet_are_followed",),
    ),
    Leak("U& names", "The lexer reads them as PostgreSQL does.", (f"{ATTEMPTS}[U& names]",)),
    Leak(
        "case-folded and quoted names",
        "Names are folded and cut as PostgreSQL does; every name that could be protected must be accounted for.",
        (f"{ATTEMPTS}[quoted and folded names]",),
    ),
    Leak("invisible characters", "They are part of a name, as for PostgreSQL.", (f"{ATTEMPTS}[invisible characters]",)),
    Leak(
        "comments in odd places",
        "The lexer skips them as PostgreSQL does; the text that was judged is the text that runs.",
        (f"{ATTEMPTS}[comments]",),
    ),
    Leak(
        "multi-statement strings",
        "Each statement is judged; what follows a change of settings or names is refused.",
        (f"{ATTEMPTS}[multi-statement strings]",),
    ),
    Leak(
        "plan cache confusion between roles",
        "Plans are kept by class of logins and by what their meaning depends on.",
        (f"{PROTOCOL}::test_plans_of_one_role_are_not_used_for_another",),
    ),
    Leak(
        "prepared statement reuse across SET",
        "A statement whose settings, rules or catalog have changed is judged again.",
        (f"{SCRIPTS}[prepared across SET]", f"{PROTOCOL}::test_a_prepared_statement_means_what_its_names_mean_now"),
    ),
    Leak(
        "replication connections",
        "Refused; past pgveil they need the REPLICATION attribute.",
        (f"{PROTOCOL}::test_replication_connections_do_not_pass",),
    ),
    Leak(
        "function-call protocol",
        "Large objects' own calls pass, nothing else.",
        (
            f"{PROTOCOL}::test_the_function_call_protocol_reads_nothing",
            f"{PROTOCOL}::test_the_function_call_protocol_meets_privileges_past_pgveil",
        ),
    ),
    Leak(
        "cursor inheritance",
        "SQL cursors and portals are known by what they stand for, by either name.",
        (f"{SCRIPTS}[cursors]", f"{PROTOCOL}::test_portals_can_not_be_described_or_fetched_by_other_names"),
    ),
    Leak(
        "NOTIFY payloads",
        "A value must be read to be sent; payloads of triggers and functions that are given protected rows, or read them, are emptied for logins with limits.",
        (f"{SCRIPTS}[notify]", f"{PROTOCOL}::test_notifications_carry_what_the_sender_sees"),
        "What a clear login sends is its own doing. Past pgveil whoever listens gets what triggers send.",
    ),
    Leak(
        "COPY TO PROGRAM and files, and FROM them",
        "They need pg_execute_server_program, pg_write_server_files or pg_read_server_files, whose members `apply` names. Refused to logins that can't be fenced, whatever the table or query.",
        (f"{ATTEMPTS}[copy to program or file]", f"{SCRIPTS}[copy to program or file]"),
    ),
    Leak(
        "COPY TO STDOUT",
        "Of a query: over the view. Of the table: refused to who does not see it clear.",
        (f"{ATTEMPTS}[copy]",),
    ),
    Leak(
        "writes that read",
        "RETURNING, SELECT INTO, FROM and MERGE read masks, or are refused.",
        (f"{ATTEMPTS}[writes that read]",),
    ),
    Leak("system columns", "A masking view has none: refused with masked columns.", (f"{ATTEMPTS}[system columns]",)),
    Leak(
        "pgveil's own objects",
        "They can't be named through pgveil, and nobody has privileges on what is private.",
        (f"{SCRIPTS}[pgveil's own objects]", f"{LOOKUPS}::test_past_pgveil_the_functions_are_of_no_use"),
    ),
    Leak(
        "look-ups by the real value",
        "Only where the rules allow them: equality with constants, recorded and limited ([ADR 0015](adr/0015-look-ups.md)).",
        (
            f"{LOOKUPS}::test_nothing_but_equality_in_a_where_meets_the_real_value",
            f"{LOOKUPS}::test_the_limit_and_the_record",
            f"{LOOKUPS}::test_other_masked_logins_find_nothing",
        ),
        "Who may look up 30 numbers a minute can try 43,200 a day: read the record.",
    ),
)


def page() -> str:
    """docs/leaks.md."""
    rows = [
        f"| {leak.entry} | {leak.closed} | {leak.remains or 'nothing known'} | {', '.join(f'`{test}`' for test in leak.tests)} |"
        for leak in LEAKS
    ]
    head = """# Leaks

What a person with a masked role, a psql prompt and no scruples could try, how it is closed, what remains, and the tests in `tests/leaks` that try it: by three
masked logins (one that may write everything, one of a call centre, one that is a superuser), through pgveil with both protocols and, for logins that
privileges can fence, straight at the server. Whatever comes back, and what the server writes into files, is searched for every protected value, in several
disguises; of questions, the answers to a right and to a wrong guess must be the same. A superuser makes them on unprotected data as well: there each
script, and of each kind of single statements that read one at least, must bring values up, or say why it is tried all the same. Written by `python -m tests.leaks.coverage`.

| Way | Closed by | Remains | Tried by |
|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path("docs/leaks.md").write_text(page())
