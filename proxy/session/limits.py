"""The bounds of one session's memory, each with what happens when it is reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Counts and sizes (bytes) of what one session may hold.

    `pending`: messages sent to the server and not answered; the client waits when it is reached.
    `statements`, `statement_text`: prepared statements and their texts together; a Parse beyond is refused (53400).
    `portals`: open portals; a Bind beyond is refused (53400).
    `collected_rows`, `collected_bytes`: what a computation may fetch; a statement that needs more fails (54000).
    `held_client`, `held_server`: bytes taken from a peer while it should have waited; beyond, the session ends (the relay is at fault).
    """

    pending: int = 4096
    statements: int = 8192
    statement_text: int = 64 << 20
    portals: int = 4096
    collected_rows: int = 100_000
    collected_bytes: int = 64 << 20
    held_client: int = 8 << 20
    held_server: int = 8 << 20
