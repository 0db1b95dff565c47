"""`python -m proxy` is `pgveil`."""

from proxy.cli import main

main()
