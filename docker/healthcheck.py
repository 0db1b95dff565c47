"""Exit 0 when /readyz answers 200, else 1. The image has no curl, and needs none."""

# ruff: noqa: INP001 - run as a script

from __future__ import annotations

import http.client
import os
import sys


def main() -> int:
    """Ask the probes' listener of this container; PGVEIL_PROBES names another host:port."""
    host, _, port = os.environ.get("PGVEIL_PROBES", "127.0.0.1:9632").rpartition(":")
    try:
        client = http.client.HTTPConnection(host, int(port), timeout=4)
        client.request("GET", "/readyz")
        return 0 if client.getresponse().status == http.client.OK else 1
    except (OSError, ValueError, http.client.HTTPException):
        return 1


if __name__ == "__main__":
    sys.exit(main())
