"""The gate: the PostgreSQL wire-protocol proxy itself."""
