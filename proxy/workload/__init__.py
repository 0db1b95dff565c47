"""Statements that a database has run, read from its logs and statistics, to be judged before pgveil stands in front of it."""
