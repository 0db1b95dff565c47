"""Which statements may change the session's settings (configuration parameters) on which it depends how pgveil reads, seals and opens.

A statement changes settings by SET and its kin, by set_config() anywhere in it, by an UPDATE of pg_settings, or by a function that does
one of these and may be called by a name, an operator, a view, a rule, a default or a trigger. What pgveil can't read may do any of it. The same functions
may give a session's names (portals, prepared statements, temporary relations) another meaning, so both are found together.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from rules.lexer import Kind, LexError, literal_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rules.catalog import Catalog, Function, Relation
    from rules.lexer import Lexed
    from rules.sources import Said, Sources


class Change(IntEnum):
    """What a statement may do to the settings that matter; the greater includes the less."""

    NONE = 0
    FORMS = 1  # how values are written and read, and nothing that the meaning of a text depends on
    ALL = 2


# How values look and are read: what `keys.types` and the calculator go by.
FORMS: Final = frozenset(
    (
        *("datestyle", "timezone", "intervalstyle", "bytea_output", "extra_float_digits", "lc_monetary", "lc_numeric"),
        *("lc_time", "xmlbinary", "xmloption", "timezone_abbreviations"),
    )
)
# What a text means, and who runs it. `array_nulls` and `transform_null_equals` change how constants and comparisons are read.
MEANING: Final = frozenset(
    (
        *("search_path", "role", "session_authorization", "standard_conforming_strings", "client_encoding"),
        *("backslash_quote", "array_nulls", "transform_null_equals"),
    )
)
# Of those that a session can set, the others; any name that is nowhere here may matter. tests/settings holds this against each server.
_OTHERS: Final = """
    allow_in_place_tablespaces allow_system_table_mods application_name backend_flush_after backtrace_functions check_function_bodies
    client_connection_check_interval client_min_messages commit_delay commit_siblings compute_query_id constraint_exclusion
    cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost createrole_self_grant cursor_tuple_fraction deadlock_timeout
    debug_discard_caches debug_logical_replication_streaming debug_parallel_query debug_pretty_print debug_print_parse
    debug_print_plan debug_print_rewritten default_statistics_target default_table_access_method default_tablespace
    default_text_search_config default_toast_compression default_transaction_deferrable default_transaction_isolation
    default_transaction_read_only dynamic_library_path effective_cache_size effective_io_concurrency enable_async_append
    enable_bitmapscan enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin
    enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize enable_mergejoin enable_nestloop
    enable_parallel_append enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate enable_partitionwise_join
    enable_presorted_aggregate enable_self_join_elimination enable_seqscan enable_sort enable_tidscan escape_string_warning
    event_triggers exit_on_error extension_control_path file_copy_method force_parallel_mode from_collapse_limit geqo geqo_effort
    geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold gin_fuzzy_search_limit gin_pending_list_limit
    hash_mem_multiplier icu_validation_level idle_in_transaction_session_timeout idle_session_timeout ignore_checksum_failure
    io_combine_limit jit jit_above_cost jit_dump_bitcode jit_expressions jit_inline_above_cost jit_optimize_above_cost
    jit_tuple_deforming join_collapse_limit lc_messages lo_compat_privileges local_preload_libraries lock_timeout log_duration
    log_error_verbosity log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample log_min_duration_statement
    log_min_error_statement log_min_messages log_parameter_max_length log_parameter_max_length_on_error log_parser_stats
    log_planner_stats log_replication_commands log_statement log_statement_sample_rate log_statement_stats log_temp_files
    log_transaction_sample_rate logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem
    max_parallel_maintenance_workers max_parallel_workers max_parallel_workers_per_gather max_stack_depth md5_password_warnings
    min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation parallel_setup_cost
    parallel_tuple_cost password_encryption plan_cache_mode quote_all_identifiers random_page_cost recursive_worktable_factor
    restrict_nonsystem_relation_kind row_security scram_iterations seed seq_page_cost session_preload_libraries
    session_replication_role statement_timeout stats_fetch_consistency synchronize_seqscans synchronous_commit
    tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout temp_buffers temp_file_limit
    temp_tablespaces trace_notify trace_sort track_activities track_cost_delay_timing track_counts track_functions
    track_io_timing track_wal_io_timing transaction_deferrable transaction_isolation transaction_read_only transaction_timeout
    update_process_title vacuum_buffer_usage_limit vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty
    vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age vacuum_freeze_min_age vacuum_freeze_table_age
    vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age
    vacuum_multixact_freeze_table_age vacuum_truncate wal_compression wal_consistency_checking wal_init_zero wal_recycle
    wal_sender_timeout wal_skip_threshold work_mem zero_damaged_pages
