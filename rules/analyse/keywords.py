"""PostgreSQL's reserved words, and words that are ordinary names there and something else to sqlglot."""

from __future__ import annotations

# Reserved in PostgreSQL 15 to 18 (manual, appendix C: "reserved", "reserved (can be function or type)").
_WORDS = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
returning right select session_user similar some symmetric table tablesample then to trailing true union unique
user using variadic verbose when where window with
"""
RESERVED = frozenset(_WORDS.split())

# Joins, operators and clauses of other databases: `customers semi JOIN orders` has an alias to PostgreSQL.
_OTHERS = """
anti apply asof auto_increment byte connect_by_root describe distribute div exec file final fixed glob global kill list
long map match_recognize minus namespace nullable optimize overwrite percent pivot positional pragma prewhere prior
qualify regexp rlike semi settings short sort straight_join str struct top uncache unpivot use variant xor
"""
FOREIGN = frozenset(_OTHERS.split())
