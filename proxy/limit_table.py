"""Every limit in one table: where it stands, how much it is, what happens there, and which test reaches it.

The numbers are taken from where the code takes them, so the table can't disagree with it; docs/limits.md is made from the table, and a test
holds that each bound that those modules define has a row, and that each row's test is there.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from audit import log as audit_log
from keys import lookup
from proxy import (
    balancer,
    channel,
    connection,
    control,
    databases,
    decisions,
    guard,
    limits,
    logs,
    plain_catalogs,
    probes,
    relay,
    server,
    taking_apart,
)
from proxy.config import CalculatorSettings, Limits, Listen, Observe
from proxy.plan_cache import GateLimits
from proxy.session import lane, prepared, session, settings, strangers, values, witness
from proxy.session.limits import SessionLimits
from rules import budget
from rules.analyse.queries import MAX_NESTING
from rules.analyse.tree import MAX_TREE_DEPTH
from rules.schema import DEFAULT_LOOKUPS, MAX_LOOKUPS
from rules.tokens import LexLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

# What happens.
_END: Final = "the connection ends"
_WAIT: Final = "waits"
_FORGET: Final = "forgotten, worked out again"
_ANEW: Final = "worked out each time"


@dataclass(frozen=True, slots=True)
class Limit:
    """One row. `source`: the constant or field; `value`: how much, or the default of a setting; `happens`: with its SQLSTATE in front, if any."""

    what: str
    source: str
    value: str
    happens: str
    test: str


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together, under a heading."""

    title: str
    limits: tuple[Limit, ...]


def size(value: int) -> str:
    """Bytes as people write them."""
    for unit, name in ((limits.MIB, "MiB"), (limits.KIB, "KiB")):
        if value >= unit and value % unit == 0:
            return f"{value // unit} {name}"
    return f"{value:,} bytes"


def _setting(section: type[Any], name: str) -> str:
    """A setting's default."""
    (setting,) = (f for f in fields(section) if f.name == name)
    assert setting.default is not MISSING
    value = setting.default
    if isinstance(value, float):
        return f"{value:g} s"
    return size(value) if value >= 16 * limits.KIB and value % limits.KIB == 0 else f"{value:,}"


def _wire(what: str, name: str, happens: str, test: str) -> Limit:
    value = getattr(limits, name)
    counted = name == "AUTH_MESSAGES"
    return Limit(what, f"proxy.limits.{name}", f"{value:,}" if counted else size(value), happens, test)


def _session(what: str, name: str, happens: str, test: str) -> Limit:
    value = getattr(SessionLimits(), name)
    sized = name in {"statement_text", "collected_bytes", "held_client", "held_server"}
    return Limit(what, f"proxy.session.limits.{name}", size(value) if sized else f"{value:,}", happens, test)


def _cache(what: str, name: str, happens: str, test: str) -> Limit:
    value = getattr(GateLimits(), name)
    return Limit(
        what, f"proxy.plan_cache.{name}", size(value) if name.endswith("bytes") else f"{value:,}", happens, test
    )


def _set(what: str, section: type[Any], name: str, happens: str, test: str) -> Limit:
    prefix = {Limits: "limits", Listen: "listen", CalculatorSettings: "calculator", Observe: "observe"}[section]
    return Limit(what, f"`{prefix}.{name}`", _setting(section, name), happens, test)


def _constant(
    what: str, module: ModuleType, name: str, happens: str, test: str, *, sized: bool = False, unit: str = ""
) -> Limit:
    """A constant of one module. `sized`: it is bytes; `unit`: of what it counts else."""
    value = getattr(module, name)
    shown = size(value) if sized else f"{value:g} s" if isinstance(value, float) else f"{value:,}{unit}"
    return Limit(what, f"{module.__name__}.{name}", shown, happens, test)


def groups() -> tuple[Group, ...]:
    """The whole table."""
    return (
        Group("Logging in", tuple(_logging_in())),
        Group("Messages", tuple(_messages())),
        Group("Statements", tuple(_statements())),
        Group("One connection", tuple(_connection())),
        Group("A worker", tuple(_worker())),
        Group("What is computed", tuple(_computed())),
    )