"""
HARMLESS: Final = frozenset(_OTHERS.split())
# What may stand behind SET and RESET in place of a parameter's name, with the parameter that it sets. `characteristics`: SET SESSION ...
_SPELLINGS: Final = {
    "time": "timezone",
    "schema": "search_path",
    "names": "client_encoding",
    "authorization": "session_authorization",
    "xml": "xmloption",
    "transaction": "transaction_isolation",
    "characteristics": "transaction_isolation",
    "constraints": "transaction_isolation",
    "all": "search_path",
}
# Functions of PostgreSQL's own that run a text which they are given, or have the configuration read anew.
_RUN_TEXT: Final = frozenset(
    (
        *(f"{what}_to_xml{form}" for what in ("query", "cursor") for form in ("", "schema", "_and_xmlschema")),
        *("ts_stat", "ts_rewrite", "pg_reload_conf"),
    )
)
# Words of a function's body behind which a portal or a prepared statement may become another one.
_REBINDING: Final = frozenset(("close", "open", "deallocate", "prepare", "discard"))
_ALWAYS: Final = frozenset(("set_config", "pg_settings"))
_WORD: Final = re.compile(r"[^\W\d][\w$]*")
_READ: Final = frozenset(("sql", "plpgsql"))
_COMPILED: Final = frozenset(("c", "internal"))
# Functions of extensions that run texts or change settings though they are compiled.
_CALLING_BACK: Final = ("dblink", "plv8", "crosstab", "connectby", "xpath_table", "set_user", "reset_user")


def of_parameter(name: str) -> Change:
    """What setting a parameter changes. Names with a dot belong to extensions and applications."""
    folded = name.lower()
    if "." in folded or folded in HARMLESS:
        return Change.NONE
    return Change.FORMS if folded in FORMS else Change.ALL


def of_set(lexed: Lexed, first: int, last: int) -> Change:
    """What the SET, RESET or DISCARD of tokens `first..last` changes."""
    tokens = lexed.tokens
    if tokens[first].value == "discard":
        return Change.NONE if tokens[last].value in {"plans", "sequences"} else Change.ALL
    at = first + 1
    while at < last and tokens[at].kind is Kind.WORD and tokens[at].value in {"local", "session"}:
        at += 1
    if at > last or tokens[at].kind not in (Kind.WORD, Kind.QUOTED):
        return Change.ALL
    if at < last and tokens[at + 1].value == ".":
        return Change.NONE
    return of_parameter(_SPELLINGS.get(tokens[at].value, tokens[at].value))


class Names:
    """Names whose use may change settings: words, and the signs of operators."""

    __slots__ = ("signs", "words")

    def __init__(self, words: Iterable[str] = ()) -> None:
        self.words = set(words)
        self.signs: set[str] = set()

    def __len__(self) -> int:
        return len(self.words) + len(self.signs)

    def by(self, lexed: Lexed, first: int, last: int) -> Change:
        """What using them, set_config() or pg_settings in tokens `first..last` may change."""
        whole = first == 0 and last == len(lexed.tokens) - 1
        # Of one statement among many its own words: asked of each, the text's would be looked at again and again.
        words = lexed.words if whole else {token.value for token in lexed.tokens[first : last + 1]}
        if not (
            self.signs or _names_own_schema(words) or not words.isdisjoint(_ALWAYS) or not words.isdisjoint(self.words)
        ):
            return Change.NONE
        return max((self._by_token(lexed, at, last) for at in range(first, last + 1)), default=Change.NONE)

    def used_by(self, said: Said) -> bool:
        """Whether a text of the catalog uses one of them, or changes something by itself."""
        words = said.words
        return said.changes or not words.isdisjoint(self.words) or not said.called.isdisjoint(self.signs)

    def _by_token(self, lexed: Lexed, at: int, last: int) -> Change:
        token = lexed.tokens[at]
        if token.kind is Kind.OP:
            return Change.ALL if token.value in self.signs else Change.NONE
        if token.kind not in (Kind.WORD, Kind.QUOTED):
            return Change.NONE
        if token.value == "set_config":
            return _of_call(lexed, at, last)
        updated = token.value == "pg_settings" and "update" in lexed.words
        return Change.ALL if updated or token.value in self.words or _names_own_schema((token.value,)) else Change.NONE


class Changing:
    """The names of one database whose use may change settings. `told`: those whose texts say so, not those that only could run any text."""

    __slots__ = ("_names", "_told")

    def __init__(self, catalog: Catalog, sources: Sources, reading: frozenset[str]) -> None:
        """`reading`: functions of protected relations, of which those that make or drop relations may hide one."""
        hidden = [_hidden(relation) for relation in catalog.relations.values()]
        self._told = _closure(catalog, hidden, sources, reading, guess=False)
        self._names = _closure(catalog, hidden, sources, reading, guess=True)

    def by(self, lexed: Lexed, first: int, last: int) -> Change:
        """What the statement of tokens `first..last` may change, but for what SET and its kin do."""
        return self._names.by(lexed, first, last)

    def told_by(self, lexed: Lexed, first: int, last: int) -> Change:
        """What it is known to change."""
        return self._told.by(lexed, first, last)


class _Hidden(NamedTuple):
    """What runs when a relation is used. `words`: every word of the texts, so that few of them have to be cut into tokens."""

    relation: str
    functions: frozenset[str]
    texts: tuple[str, ...]
    words: frozenset[str]


def _hidden(relation: Relation) -> _Hidden:
    texts = [*relation.rules, *(c.default for c in relation.columns if c.default is not None)]
    if relation.definition is not None:
        texts.append(relation.definition)
    words = frozenset(_WORD.findall("\n".join(texts))) if texts else frozenset[str]()
    return _Hidden(relation.name.name, frozenset(f.name for f in relation.trigger_functions), tuple(texts), words)


def _closure(
    catalog: Catalog, hidden: list[_Hidden], sources: Sources, reading: frozenset[str], *, guess: bool
) -> Names:
    found = Names(_RUN_TEXT if guess else ())
    before = -1
    while len(found) != before:
        before = len(found)
        for routines, names in ((catalog.functions, found.words), (catalog.operators, found.signs)):
            for routine in routines:
                name = routine.name.name
                if name not in names and _changes(routine, sources, found, reading, guess=guess):
                    names.add(name)
        # What is quoted for its form can't be told by words.
        plain = not found.signs and all(map(_WORD.fullmatch, found.words))
        for each in hidden:
            if each.relation not in found.words and _reaches(each, sources, found, plain=plain):
                found.words.add(each.relation)
    return found


def _changes(routine: Function, sources: Sources, names: Names, reading: frozenset[str], *, guess: bool) -> bool:
    if routine.unread:
        return guess
    if routine.language in _COMPILED:
        return guess and routine.name.name.startswith(_CALLING_BACK)
    if routine.language not in _READ:
        return guess or "set_config" in routine.source
    try:
        body = sources.said(routine.source)
    except LexError:
        return guess
    words = body.words
    runs_text = (routine.language == "plpgsql" and "execute" in words) or "do" in words
    if guess and (runs_text or not words.isdisjoint(_REBINDING)):
        return True
    if routine.name.name in reading and not words.isdisjoint({"create", "drop", "alter"}):
        return True
    return names.used_by(body) or body.sets


def changes(body: Lexed) -> bool:
    """Whether a text changes a setting with set_config() or pg_settings."""
    return bool(Names().by(body, 0, len(body.tokens) - 1))


def sets(body: Lexed) -> bool:
    """Whether there is what may be a SET or RESET in a function's body."""
    return any(_sets(body))


