"""Names of PostgreSQL's own that privileges on tables don't cover: what a login that can't be fenced must not name."""

from __future__ import annotations

# Functions and system views of PostgreSQL itself that run a text, read files or show other sessions' texts and values. Privileges keep
# ordinary logins from what they must not see; for those that privileges can't fence they are refused.
DANGEROUS_WORDS = frozenset(
    {
        *(
            f"{what}_to_xml{form}"
            for what in ("query", "table", "cursor", "schema", "database")
            for form in ("", "schema", "_and_xmlschema")
        ),
        *(
            "ts_stat",
            "ts_rewrite",
            "pg_stats",
            "pg_statistic",
            "pg_stats_ext",
            "pg_stats_ext_exprs",
            "pg_statistic_ext_data",
        ),
        *(
            "pg_stat_activity",
            "pg_stat_get_activity",
            "pg_stat_get_backend_activity",
            "pg_stat_statements",
            "pg_read_file",
            "pg_read_file_old",
            "pg_read_binary_file",
            "pg_ls_dir",
        ),
        *(
            "lo_import",
            "lo_export",
            "lo_get",
            "lowrite",
            "loread",
            "pg_largeobject",
        ),
        # Rows as they were written, of logical decoding; files of the extension adminpack.
        *(f"pg_logical_slot_{what}_{form}changes" for what in ("get", "peek") for form in ("", "binary_")),
        *("pg_file_read", "pg_file_write", "pg_file_rename"),
        # Pages and log records as they lie on disk, of the extensions pageinspect and pg_walinspect; xml2 runs a text.
        *("get_raw_page", "heap_page_items", "heap_page_item_attrs", "tuple_data_split", "bt_page_items"),
        *("bt_multi_page_items", "brin_page_items", "gist_page_items", "gin_leafpage_items", "hash_page_items"),
        *("gist_page_items_bytea", "pg_get_wal_block_info", "pg_get_wal_records_info", "pg_get_wal_record_info"),
        *("pg_get_wal_records_info_till_end_of_wal", "xpath_table"),
    }
)
# Those of them that lead out of the database that they are called in: to files, to the log of the whole server, to everybody's sessions.
CROSSING_WORDS = frozenset(
    {
        *("pg_stat_activity", "pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_stat_statements"),
        *("pg_read_file", "pg_read_file_old", "pg_read_binary_file", "pg_ls_dir", "lo_import", "lo_export"),
        *("pg_file_read", "pg_file_write", "pg_file_rename"),
        *("pg_get_wal_block_info", "pg_get_wal_records_info", "pg_get_wal_record_info"),
        "pg_get_wal_records_info_till_end_of_wal",
    }
)
# Roles of PostgreSQL's own whose members privileges on tables don't keep out.
PRIVILEGED_ROLES = frozenset(
    {
        *("pg_read_all_data", "pg_read_all_stats", "pg_monitor", "pg_read_server_files"),
        *("pg_write_server_files", "pg_execute_server_program"),
    }
)


def is_dangerous(words: frozenset[str]) -> bool:
    """Whether a text names any of them, a TOAST table, where long values lie as they are, or a function of the extension dblink."""
    return not words.isdisjoint(DANGEROUS_WORDS) or any(word.startswith(("pg_toast", "dblink")) for word in words)


def is_crossing(words: frozenset[str]) -> bool:
    """Whether a text names one that leads out of its database, or a function of the extension dblink."""
    return not words.isdisjoint(CROSSING_WORDS) or any(word.startswith("dblink") for word in words)