def _logging_in() -> Iterator[Limit]:
    handshake, logins = "tests/proxy/test_handshake.py", "tests/faults/test_logins.py"
    early = f"{logins}::test_no_login_that_ends_early_leaves_anything"
    yield _wire(
        "Startup packet",
        "STARTUP_PACKET",
        "the connection ends without a word, as the server's would",
        f"{handshake}::test_impossible_first_lengths",
    )
    balancer_test = "tests/proxy/test_balancer.py::test_what_is_no_header_is_refused"
    yield _constant(
        "PROXY protocol header, version 2", balancer, "MAX_HEADER", f"08P01, {_END}", balancer_test, sized=True
    )
    yield _constant("PROXY protocol header, version 1", balancer, "MAX_LINE", f"08P01, {_END}", balancer_test)
    yield _wire(
        "Name of a user or a database", "IDENTIFIER", f"28000, {_END}", f"{handshake}::test_a_doubtful_login_is_refused"
    )
    yield _wire(
        "Key of a cancel request", "CANCEL_KEY", f"08P01, {_END}", "tests/proxy/test_messages.py::test_first_packets"
    )
    yield _wire("Answer of a client", "AUTH_MESSAGE", f"08P01, {_END}", f"{handshake}::test_long_messages_end_it")
    yield _wire("Request of the server", "AUTH_REQUEST", f"54000, {_END}", f"{handshake}::test_long_messages_end_it")
    yield _wire(
        "Messages of one login", "AUTH_MESSAGES", f"54000, {_END}", f"{handshake}::test_an_endless_dialogue_ends"
    )
    yield _set(
        "Time from the first byte to the login, silence included",
        Limits,
        "authentication_seconds",
        f"28000, {_END}",
        early,
    )
    logins = "tests/proxy/test_logins.py"
    waits = f"who comes waits, 53300 when the login's time is over, {_END}"
    by_address = f"{logins}::test_places_are_counted_in_all_and_by_address"
    yield _set("Logins under way at the server", Limits, "logins", waits, by_address)
    yield _set("Of these, of one address", Limits, "logins_per_address", waits, by_address)
    pressed = f"{logins}::test_who_takes_his_time_is_ended_while_others_wait"
    yield _set("Time for each while others wait for it", Limits, "pressed_seconds", f"28000, {_END}", pressed)
    yield _set(
        "Connections",
        Limits,
        "connections",
        f"53300, {_END}",
        "tests/proxy/test_server.py::test_one_too_many_is_told_so",
    )
    yield _constant(
        "Connections beyond that which are heard (cancel requests, and to be told)",
        server,
        "_MARGIN",
        "closed without an error",
        "tests/proxy/test_server.py::test_silent_connections_do_not_add_up",
    )
    yield _constant(
        "Bytes of a login that came and were not read yet",
        relay,
        "_DIALOGUE_BUFFER",
        f"the peer {_WAIT}",
        "tests/proxy/test_limits.py::test_a_login_sends_only_so_much_ahead",
        sized=True,
    )
    yield _set(
        "Connections of one login (0: no limit of its own)", Limits, "connections_per_login", f"53300, {_END}", early
    )
    yield _set(
        "Cancel requests a second",
        Limits,
        "cancels_per_second",
        "dropped, and logged",
        "tests/proxy/test_cancel.py::test_only_so_many_pass",
    )
    yield _set(
        "Connections that wait to be taken",
        Listen,
        "backlog",
        "the kernel lets clients try again",
        "tests/proxy/test_limits.py::test_the_backlog_is_the_socket_s",
    )