def _sets(body: Lexed) -> Iterator[Change]:
    """What may be a SET or RESET within a function's body: those of UPDATE look the same, and count where the column bears a parameter's name."""
    last = len(body.tokens) - 1
    for at, token in enumerate(body.tokens):
        if token.kind is not Kind.WORD or at == last or token.value not in {"set", "reset"}:
            continue
        behind = body.tokens[at + 1].value
        known = _SPELLINGS.get(behind, behind)
        if token.value == "reset" or behind in {"local", "session"} or known in FORMS or known in MEANING:
            yield of_set(body, at, last)


def _reaches(hidden: _Hidden, sources: Sources, names: Names, *, plain: bool) -> bool:
    """Whether using a relation runs something that may change settings. `plain`: the server writes all names without quotes, or as one word in them."""
    if not hidden.functions.isdisjoint(names.words):
        return True
    words = hidden.words
    if plain and words.isdisjoint(names.words) and words.isdisjoint(_ALWAYS) and not _names_own_schema(words):
        return False
    return any(_text_reaches(text, sources, names) for text in hidden.texts)


def _text_reaches(text: str, sources: Sources, names: Names) -> bool:
    try:
        said = sources.said(text)
    except LexError:
        return True
    # A view of pg_settings can be updated like pg_settings itself.
    return "pg_settings" in said.words or names.used_by(said)


def _names_own_schema(words: Iterable[str]) -> bool:
    """Whether a session's own schema is named: the functions in it are in no catalog."""
    return any(word == "pg_temp" or word.startswith("pg_temp_") for word in words)


def _of_call(lexed: Lexed, at: int, last: int) -> Change:
    """set_config(...): of one parameter where its name is a constant."""
    tokens = lexed.tokens
    if (
        at + 3 > last
        or tokens[at + 2].kind is not Kind.STRING
        or (tokens[at + 1].value, tokens[at + 3].value) != ("(", ",")
    ):
        return Change.ALL
    try:
        return of_parameter(literal_value(lexed, at + 2))
    except LexError:
        return Change.ALL
