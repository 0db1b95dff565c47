"""The calculator: a PostgreSQL of pgveil's own, without tables and without data, that computes on opened values (docs/adr/0013)."""
