"""A guided demonstration on an embedded PostgreSQL: a retail bank behind pgveil."""
