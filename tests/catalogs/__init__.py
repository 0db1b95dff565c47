"""System catalogs through pgveil."""
