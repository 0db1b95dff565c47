"""Key providers: where the master key lives."""
