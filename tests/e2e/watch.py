"""The promise "nothing leaves unrecorded", looked at from outside: each protected value that is sent to a login has its durable record by then.

The tap asks before it passes bytes on. What pgveil has written of the audit log is read at that moment, so a record that comes later does not count.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Digits, and words as of e-mail addresses; the letter of the next message may stand right behind.
_TOKENS = (re.compile(rb"[0-9]{5,}"), re.compile(rb"[\w@.+-]{5,}"))
_CARRIED = 128  # a value may be cut by the end of what came


@dataclass
class Watch:
    """`values`: protected values, with the columns that hold them. `found`: those that were sent without a record, as (login, column)."""

    audit: Path
    values: Mapping[bytes, frozenset[str]]
    found: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    _offsets: dict[Path, int] = field(default_factory=dict)
    _recorded: dict[str, set[str]] = field(default_factory=dict)
    _carried: dict[str, bytes] = field(default_factory=dict)

    def begins(self, client: str) -> None:
        """A connection comes from `client`. What was recorded of an earlier one from the same port counts no longer."""
        self._read()
        self._recorded.pop(client, None)
        self._carried.pop(client, None)

    def sent(self, login: str, client: str, data: bytes) -> None:
        """Bytes are about to be sent to a login at `client`, an address and port as pgveil sees it."""
        seen = self._carried.get(client, b"") + data
        self._carried[client] = seen[-_CARRIED:]
        tokens = {token for pattern in _TOKENS for token in pattern.findall(seen)}
        tokens |= {token[:-1] for token in tokens}
        columns = [self.values[token] for token in tokens if token in self.values]
        for wanted in columns:
            self.checked += 1
            if not wanted & self._recorded.get(client, set()):
                self._read()
            if not wanted & self._recorded.get(client, set()):
                self.found.append((login, min(wanted)))

    def _read(self) -> None:
        """What has been written of the audit log since the last time."""
        for path in self.audit.rglob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + len(whole) + len(newline)
            for line in whole.splitlines():
                self._take(json.loads(line)["event"])

    def _take(self, event: dict[str, Any]) -> None:
        if event["kind"] == "statement":
            self._recorded.setdefault(event["client"], set()).update(c["column"] for c in event["columns"])
