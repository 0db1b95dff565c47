"""lib/pq by database/sql and its pool: the program of tests/drivers/go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.drivers import program_go

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = program_go.version_of("github.com/lib/pq")
LACKING: Mapping[str, str] = {
    "channel_binding": "lib/pq has no channel binding",
    "tls_direct": "lib/pq names no protocol in its TLS hello, which PostgreSQL 17 refuses as pgveil does",
    "binary": "lib/pq takes text format but for parameters (`modes`)",
    "batch": "database/sql has no batches",
    "pipeline": "database/sql has no pipelines",
    "cursor": "lib/pq fetches whole results",
    "copy_out": "lib/pq has no COPY out",
    "notice": "lib/pq's notice handlers are beside database/sql",
    "large_object": "lib/pq has no interface to them",
    "two_phase": "database/sql has no interface to it",
    "introspection": "lib/pq asks nothing of the catalog",
    "orm": "lib/pq is no ORM",
}


def prepare() -> list[str]:
    """The program's command. Raises ToolchainMissing."""
    return program_go.prepare("pq")