def _messages() -> Iterator[Limit]:
    framing = "tests/proxy/test_framing.py"
    bounded, here = f"{framing}::test_interpreted_messages_are_bounded", "tests/proxy/test_limits.py"
    each = f"{here}::test_each_message_has_its_limit"
    yield _wire("Any message", "LARGE_MESSAGE", f"08P01, {_END}", each)
    yield _wire("A message of names (Close, Describe, Execute...)", "SMALL_MESSAGE", f"08P01, {_END}", each)
    yield _wire("Statement (Query, Parse)", "STATEMENT", f"54000, {_END}", bounded)
    yield _wire(
        "Bind with parameters that are sealed; others stream",
        "BIND",
        "54000",
        "tests/session/test_session.py::test_a_long_bind_of_a_planned_statement_is_refused",
    )
    yield _wire("Row with columns to open; others stream", "ROW", f"54000, {_END}", each)
    yield _wire(
        "Row of COPY data with sealed columns; others stream",
        "COPY_ROW",
        "54000",
        "tests/copying/test_copy_codecs.py::test_a_row_beyond_the_limit",
    )
    yield _wire("Description of a result", "ROW_DESCRIPTION", f"54000, {_END}", each)
    yield _wire("Description of parameters", "PARAMETER_DESCRIPTION", f"54000, {_END}", each)
    yield _wire("Error or notice", "REPORT", f"54000, {_END}", each)
    yield _wire("Report of a setting", "PARAMETER_STATUS", f"54000, {_END}", each)
    yield _wire("Notification", "NOTIFICATION", f"54000, {_END}", each)
    yield _wire("Other messages of the server", "SHORT_MESSAGE", f"54000, {_END}", each)


def _statements() -> Iterator[Limit]:
    lexed, here = LexLimits(), "tests/proxy/test_limits.py"
    complex_ = f"{here}::test_a_statement_that_is_too_complex"
    refused = "54001, where it could touch something protected"
    yield Limit(
        "Text that is analysed", "rules.tokens.max_length", f"{lexed.max_length:,} characters", refused, complex_
    )
    yield Limit("Tokens", "rules.tokens.max_tokens", f"{lexed.max_tokens:,}", refused, complex_)
    yield Limit("Nested parentheses and brackets", "rules.tokens.max_depth", f"{lexed.max_depth:,}", refused, complex_)
    steps = f"{here}::test_a_statement_has_so_many_steps"
    yield Limit(
        "Steps of its planning, whatever its length (a step is about 10 microseconds)",
        "rules.budget.BASE_STEPS",
        f"{budget.BASE_STEPS:,}",
        refused,
        steps,
    )
    yield Limit(
        "and for each of its characters",
        "rules.budget.STEPS_A_CHARACTER",
        f"{budget.STEPS_A_CHARACTER}",
        refused,
        steps,
    )
    yield Limit("and in all", "rules.budget.MOST_STEPS", f"{budget.MOST_STEPS:,}", refused, steps)
    yield Limit(
        "Columns of a query, at any level",
        "rules.budget.MAX_COLUMNS",
        f"{budget.MAX_COLUMNS:,}",
        "54011, as on the server",
        f"{here}::test_a_query_has_so_many_columns",
    )
    yield Limit(
        "Nested queries",
        "rules.analyse.queries.MAX_NESTING",
        f"{MAX_NESTING:,}",
        refused,
        f"{here}::test_queries_nest_so_deep",
    )
    yield Limit(
        "Depth of an expression",
        "rules.analyse.tree.MAX_TREE_DEPTH",
        f"{MAX_TREE_DEPTH:,}",
        refused,
        f"{here}::test_expressions_nest_so_deep",
    )
    kept = f"{here}::test_the_plan_cache_is_bounded_in_entries_and_bytes"
    yield _cache("Plans of one database", "plans", _FORGET, kept)
    yield _cache("Their bytes", "plan_bytes", _FORGET, kept)
    yield _cache("Decisions by text", "texts", _FORGET, kept)
    yield _cache("Their bytes", "decision_bytes", _FORGET, kept)
    yield _cache("Text of a decision that is kept", "text_bytes", "found by its shape", kept)
    yield _cache(
        "Characters of a shape that is kept",
        "shape_chars",
        "planned each time",
        f"{here}::test_a_long_shape_is_planned_each_time",
    )
    yield _cache("Logins whose rights are kept", "principals", _FORGET, f"{here}::test_logins_are_bounded")
    yield from _results()
    yield _constant(
        "Unknown relations of one database that are looked for, and temporary ones that are known",
        decisions,
        "MAX_WANTED",
        "looked for when those before were; forgotten",
        f"{here}::test_relations_that_are_looked_for_are_bounded",
    )
    yield _constant(
        "Sealed columns of a database whose types its catalogs tell",
        plain_catalogs,
        "MAX_SEALED",
        "all of them are texts to the catalogs",
        "tests/catalogs/test_catalogs.py::test_more_sealed_columns_than_are_told",
    )
    yield Limit(
        "Look-ups of one login a minute",
        "`lookups.per_minute` of the rules",
        f"{DEFAULT_LOOKUPS}; up to {MAX_LOOKUPS:,}",
        "53400",
        "tests/leaks/test_lookups.py::test_the_limit_and_the_record",
    )
    yield _constant(
        "Age of a ticket",
        lookup,
        "TICKET_SECONDS",
        "42501",
        "tests/writes/test_tickets.py::test_it_is_no_use_at_another_time",
        unit=" s",
    )
    yield _constant(
        "Tickets that a transaction remembers, the last ones",
        lookup,
        "TICKETS_REMEMBERED",
        "42501",
        "tests/writes/test_tickets.py::test_so_much_is_remembered",
        sized=True,
    )


