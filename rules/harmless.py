"""Compiled functions that show nothing but their arguments, the clock, settings and definitions: what any other one shows, no text tells.

An IMMUTABLE function can't look at the database, so it needs no entry (`pg_proc.provolatile`, asked of the server). Of the others those that are known
stand here, by name; whatever a later version or an extension brings is not harmless until somebody has read what it does.
"""

from __future__ import annotations

import re
from typing import Final

# PostgreSQL 14 to 18, contrib, and the commonest extensions.
_HARMLESS_NAMES: Final = """
    aclexplode aclitemin age array_agg array_sample array_shuffle array_to_json array_to_string clock_timestamp col_description concat concat_ws
    convert convert_from convert_to current_database current_query current_schema current_schemas current_setting current_user
    currval date date_add date_part date_subtract date_trunc enum_first enum_last enum_range extract format format_type gen_random_uuid
    generate_series get_current_ts_config getdatabaseencoding getpgusername has_largeobject_privilege in_range inet_client_addr
    inet_client_port inet_server_addr inet_server_port json_build_array json_build_object json_populate_record json_populate_recordset
    json_to_record json_to_recordset json_to_tsvector jsonb_build_array jsonb_build_object jsonb_path_exists_tz jsonb_path_match_tz
    jsonb_path_query_array_tz jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_record_valid
    jsonb_populate_recordset jsonb_to_record jsonb_to_recordset jsonb_to_tsvector lastval length make_timestamptz money mxid_age nextval now
    numeric obj_description oidvectortypes overlaps phraseto_tsquery plainto_tsquery quote_literal quote_nullable random random_normal
    row_security_active row_to_json session_user set_config setseed setval shobj_description statement_timestamp system_user time timeofday
    timestamp timestamptz timetz timezone to_char to_date to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector
    transaction_timestamp ts_debug ts_headline ts_match_tq ts_match_tt ts_parse ts_token_type txid_current txid_current_if_assigned
    txid_current_snapshot txid_snapshot_xmin txid_status uuidv4 uuidv7 version websearch_to_tsquery xml xml_is_well_formed
    pg_available_extension_versions pg_available_extensions pg_backend_pid pg_basetype pg_blocking_pids pg_cancel_backend
    pg_char_to_encoding pg_client_encoding pg_collation_actual_version pg_collation_for pg_column_compression pg_column_is_updatable
    pg_column_size pg_column_toast_chunk_id pg_conf_load_time pg_current_snapshot pg_current_xact_id pg_current_xact_id_if_assigned
    pg_cursor pg_database_collation_actual_version pg_database_size pg_describe_object pg_encoding_to_char
    pg_event_trigger_ddl_commands pg_event_trigger_dropped_objects pg_event_trigger_table_rewrite_oid
    pg_event_trigger_table_rewrite_reason pg_export_snapshot pg_extension_config_dump pg_extension_update_paths pg_filenode_relation
    pg_get_acl pg_get_catalog_foreign_keys pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef pg_get_keywords
    pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef pg_get_publication_tables pg_get_replica_identity_index
    pg_get_replication_slots pg_get_ruledef pg_get_sequence_data pg_get_serial_sequence pg_get_statisticsobjdef
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef
    pg_get_multixact_members pg_get_wait_events pg_has_role pg_identify_object pg_identify_object_as_address pg_index_column_has_property
    pg_index_has_property pg_indexam_has_property pg_indexes_size pg_input_is_valid pg_is_in_recovery pg_is_other_temp_schema
    pg_is_wal_replay_paused pg_isolation_test_session_is_blocked pg_jit_available pg_last_committed_xact pg_last_xact_replay_timestamp
    pg_listening_channels pg_lock_status pg_my_temp_schema pg_notification_queue_usage pg_options_to_table pg_partition_ancestors
    pg_partition_tree pg_postmaster_start_time pg_prepared_statement pg_prepared_xact pg_relation_filenode pg_relation_filepath
    pg_relation_is_publishable pg_relation_is_updatable pg_relation_size pg_reload_conf pg_safe_snapshot_blocking_pids
    pg_sequence_last_value pg_sequence_parameters pg_settings_get_flags pg_show_all_settings pg_sleep pg_sleep_for pg_sleep_until
    pg_snapshot_xmin pg_table_size pg_tablespace_databases pg_tablespace_location pg_tablespace_size pg_terminate_backend
    pg_timezone_abbrevs pg_timezone_abbrevs_abbrevs pg_timezone_abbrevs_zone pg_timezone_names pg_total_relation_size pg_trigger_depth
    pg_typeof pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_xact_status pg_stat_clear_snapshot pg_stat_force_next_flush
    pg_stat_have_stats pg_current_wal_lsn pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_last_wal_receive_lsn
    pg_last_wal_replay_lsn pg_notify pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system pg_config
    brin_summarize_new_values brin_summarize_range brin_desummarize_range gin_clean_pending_list pg_create_restore_point pg_switch_wal
    anytextcat textanycat amvalidate enum_in enum_out enum_send pg_numa_available pg_input_error_info _pg_index_position

    unaccent similarity_op word_similarity_op word_similarity_commutator_op word_similarity_dist_op word_similarity_dist_commutator_op
    strict_word_similarity_op strict_word_similarity_commutator_op similarity_dist set_limit show_limit uuid_generate_v1 uuid_generate_v1mc
    uuid_generate_v4 gen_random_bytes gen_salt pgp_sym_encrypt pgp_sym_encrypt_bytea pgp_pub_encrypt pgp_pub_encrypt_bytea normal_rand
    pg_stat_statements pg_stat_statements_reset pg_stat_statements_info
    citextsend xml_valid postgres_fdw_get_connections postgres_fdw_disconnect postgres_fdw_disconnect_all pg_old_snapshot_time_mapping pg_prewarm
    ssl_is_used ssl_version ssl_cipher ssl_client_cert_present ssl_client_serial ssl_client_dn ssl_client_dn_field ssl_issuer_dn
    ssl_issuer_field ssl_extension_info
    pgstattuple pgstatindex pgstatginindex pgstathashindex pgstattuple_approx pg_relpages pg_freespace pg_visibility_map
    pg_visibility_map_summary pg_visibility pg_check_frozen pg_check_visible pg_truncate_visibility_map pg_buffercache_pages
    pg_buffercache_summary pg_buffercache_usage_counts pgrowlocks postgis_version postgis_full_version postgis_lib_version
    postgis_geos_version postgis_proj_version postgis_libxml_version
"""
_HARMLESS: Final = frozenset(_HARMLESS_NAMES.split())
_HARMLESS_FORMS: Final = re.compile(
    r"pg_stat_get_(?!activity$|backend_activity$).*|pg_stat_reset.*|has_\w+_privilege|pg_\w+_is_visible|pg_(?:try_)?advisory_\w+"
    r"|to_reg\w+|reg\w+|jsonb?_(?:object_)?agg\w*|(?:date|timestamp|timestamptz|interval)_\w+"
)

