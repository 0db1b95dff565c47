"""Text-like types, boolean, uuid, bytea and enums (PostgreSQL documentation, chapter 8)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from keys.typeio_base import (
    BLANKS,
    OutputSettings,
    ScalarCodec,
    UnrepresentableError,
    WireValueError,
    invalid_syntax,
    need_length,
    utf8,
)


@dataclass(frozen=True, slots=True)
class TextCodec(ScalarCodec):
    """text, and character varying with or without a limit (in characters)."""

    limit: int | None = None
    label: ClassVar[str] = "character varying"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """The text itself; blanks beyond the limit are cut, as SQL says, anything else there is 22001."""
        del settings
        if self.limit is not None and len(text) > self.limit:
            text = _cut(text, self.limit, self.label, exact=exact)
        return text.encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """The binary form is the text form."""
        return self.parse(utf8(data), None, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """The binary form is the text form."""
        return canonical


@dataclass(frozen=True, slots=True)
class CharCodec(ScalarCodec):
    """character(n). Canonical without trailing blanks, which its comparisons ignore; shown padded."""

    limit: int
    label: ClassVar[str] = "character"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """The text without trailing blanks; 22001 where it is longer than the type."""
        del settings
        text = text.rstrip(" ")
        if len(text) > self.limit:
            text = _cut(text, self.limit, self.label, exact=exact)
        return text.encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """The binary form is the text form."""
        return self.parse(utf8(data), None, exact=exact)

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """Padded with blanks to the type's length in characters."""
        del settings
        return self.dump(canonical)

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Never: canonical form is not padded."""
        del settings
        return False

    def dump(self, canonical: bytes) -> bytes:
        """Padded, as the text form."""
        length = len(canonical) if canonical.isascii() else len(canonical.decode())
        return canonical + b" " * (self.limit - length)


def _cut(text: str, limit: int, label: str, *, exact: bool) -> str:
    if exact or text[limit:].strip(" "):
        kind = UnrepresentableError if exact else WireValueError
        raise kind("22001", f"value too long for type {label}({limit})")
    return text[:limit]


_BOOLS = {
    word[:n]: value
    for word, value, shortest in (("true", b"t", 1), ("false", b"f", 1), ("yes", b"t", 1), ("no", b"f", 1))
    for n in range(shortest, len(word) + 1)
} | {"on": b"t", "off": b"f", "of": b"f", "1": b"t", "0": b"f"}


class BoolCodec(ScalarCodec):
    """boolean: t or f."""

    label = "boolean"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """Any unique prefix of the server's words, in any case."""
        del settings, exact
        word = text.strip(BLANKS)
        found = _BOOLS.get(word.lower()) if word.isascii() else None
        if found is None:
            raise invalid_syntax(self.label)
        return found

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """One byte; not 0 is true."""
        del exact
        need_length(data, 1)
        return b"t" if data[0] else b"f"

    def dump(self, canonical: bytes) -> bytes:
        """One byte, 1 or 0."""
        return b"\x01" if canonical == b"t" else b"\x00"


_UUID = re.compile(r"(\{)?(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}(?(1)\})")


class UuidCodec(ScalarCodec):
    """uuid: lower case, hyphens at 8-4-4-4-12."""

    label = "uuid"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """32 hex digits, a hyphen allowed after each four, braces around all of it allowed."""
        del settings
        if _UUID.fullmatch(text) is None:
            raise invalid_syntax(self.label)
        return self.load(bytes.fromhex(text.strip("{}").replace("-", "")), exact=exact)

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """16 bytes."""
        del exact
        need_length(data, 16)
        h = data.hex()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}".encode()

    def dump(self, canonical: bytes) -> bytes:
        """16 bytes."""
        return bytes.fromhex(canonical.decode().replace("-", ""))


_ESCAPED = re.compile(rb"\\(?:\\|([0-3][0-7][0-7]))|[^\\]+", re.DOTALL)
_SHOWN_ESCAPED = re.compile(rb"[\x00-\x1f\x7f-\xff\\]")


class ByteaCodec(ScalarCodec):
    """bytea. Canonical form is the raw bytes: hexadecimal would double every sealed value."""

    label = "bytea"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """Hex format after a leading backslash-x, else escape format (section 8.4)."""
        del settings, exact
        return _from_hex(text[2:]) if text.startswith("\\x") else _from_escape(text.encode())

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Raw bytes."""
        del exact
        return bytes(data)

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """By bytea_output: hex or escape."""
        if settings.bytea_output == "hex":
            return b"\\x" + canonical.hex().encode()
        if settings.bytea_output == "escape":
            return _SHOWN_ESCAPED.sub(lambda m: b"\\\\" if m[0] == b"\\" else b"\\%03o" % m[0][0], canonical)
        raise WireValueError("0AP01", f"bytea_output {settings.bytea_output} is not known")

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Never: canonical form is raw."""
        del settings
        return False

    def dump(self, canonical: bytes) -> bytes:
        """Raw bytes."""
        return canonical


def _from_hex(digits: str) -> bytes:
    # White space may stand between bytes, not inside one.
    pairs = re.fullmatch(r"(?:[0-9a-fA-F]{2}|[ \n\t\r])*", digits)
    if pairs is not None:
        return bytes.fromhex(digits)
    stripped = re.sub(r"[ \n\t\r]", "", digits)
    if re.fullmatch(r"[0-9a-fA-F]*", stripped) is not None and len(stripped) % 2:
        raise WireValueError("22023", "invalid hexadecimal data: odd number of digits")
    raise WireValueError("22023", "invalid hexadecimal digit")


def _from_escape(text: bytes) -> bytes:
    found = bytearray()
    position = 0
    while position < len(text):
        piece = _ESCAPED.match(text, position)
        if piece is None:
            raise invalid_syntax("bytea")
        if piece[1] is not None:
            found.append(int(piece[1], 8))
        elif piece[0] == b"\\\\":
            found.append(0x5C)
        else:
            found += piece[0]
        position = piece.end()
    return bytes(found)


@dataclass(frozen=True, slots=True)
class EnumCodec(ScalarCodec):
    """An enum: its label. Without known labels nothing can be judged, so everything is refused."""

    name: str
    labels: frozenset[str]

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """One of the labels, spelled exactly."""
        del settings, exact
        if not self.labels:
            raise WireValueError("0AP01", f"the labels of enum {self.name} are not known")
        if text not in self.labels:
            raise WireValueError("22P02", f"invalid input value for enum {self.name}")
        return text.encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """The binary form is the label."""
        return self.parse(utf8(data), None, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """The binary form is the label."""
        return canonical
