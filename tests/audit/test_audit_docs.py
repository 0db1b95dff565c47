"""docs/audit-log.md names what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from audit.event import NAME_LIMIT, STATEMENT_LIMIT, Event, _Session
from audit.log import MAX_QUEUE, MAX_QUEUE_BYTES, MAX_RECORD_BYTES, SEGMENT_BYTES
from audit.query import MAX_HELD
from audit.record import FORMAT, MAX_LINE_BYTES
from audit.verify import MAX_FINDINGS

TEXT = (Path(__file__).parents[2] / "docs" / "audit-log.md").read_text()


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_every_kind_with_its_members(kind: type[msgspec.Struct]) -> None:
    (row,) = re.findall(rf"^\| `{kind.__struct_config__.tag}` \|(.*)\|$", TEXT, re.MULTILINE)
    inherited = [f.name for f in msgspec.structs.fields(_Session)] if issubclass(kind, _Session) else []
    assert ("*who*" in row) == bool(inherited)
    named = re.findall(r"(\[?)`(\w+)`", re.sub(r"\(each: [^)]*\)", "", row))
    own = [f for f in msgspec.structs.fields(kind) if f.name not in inherited]
    assert named == [("" if f.required else "[", f.name) for f in own]


def test_limits() -> None:
    assert f"*who*: {', '.join(f'`{f.name}`' for f in msgspec.structs.fields(_Session))}." in TEXT
    assert f"| records waiting | {MAX_QUEUE} |" in TEXT
    assert f"| bytes waiting | {MAX_QUEUE_BYTES >> 20} MiB |" in TEXT
    assert f"| one record | {MAX_RECORD_BYTES >> 10} KiB |" in TEXT
    assert f"| one line, for readers | {MAX_LINE_BYTES >> 20} MiB |" in TEXT
    assert f"| findings kept by `verify` | {MAX_FINDINGS} |" in TEXT
    assert f"for an outcome | {MAX_HELD} a chain |" in TEXT
    assert f"at most {SEGMENT_BYTES >> 20} MiB" in TEXT
    assert f"`format` ({FORMAT})" in TEXT
    assert f"names at {NAME_LIMIT} characters,\nstatements at {STATEMENT_LIMIT}" in TEXT
