"""Codecs of the PostgreSQL frontend/backend protocol; no I/O."""
