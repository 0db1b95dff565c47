"""One line of the log: an event in its envelope, chained to the line before.

    {"seq":7,"time":"2026-03-01T09:30:00.000000Z","writer":"w1","prev":"<hash of 6>","event":{...},"hash":"<hash of 7>"}\\n

`hash` is the SHA-256 of the line's bytes before `,"hash":"`. It covers `prev`, so it stands for the whole chain up to its record; and as
each line carries its own, the last line is checked as well, though no line follows it.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from audit.event import Event

if TYPE_CHECKING:
    from datetime import datetime

FORMAT = 1
"""The version of the line format and of the segment files."""

GENESIS = "0" * 64
"""`prev` of the first record of a chain."""

MAX_LINE_BYTES = 1 << 20
"""No record may be longer than this, whatever the log's own limit is; readers never hold more than one such line per file."""

_HASH_KEY = b',"hash":"'
_TAIL_BYTES = len(_HASH_KEY) + 64 + len(b'"}\n')

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$")]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The part of a line that its hash covers."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    """Number in the writer's chain, from 1, without gaps."""
    time: Time
    """RFC 3339, UTC, always six digits of fraction."""
    writer: str
    prev: Digest
    """Hash of the record before; GENESIS for the first."""
    event: Event


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read, with the hash that it carries (checked)."""

    body: Body
    hash: str


# Unicode's categories Cc (from DEL on), Cf, Cs, Zl and Zp, of Unicode 16: controls, marks of direction, line ends, what is written and not seen.
_HIDDEN: Final = re.compile(
    r"[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U00013438"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


class Malformed(ValueError):  # noqa: N818 - the name says what is wrong
    """A line is not a record. The message says in what way."""


def stamp(moment: datetime) -> str:
    """An aware UTC datetime in the log's form of RFC 3339. ValueError for another zone's, or none's."""
    text = moment.isoformat(timespec="microseconds")
    if not text.endswith("+00:00"):
        raise ValueError("the audit log's clock must give UTC")
    return text[:-6] + "Z"


def encode(body: Body, encoder: msgspec.json.Encoder) -> tuple[bytes, str]:
    """The line, newline included, and its hash. UnicodeEncodeError: a string that is no Unicode text (see `printable`)."""
    covered = encoder.encode(body)[:-1]
    digest = hashlib.sha256(covered).hexdigest()
    return b'%b,"hash":"%b"}\n' % (covered, digest.encode()), digest


class Decoder:
    """Lines to records. Holds the compiled decoder and encoder, which are worth keeping."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Body)
        self._encoder = msgspec.json.Encoder()

    def decode(self, line: bytes) -> Record:
        """One complete line. Malformed: no newline, wrong hash, not this format's fields, or not in canonical form."""
        covered = line[:-_TAIL_BYTES]
        tail = line[-_TAIL_BYTES:]
        if not tail.startswith(_HASH_KEY) or not tail.endswith(b'"}\n'):
            raise Malformed("it does not end with a hash")
        digest = hashlib.sha256(covered).hexdigest()
        if tail[len(_HASH_KEY) : -3] != digest.encode():
            raise Malformed("its hash does not match its content")
        text = covered + b"}"
        try:
            body = self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"it is not a record of format {FORMAT}: {error}") from None
        if self._encoder.encode(body) != text:
            raise Malformed("it is not in canonical form")
        return Record(body, digest)


def plain_json(value: Any) -> bytes:
    """One line of JSON that shows on a terminal what it is."""
    return _HIDDEN.sub(lambda found: escape(found[0]), msgspec.json.encode(value).decode()).encode()


def is_plain(line: bytes) -> bool:
    """Whether nothing in a line could move a terminal's cursor, turn the direction of writing, or end the line for a reader.

    JSON escapes the characters below a space itself.
    """
    return (line.isascii() and b"\x7f" not in line) or _HIDDEN.search(line.decode()) is None


def printable(event: Event) -> Event:
    """The event with everything in its texts escaped that nobody could see, or that is no Unicode text: U+202E becomes "\\u202e", a lone surrogate
    (as from surrogateescape) "\\udc80"."""
    found: Event = msgspec.convert(_escaped(msgspec.to_builtins(event)), Event)
    return found


def escape(character: str) -> str:
    """As JSON and Python write it."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return _HIDDEN.sub(lambda found: escape(found[0]), value)
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return value
