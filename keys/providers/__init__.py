"""Key providers: where the master key lives, and what a key ring asks of it."""

from __future__ import annotations

from typing import Protocol


class ProviderError(Exception):
    """The master key cannot be used. No text ever holds key bytes."""


class UnwrapError(ProviderError):
    """What was to be unwrapped was not wrapped by this master key with this associated data, or was altered since."""


class MasterKey(Protocol):
    """A key-encryption key that may never leave its provider."""

    @property
    def name(self) -> str:
        """Names the master key to people: a path, an ARN, a label. Never key bytes."""

    def wrap(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt and authenticate at most a few hundred bytes, bound to `associated`. Raises ProviderError."""

    def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Undo `wrap`. Raises UnwrapError where it was not this key's or other associated data, else ProviderError."""