_AS_CALLER_NAMES: Final = """
    ts_stat ts_rewrite pg_mcv_list_items pg_stat_get_activity pg_stat_get_backend_activity currtid currtid2 lo_close lo_creat lo_create
    lo_export lo_from_bytea lo_get lo_import lo_lseek lo_lseek64 lo_open lo_put lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink loread
    lowrite crosstab crosstab2 crosstab3 crosstab4 crosstab_hash connectby connectby_text connectby_text_serial xpath_table
"""
# They look at tables, or run a text, with the caller's own rights, and at what is the caller's own: privileges keep from the caller what they keep.
_AS_CALLER: Final = frozenset(
    f"{what}_to_xml{form}"
    for what in ("query", "table", "cursor", "schema", "database")
    for form in ("", "schema", "_and_xmlschema")
) | frozenset(_AS_CALLER_NAMES.split())
# Relations of PostgreSQL's own in which values of others' rows, texts of others' statements or files can be read.
TELLING_RELATIONS: Final = frozenset(
    {
        "pg_statistic",
        "pg_statistic_ext_data",
        "pg_stats",
        "pg_stats_ext",
        "pg_stats_ext_exprs",
        "pg_largeobject",
        "pg_stat_activity",
        "pg_stat_statements",
        "pg_file_settings",
        "pg_hba_file_rules",
        "pg_ident_file_mappings",
    }
)


def is_harmless(name: str) -> bool:
    """Whether a compiled function that is not IMMUTABLE is known to show nothing of what the database holds."""
    return name in _HARMLESS or _HARMLESS_FORMS.fullmatch(name) is not None


def asks_as_caller(name: str) -> bool:
    """Whether privileges on tables and large objects hold for what such a function reads."""
    return name in _AS_CALLER
