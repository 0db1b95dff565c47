"""Observe mode: statements run as they came, and what pgveil would have done about them is kept."""
