"""Every target, by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from tests.fuzz.recorded import seeds as recorded

if TYPE_CHECKING:
    from tests.fuzz.target import Target

# Module by target, in the order in which they run. The modules are imported by name, so that the fuzzer can instrument what they import.
MODULES: Final = {
    "framing": "wire",
    "messages": "wire",
    "login": "wire",
    "lexer": "sql",
    "gate": "sql",
    "session": "sessions",
    "talk": "sessions",
    "rules": "rulesfile",
    "copy": "copying",
    "copy-in": "copying",
    "copy-out": "copying",
    "sealed": "sealing",
    "values": "sealing",
    "masks": "sealing",
    "ring": "sealing",
    "audit-line": "auditing",
    "audit-log": "auditing",
    "config": "files",
    "workload": "files",
    "observations": "files",
    "metrics": "files",
    "meter": "files",
    "engine": "engine",
}


def seeds(name: str) -> list[bytes]:
    """What a target begins with: made up, and recorded."""
    return list(dict.fromkeys((*target(name).seeds(), *recorded(name))))


def target(name: str) -> Target:
    """The target of that name."""
    module = import_module(f"tests.fuzz.{MODULES[name]}")
    found: Target = next(t for t in module.TARGETS if t.name == name)
    return found