def _results() -> Iterator[Limit]:
    books = "tests/session/test_books.py"
    found = f"{books}::test_the_cache_is_bounded_and_keeps_plans_apart"
    computed = f"{books}::test_computed_statements_are_bounded"
    longer = f"{books}::test_long_descriptions_are_looked_at_each_time"
    yield _constant("Findings by a result's description, of one database", witness, "FINDINGS", _FORGET, found)
    yield _constant("Description whose finding is kept", witness, "DESCRIPTION_BYTES", _ANEW, longer, sized=True)
    yield _constant(
        "Encoders of one column, by format and settings",
        values,
        "_ENCODERS",
        _FORGET,
        "tests/session/test_values.py::test_encoders_are_bounded",
    )
    yield _constant(
        "Elements of an array that is sealed",
        values,
        "ELEMENTS",
        "54000",
        "tests/session/test_values.py::test_so_many_elements",
    )
    yield _constant("Computed statements that are kept, of one database", prepared, "COMPUTED", _FORGET, computed)
    yield _constant("Text of one that is kept", prepared, "COMPUTED_BYTES", _ANEW, computed, sized=True)
    yield _constant(
        "Fetches that are tried for one statement that has to be computed",
        taking_apart,
        "_MAX_JUDGED",
        "0AP01: it is not computed",
        "tests/proxy/test_limits.py::test_so_many_fetches_are_tried",
    )


