"""SQL that PostgreSQL 17 and 18 brought, on protected tables."""
