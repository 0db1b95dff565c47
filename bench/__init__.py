"""Measurements: what pgveil costs, as ratios within one run."""