def _connection() -> Iterator[Limit]:
    sessions, relayed = "tests/session/test_session.py", "tests/proxy/test_relay.py"
    yield _session("Prepared statements", "statements", "53400", f"{sessions}::test_limits_of_the_books")
    yield _session(
        "Their texts together",
        "statement_text",
        "53400",
        f"{sessions}::test_texts_of_prepared_statements_are_bounded_together",
    )
    yield _session("Portals and cursors", "portals", "53400", f"{sessions}::test_limits_of_the_books")
    yield _session(
        "Messages sent and not answered (pipelining)",
        "pending",
        f"the client {_WAIT}",
        f"{sessions}::test_a_full_pipeline_holds_the_client",
    )
    held = f"{sessions}::test_too_much_while_held_ends_the_session"
    yield _session(
        "Bytes of a client that should have waited",
        "held_client",
        f"54000, {_END}",
        f"{sessions}::test_a_client_that_does_not_wait",
    )
    yield _session("Bytes of a server that should have waited", "held_server", f"54000, {_END}", held)
    yield _constant(
        "Bytes of a client that are read while it waits for the calculator",
        session,
        "_AHEAD",
        f"the client {_WAIT}",
        "tests/session/test_computer.py::test_while_it_computes_nothing_is_read_and_nothing_is_lost",
        sized=True,
    )
    temporary = f"{sessions}::test_too_many_temporary_relations_are_not_known"
    yield _constant("Temporary relations", settings, "_MOST_TEMPORARY", "0AP01, where they could matter", temporary)
    strange = "tests/session/test_strangers.py::test_what_is_familiar_is_bounded"
    yield _constant("Descriptions that named no unknown relation", strangers, "_REMEMBERED", _FORGET, strange)
    yield _constant("Description of which that is remembered", strangers, "_LONGEST", _ANEW, strange, sized=True)
    known = "tests/session/test_lane.py"
    yield _constant(
        "Requests under way in the fast lane",
        lane,
        "UNITS",
        "the slow lane takes the next",
        f"{known}::test_requests_under_way_are_bounded",
    )
    yield _constant(
        "Answers in the fast lane that wait for records",
        lane,
        "HELD",
        f"the server {_WAIT}",
        f"{known}::test_answers_that_wait_are_bounded",
        sized=True,
    )
    yield _constant(
        "Unnamed statements that a session knows",
        lane,
        "UNNAMED",
        _FORGET,
        f"{known}::test_unnamed_statements_are_bounded",
    )
    yield _constant(
        "Parse of one of them",
        lane,
        "UNNAMED_BYTES",
        _ANEW,
        f"{known}::test_unnamed_statements_are_bounded",
        sized=True,
    )
    yield _constant(
        "Texts known to pass, of one login and settings",
        lane,
        "SHAPES",
        _FORGET,
        f"{known}::test_known_texts_are_bounded",
    )
    yield _constant(
        "Logins, settings and generations of which texts are known",
        lane,
        "SETS",
        _FORGET,
        f"{known}::test_sets_of_known_texts_are_bounded",
    )
    yield _constant(
        "Text that is known to pass",
        lane,
        "SHAPE_BYTES",
        _ANEW,
        f"{known}::test_long_texts_and_descriptions_are_not_kept",
        sized=True,
    )
    yield _constant(
        "Description that is kept for one",
        lane,
        "ROW_BYTES",
        _ANEW,
        f"{known}::test_long_texts_and_descriptions_are_not_kept",
        sized=True,
    )
    yield _set(
        "Unsent bytes to one side",
        Limits,
        "write_buffer",
        f"the other side {_WAIT}",
        f"{relayed}::test_a_huge_value_is_never_held",
    )
    yield _set(
        "Time to take the last bytes",
        Limits,
        "close_seconds",
        "cut",
        f"{relayed}::test_a_client_that_takes_nothing_cannot_hold_the_end_up",
    )


def _worker() -> Iterator[Limit]:
    drain = "tests/faults/test_drain.py::test_sigterm_drains"
    duck = "tests/proxy/test_server.py::test_a_lame_duck_s_time_ends_by_itself"
    yield _set("Time for load balancers when pgveil stops", Limits, "lame_duck_seconds", "the port closes", duck)
    yield _set("Time for transactions when a worker stops", Limits, "drain_seconds", f"57P01, {_END}", drain)
    first = f"{connection.FIRST_QUESTION_SECONDS:g} s"
    yield Limit(
        "Time for the first statement of a client that comes then",
        "proxy.connection.FIRST_QUESTION_SECONDS",
        first,
        f"57P01, {_END}",
        drain,
    )
    yield Limit(
        "Time for a statement that runs at a reload under the rules it began with",
        "proxy.guard.HAND_OVER_SECONDS",
        f"{guard.HAND_OVER_SECONDS:g} s",
        "held against the new ones: withheld where these differ",
        "tests/proxy/test_guard.py::test_each_reload_gives_what_is_on_its_way_a_minute_of_its_own",
    )
    yield Limit(
        "Databases",
        "proxy.databases.MAX_DATABASES",
        f"{databases.MAX_DATABASES}",
        f"08001, {_END}",
        "tests/proxy/test_limits.py::test_databases_are_bounded",
    )
    queue = "tests/audit/test_log.py::test_a_full_queue_refuses_statements_and_still_notes_outcomes"
    yield Limit("Audit records not yet durable", "audit.log.MAX_QUEUE", f"{audit_log.MAX_QUEUE:,}", "58030", queue)
    queued = "tests/audit/test_log.py::test_a_queue_of_bytes_is_limited_too"
    yield Limit("Their bytes", "audit.log.MAX_QUEUE_BYTES", size(audit_log.MAX_QUEUE_BYTES), "58030", queued)
    record = "tests/audit/test_log.py::test_a_record_over_the_limit_is_refused_and_leaves_no_gap"
    yield Limit("One audit record", "audit.log.MAX_RECORD_BYTES", size(audit_log.MAX_RECORD_BYTES), "58030", record)
    yield from _processes()
    yield _set(
        "Shapes that observe mode keeps",
        Observe,
        "shapes",
        "counted only",
        "tests/observe/test_findings.py::test_what_is_beyond_the_bound_is_counted",
    )


