"""Sources of statements for the twin test: each module with `run(pg, home) -> Tally` is one."""
