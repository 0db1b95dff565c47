"""Why pgveil refused: the reasons that its audit log gives."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WAIT_SECONDS = 3.0


@dataclass
class Refusals:
    """Reads the log's new records as they come. A refusal's record gates nothing, so it may come a moment after its error."""

    audit: Path
    _read: dict[Path, int] = field(default_factory=dict)
    _last: dict[str, list[str]] = field(default_factory=dict)

    def mark(self, login: str) -> int:
        """How many refusals of a login are recorded by now."""
        self._follow()
        return len(self._last.get(login, []))

    def all_since(self, login: str, mark: int) -> list[str]:
        """The reasons of all refusals after `mark` that are recorded by now."""
        self._follow()
        return self._last.get(login, [])[mark:]

    def since(self, login: str, mark: int) -> str:
        """The reason of the newest refusal after `mark`; "unrecorded" where none comes."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self._follow()
            found = self._last.get(login, [])
            if len(found) > mark:
                return found[-1]
            if time.monotonic() > deadline:
                return "unrecorded"
            time.sleep(0.01)

    def _follow(self) -> None:
        for path in sorted(self.audit.rglob("*.jsonl")):
            start = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(start)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = start + len(whole)
            for line in whole.splitlines():
                event = json.loads(line)["event"]
                if event.get("kind") == "refusal":
                    self._last.setdefault(event["login"], []).append(event["reason"])
