"""What the database's own files hold: read as an intruder with the disk would, past the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg

# The table itself, its out-of-line values, and the indexes of both.
_FILES = """
WITH tables AS (
    SELECT oid, reltoastrelid FROM pg_catalog.pg_class WHERE oid = $1::text::pg_catalog.regclass
), parts AS (
    SELECT oid FROM tables UNION SELECT reltoastrelid FROM tables WHERE reltoastrelid <> 0
)
SELECT pg_catalog.pg_relation_filepath(oid) FROM parts
UNION ALL
SELECT pg_catalog.pg_relation_filepath(i.indexrelid) FROM pg_catalog.pg_index i JOIN parts p ON i.indrelid = p.oid
"""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A table's files as they are on the disk, and how often a value is in them. `path`: the table's own, below the data directory."""

    path: str
    size: int
    in_table: int
    found: int


async def look(connection: asyncpg.Connection[Any], data: Path, table: str, value: str) -> OnDisk:
    """Let the server write everything out, then look for `value` in the table's files. The connection is a superuser's."""
    await connection.execute("CHECKPOINT")
    paths = [data / row[0] for row in await connection.fetch(_FILES, table)]
    files = tuple(segment for path in paths for segment in _segments(path))
    contents = [file.read_bytes() for file in files]
    counts = [content.count(value.encode()) for content in contents]
    return OnDisk("/".join(files[0].parts[-3:]), sum(map(len, contents)), counts[0], sum(counts))


def _segments(path: Path) -> Iterator[Path]:
    """A relation's file and, beyond a gigabyte, those that go on (path.1, path.2...)."""
    yield path
    number = 1
    while (more := path.with_name(f"{path.name}.{number}")).exists():
        yield more
        number += 1
