"""`pgveil doctor`: whether a live system is set up so that what pgveil promises holds, and what to do where it is not (docs/adr/0023)."""