def _processes() -> Iterator[Limit]:
    probing = "tests/proxy/test_probes.py"
    turned = f"{probing}::test_more_than_the_limit_are_turned_away"
    yield _constant("Requests of metrics and probes at a time", probes, "MAX_REQUESTS", "closed unanswered", turned)
    slow = f"{probing}::test_one_that_trickles_is_hung_up_on"
    yield _constant("Time of one of them", probes, "TOTAL_SECONDS", "closed", slow)
    yield _constant(
        "Question at the control socket",
        control,
        "_LONGEST",
        "closed unanswered",
        "tests/proxy/test_control.py::test_a_question_has_an_end",
        sized=True,
    )
    line = "tests/proxy/test_limits.py::test_a_worker_and_its_supervisor_say_only_so_much"
    yield _constant("Message between supervisor and worker", channel, "_LONGEST", "taken for its end", line, sized=True)
    why = "tests/proxy/test_limits.py::test_an_explanation_is_cut"
    yield _constant("What a worker says is wrong", channel, "MAX_WHY", "cut", why, unit=" characters")
    logged = "tests/proxy/test_limits.py::test_a_log_field_is_short_or_left_out"
    yield _constant("Text of a log line's field", logs, "MAX_TEXT", "left out, and named", logged, unit=" characters")


def _computed() -> Iterator[Limit]:
    calculator = "tests/calculator/test_limits.py"
    fetched = f"{calculator}::test_too_many_rows_and_bytes"
    yield _set("Rows fetched for one statement, and given by it", CalculatorSettings, "rows", "54000", fetched)
    yield _set("Their bytes", CalculatorSettings, "size", "54000", fetched)
    yield _session(
        "Rows fetched, without the setting",
        "collected_rows",
        "54000",
        "tests/session/test_computer.py::test_what_may_not_be_computed_on",
    )
    yield _session(
        "Bytes fetched, without the setting",
        "collected_bytes",
        "54000",
        "tests/session/test_computer.py::test_what_may_not_be_computed_on",
    )
    yield _set(
        "Bytes fetched for all statements of a worker",
        CalculatorSettings,
        "held",
        "53200",
        "tests/session/test_computer.py::test_what_may_not_be_computed_on",
    )
    yield _set(
        "Memory of one computation", CalculatorSettings, "memory", "53200", f"{calculator}::test_memory_and_no_file"
    )
    yield _set(
        "Time of one computation, and to wait for it",
        CalculatorSettings,
        "seconds",
        "57014",
        f"{calculator}::test_time",
    )
    at_once = f"{calculator}::test_connections_are_bounded_and_shared"
    yield _set("Computations at a time", CalculatorSettings, "connections", _WAIT, at_once)
    yield _set("Statements that wait for one", CalculatorSettings, "waiting", "53300", f"{calculator}::test_the_queue")


def page() -> str:
    """docs/limits.md."""
    parts = [
        "# Limits\n",
        "Everything that somebody else can make longer, deeper or more has a bound, and beyond it something definite happens. What a client is told",
        "stands in [errors.md](errors.md). Rows with a name in `code` are settings of the [configuration](configuration.md), and their defaults are",
        "shown; those for a worker hold in each worker by itself. This page is made from `proxy/limit_table.py` (`pgveil limits`); a test keeps the two",
        "equal, and another holds that every test that is named here exists.\n",
    ]
    for group in groups():
        parts.append(f"## {group.title}\n")
        parts.append("| What | How much | Beyond it | Where | Test |")
        parts.append("|---|---|---|---|---|")
        parts += [f"| {r.what} | {r.value} | {r.happens} | {r.source} | `{r.test}` |" for r in group.limits]
        parts.append("")
    return "\n".join(parts)
