"""The ciphertext format: how one value, and many, are sealed and opened. The format is described byte by byte in docs/sealed-format.md.

A sealed value is ASCII text without padding or line breaks::

    position  length  content
    0         1       mark: "~" version 1, deterministic; "^" version 1, randomized
    1         3       key id, 18 bits, most significant first, three characters of the base64 alphabet (RFC 4648 section 4)
    4         body    base64 (RFC 4648 section 4), unpadded, unused bits zero, of

              bytes   16      nonce, only where the mark is "^"
                      16      SIV
                      n       ciphertext, as long as the plaintext

    the end   7       the check: "-" and the first 6 base64 characters of SHA-256 (FIPS 180-4) of everything before the "-"

SIV and ciphertext are AES-256-SIV's (RFC 5297, 64-byte keys). Its associated data are, in order: the ASCII bytes ``pgveil sealed:``, the
four header characters, ``:`` and the key domain's name in UTF-8; then, where there is one, the nonce. So a value that is moved to a column of
another domain, or whose mark or key id is changed, does not open.

The check needs no key: the domain that sealed columns are of recomputes it, so that a text which anything in the database has rewritten (a
trigger, a cast, a function) is refused where it would be stored. It says nothing of who made the text; the SIV does. Values of the old form,
without a check, still open; nothing is sealed so any more.

Sizes: 11 + ceil((16 + n) * 4 / 3) characters deterministic, 11 + ceil((32 + n) * 4 / 3) randomized: 58 and 79 for 19 bytes. Both show the
plaintext's length and the key id. Deterministic values of one key also show which plaintexts are equal, that being their purpose.

Python can't wipe `bytes`: plaintext and key material stay in freed memory until it is used again. `keys.hygiene` keeps them out of core dumps.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from keys.siv import BLOCK, Associated, Lengths, OpenFailure, Siv, anything_after, blank_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from keys.siv import Bytes2

T = TypeVar("T")

MATERIAL_SIZE = 64  # bytes of a data key: two AES-256 keys (RFC 5297 section 6.3)
NONCE_SIZE = 16
MAX_KEY_ID = (1 << 18) - 1
MAX_PLAINTEXT = 64 << 20  # bytes; plaintext, ciphertext and text of one value are in memory together
MAX_DOMAIN = 255  # bytes of UTF-8: three PostgreSQL identifiers and their dots are at most 191

_ALPHABET = "A-Za-z0-9+/"
_HALF = "[AQgw]"  # last of two characters: four unused bits, zero
_MOST = "[AEIMQUYcgkosw048]"  # last of three characters: two unused bits, zero
_UNCHECKED = (
    f"~[{_ALPHABET}]{{3}}([{_ALPHABET}]{{4}}){{5,}}([{_ALPHABET}]{{4}}|[{_ALPHABET}]{_HALF}|[{_ALPHABET}]{{2}}{_MOST})"
    f"|\\^[{_ALPHABET}]{{3}}([{_ALPHABET}]{{4}}){{10}}([{_ALPHABET}]{{2}}{_MOST}"
    f"|([{_ALPHABET}]{{4}})+([{_ALPHABET}]{_HALF}|[{_ALPHABET}]{{2}}{_MOST})?)"
)
CHECK_CHARACTERS = 6  # of base64: 36 bits, so that one text in 69 thousand million passes by chance
_CHECK_SIZE = 1 + CHECK_CHARACTERS
SEALED_PATTERN = f"^({_UNCHECKED})-[{_ALPHABET}]{{{CHECK_CHARACTERS}}}$"
"""What a sealed value looks like, anchored, as an expression that PostgreSQL (ARE) and Python's `re` (use `fullmatch`) read alike. That the
check is right, no pattern can say."""

UNCHECKED_PATTERN = f"^({_UNCHECKED})$"
"""The old form, without a check."""

SEALED_IN_TEXT = f"[~^][{_ALPHABET}]{{16,}}(?:-[{_ALPHABET}]{{0,{CHECK_CHARACTERS}}})?"
"""Finds sealed values inside other text, cut ones too (PostgreSQL cuts the columns of a failing row at 64 bytes): for scrubbing messages."""

LIKE_SEALED = f"^[~^](AA[{_ALPHABET}]{{6,}}|[A-Za-z][{_ALPHABET}]{{15,}})(-[{_ALPHABET}]{{0,{CHECK_CHARACTERS}}})?$"
"""A text that is, or was before it was cut, a sealed value of either form: what is never to be sealed again. The first 63 keys make the
shortest to be told from other texts; no ring comes to ids that begin with a digit or "/", as paths do. Reads as SEALED_PATTERN does."""

# A batch of fewer values is quicker one by one; so is one longer than this many blocks (measured: docs/sealed-format.md).
_BATCH_FROM = 32
_BATCH_BLOCKS = 24
# Texts of at most this many bytes take part in a batch: the header, a nonce, the SIV and _BATCH_BLOCKS blocks in base64.
_BATCH_TEXT = 4 + (2 + _BATCH_BLOCKS) * BLOCK * 4 // 3

_HEADER = 4  # characters: mark and key id
_MAX_TEXT = (NONCE_SIZE + BLOCK + MAX_PLAINTEXT) * 4 // 3 + 1  # characters after the header
_ZERO_DIGIT = ord("A")  # base64's digit zero
_DETERMINISTIC = b"~"
_RANDOMIZED = b"^"


class OpenFault(StrEnum):
    """Why a value does not open."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    DAMAGED = "damaged"


class SealedError(Exception):
    """What can go wrong with sealed values. No text or attribute ever holds plaintext, ciphertext or key material."""


class MalformedError(SealedError):
    """Not the format."""

    def __init__(self) -> None:
        super().__init__("the value is not in the sealed format")


class UnknownKeyError(SealedError):
    """Sealed under a key that is not at hand: of another column, destroyed, or newer than what was loaded."""

    def __init__(self, key_id: int) -> None:
        super().__init__(f"the value is sealed under key {key_id}, which is not one of this column's keys")
        self.key_id = key_id


class DamagedError(SealedError):
    """Authentication failed: the value is damaged, or was sealed for another column."""

    def __init__(self, key_id: int) -> None:
        super().__init__(
            f"the value names key {key_id} but does not open with it: it is damaged or belongs to another column"
        )
        self.key_id = key_id


class TooLongError(SealedError):
    """More than MAX_PLAINTEXT bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"a value of {size} bytes is too long to be sealed; the limit is {MAX_PLAINTEXT}")
        self.size = size


class OpenError(SealedError):
    """An element of a batch does not open: its 0-based `index`, the `kind`, and the `key_id` that it names (None where malformed)."""

    def __init__(self, index: int, cause: SealedError) -> None:
        super().__init__(f"value {index} of the batch: {cause}")
        self.index = index
        self.kind = fault_of(cause)
        self.key_id: int | None = getattr(cause, "key_id", None)


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key: one version of one domain's key. `material`: 64 bytes, never in repr; `key_id`: 1 to MAX_KEY_ID."""

    domain: str
    key_id: int
    material: bytes = field(repr=False)
    _cipher: _KeyCipher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.material) != MATERIAL_SIZE:
            raise ValueError(f"a data key has {MATERIAL_SIZE} bytes, not {len(self.material)}")
        object.__setattr__(self, "_cipher", _KeyCipher(self.domain, self.key_id, self.material))

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def seal(key: DataKey, plaintext: bytes, *, nonce: bytes | None) -> bytes:
    """One value as ASCII text: deterministic without a nonce, else randomized by its 16 random bytes. Raises TooLongError."""
    _check_size(plaintext)
    cipher = key._cipher  # noqa: SLF001 - the key's own module
    if nonce is None:
        body = cipher.siv.encrypt(plaintext, cipher.deterministic.associated, None)
        return checked(cipher.deterministic.header + _unpadded(body))
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    body = cipher.siv.encrypt(plaintext, cipher.randomized.associated, nonce)
    return checked(cipher.randomized.header + _unpadded(nonce + body))


def checked(text: bytes) -> bytes:
    """A text of the old form in the present one: with its check."""
    return b"%b-%b" % (text, binascii.b2a_base64(sha256(text).digest()[:6], newline=False)[:CHECK_CHARACTERS])


def seal_batch(
    key: DataKey, plaintexts: Sequence[bytes | None], *, randomized: bool, random: Callable[[int], bytes]
) -> list[bytes | None]:
    """Many values in order, None staying None; as `seal` would, each with its own nonce where randomized. Raises TooLongError.

    `random` is called once, for 16 bytes a value, and not at all for deterministic values.
    """
    values = [p for p in plaintexts if p is not None]
    nonces = _draw_nonces(random, len(values)) if randomized else None
    if len(values) < _BATCH_FROM:
        texts = iter(_seal_each(key, values, nonces))
        return [None if p is None else next(texts) for p in plaintexts]
    present = _present(plaintexts, len(values))
    lengths = _lengths(values)
    sealed: list[bytes | None] = [None] * len(plaintexts)
    for chosen in _classes(_blocks(lengths)):
        some = _take(values, chosen)
        some_nonces = None if nonces is None else _take(nonces, chosen)
        if len(chosen) >= _BATCH_FROM and lengths[chosen[0]] <= _BATCH_BLOCKS * BLOCK:
            done = _seal_rows(key, some, Lengths.of(lengths[chosen]), some_nonces)
        else:
            done = _seal_each(key, some, some_nonces)
        _put(sealed, present, chosen, done)
    return sealed


def key_id_of(sealed: bytes) -> int:
    """The key id that a sealed value names. Raises MalformedError."""
    _, key_id, _ = _parse(sealed)
    return key_id


def is_randomized(sealed: bytes) -> bool:
    """Whether a sealed value is randomized. Raises MalformedError."""
    mark, _, _ = _parse(sealed)
    return mark == _RANDOMIZED


def open_sealed(key: DataKey, sealed: bytes) -> bytes:
    """The plaintext. Raises MalformedError, UnknownKeyError (it names another key) or DamagedError."""
    mark, key_id, body = _parse(sealed)
    if key_id != key.key_id:
        raise UnknownKeyError(key_id)
    return _open_body(key, mark, body)


def open_batch(keys: Mapping[int, DataKey], sealed: Sequence[bytes | None]) -> list[bytes | None]:
    """Many values in order, None staying None. `keys`: by key id. Raises OpenError for the first value that does not open."""
    opened = open_batch_lenient(keys, sealed)
    # Looking at the distinct types first costs a third of looking at each value.
    if not {bytes, type(None)}.issuperset(map(type, opened)):
        index, fault = next((i, o) for i, o in enumerate(opened) if isinstance(o, SealedError))
        raise OpenError(index, fault) from fault
    return cast("list[bytes | None]", opened)


def open_batch_lenient(keys: Mapping[int, DataKey], sealed: Sequence[bytes | None]) -> list[bytes | SealedError | None]:
    """Like `open_batch`, with the error itself in the place of each value that does not open."""
    values = [_unchecked(s) for s in sealed if s is not None]
    if len(values) < _BATCH_FROM:
        each = iter(values)
        return [None if s is None else _open_one(keys, next(each)) for s in sealed]
    present = _present(sealed, len(values))
    lengths = _lengths(values)
    opened: list[bytes | SealedError | None] = [None] * len(sealed)
    for chosen in _classes(_blocks(_body_length(lengths - _HEADER))):
        some = _take(values, chosen)
        if len(chosen) >= _BATCH_FROM and lengths[chosen[0]] <= _BATCH_TEXT:
            results = _open_class(keys, some, Lengths.of(lengths[chosen]))
        else:
            results = [_open_one(keys, v) for v in some]
        _put(opened, present, chosen, results)
    return opened


def fault_of(error: SealedError) -> OpenFault:
    """The kind of fault that an error of a single value is."""
    if isinstance(error, DamagedError):
        return OpenFault.DAMAGED
    if isinstance(error, UnknownKeyError):
        return OpenFault.UNKNOWN_KEY
    return OpenFault.MALFORMED


@dataclass(frozen=True, slots=True)
class _Mode:
    """What the values of one key and one mark share."""

    header: bytes
    associated: Associated


class _KeyCipher:
    """A data key made ready: its cipher, and both modes' headers and associated data."""

    __slots__ = ("deterministic", "randomized", "siv")

    def __init__(self, domain: str, key_id: int, material: bytes) -> None:
        name = domain.encode()
        if not 0 < len(name) <= MAX_DOMAIN:
            raise ValueError(f"a key domain's name has 1 to {MAX_DOMAIN} bytes, not {len(name)}")
        if not 0 < key_id <= MAX_KEY_ID:
            raise ValueError(f"a key id is from 1 to {MAX_KEY_ID}, not {key_id}")
        self.siv = Siv(material)
        self.deterministic = self._mode(_DETERMINISTIC, key_id, name)
        self.randomized = self._mode(_RANDOMIZED, key_id, name)

    def mode(self, mark: bytes) -> _Mode:
        return self.randomized if mark == _RANDOMIZED else self.deterministic

    def _mode(self, mark: bytes, key_id: int, name: bytes) -> _Mode:
        header = mark + binascii.b2a_base64((key_id << 6).to_bytes(3, "big"), newline=False)[:3]
        return _Mode(header, self.siv.associated([b"pgveil sealed:" + header + b":" + name]))


def _parse_header(header: bytes) -> tuple[bytes, int]:
    """(mark, key id). Raises MalformedError."""
    mark = header[:1]
    if mark not in (_DETERMINISTIC, _RANDOMIZED) or len(header) != _HEADER:
        raise MalformedError
    try:
        bits = binascii.a2b_base64(header[1:] + b"A", strict_mode=True)
    except binascii.Error:
        raise MalformedError from None
    return mark, int.from_bytes(bits, "big") >> 6


def _parse(sealed: bytes) -> tuple[bytes, int, bytes]:
    """(mark, key id, the bytes of the body). Raises MalformedError."""
    return _parse_unchecked(_unchecked(sealed))


def _unchecked(sealed: bytes) -> bytes:
    """A sealed value without its check, which must be right; of the old form, as it is. What is neither becomes something malformed."""
    if sealed[-_CHECK_SIZE:-CHECK_CHARACTERS] != b"-":
        return sealed
    if len(sealed) > _HEADER + _MAX_TEXT + _CHECK_SIZE:
        return b""
    text = sealed[:-_CHECK_SIZE]
    return text if checked(text) == sealed else b""


def _parse_unchecked(sealed: bytes) -> tuple[bytes, int, bytes]:
    mark, key_id = _parse_header(sealed[:_HEADER])
    text = sealed[_HEADER:]
    if len(text) > _MAX_TEXT:
        raise MalformedError
    try:
        body = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        raise MalformedError from None
    # Encoding it again finds padding and unused bits that are not zero: one value has one text.
    if len(body) < _overhead(mark) or _unpadded(body) != text:
        raise MalformedError
    return mark, key_id, body


def _open_body(key: DataKey, mark: bytes, body: bytes) -> bytes:
    cipher = key._cipher  # noqa: SLF001
    nonce, rest = (body[:NONCE_SIZE], body[NONCE_SIZE:]) if mark == _RANDOMIZED else (None, body)
    try:
        return cipher.siv.decrypt(rest, cipher.mode(mark).associated, nonce)
    except OpenFailure:
        raise DamagedError(key.key_id) from None


def _open_one(keys: Mapping[int, DataKey], sealed: bytes) -> bytes | SealedError:
    """`sealed`: without its check."""
    try:
        mark, key_id, body = _parse_unchecked(sealed)
        key = keys.get(key_id)
        return UnknownKeyError(key_id) if key is None else _open_body(key, mark, body)
    except SealedError as error:
        return error


def _seal_each(key: DataKey, values: Sequence[bytes], nonces: Sequence[bytes] | None) -> list[bytes]:
    if nonces is None:
        return [seal(key, v, nonce=None) for v in values]
    return [seal(key, v, nonce=n) for v, n in zip(values, nonces, strict=True)]


def _seal_rows(key: DataKey, values: Sequence[bytes], lengths: Lengths, nonces: Sequence[bytes] | None) -> list[bytes]:
    """Values of one number of blocks."""
    cipher = key._cipher  # noqa: SLF001
    mode = cipher.deterministic if nonces is None else cipher.randomized
    plain = _rows(values, _row_width(lengths))
    nonce_rows = None if nonces is None else np.frombuffer(b"".join(nonces), dtype=np.uint8).reshape(-1, NONCE_SIZE)
    siv, encrypted = cipher.siv.encrypt_rows(plain, lengths, mode.associated, nonce_rows)
    parts = [siv, encrypted] if nonce_rows is None else [nonce_rows, siv, encrypted]
    overhead = sum(p.shape[1] for p in parts) - plain.shape[1]
    # Whole groups of three bytes, so that one call encodes all rows and each begins at a character of its own.
    parts.append(np.zeros((len(values), -(overhead + plain.shape[1]) % 3), dtype=np.uint8))
    encoded = binascii.b2a_base64(np.concatenate(parts, axis=1).data, newline=False)
    body = np.frombuffer(encoded, dtype=np.uint8).reshape(len(values), -1)
    text = np.empty((len(values), _HEADER + body.shape[1]), dtype=np.uint8)
    text[:, :_HEADER] = np.frombuffer(mode.header, dtype=np.uint8)
    text[:, _HEADER:] = body
    # The text has no NUL of its own, and numpy's strings end before trailing NULs: that cuts each row where it ends.
    blank_after(text, Lengths.of(_HEADER + ((lengths.each + overhead) * 4 + 2) // 3))
    return [checked(t) for t in text.view(f"S{text.shape[1]}").ravel().tolist()]


def _open_class(
    keys: Mapping[int, DataKey], values: Sequence[bytes], lengths: Lengths
) -> Sequence[bytes | SealedError]:
    """Values of one number of blocks after the header, of any keys and modes."""
    body_width = _row_width(Lengths.of(_body_length(lengths.each - _HEADER)))
    text = _rows(values, _HEADER + (body_width + 2) // 3 * 4)
    headers = np.ascontiguousarray(text[:, :_HEADER]).view(">u4").ravel()
    opened: list[bytes | SealedError | None] = [None] * len(values)
    everywhere = range(len(values))
    for chosen in _classes(headers):
        some = _take(values, chosen)
        results = None
        if len(chosen) >= _BATCH_FROM:
            digits = Lengths.of(lengths.each[chosen] - _HEADER)
            results = _open_rows(keys, some[0][:_HEADER], text[chosen, _HEADER:], digits)
        if results is None:
            results = [_open_one(keys, v) for v in some]
        _put(opened, everywhere, chosen, results)
    return cast("list[bytes | SealedError]", opened)


def _open_rows(
    keys: Mapping[int, DataKey], header: bytes, text: Bytes2, lengths: Lengths
) -> Sequence[bytes | SealedError] | None:
    """Values of one header and one number of blocks. None where some are malformed: only a look at each tells which."""
    try:
        mark, key_id = _parse_header(header)
        decoded = binascii.a2b_base64(blank_after(text, lengths, _ZERO_DIGIT).data, strict_mode=True)
    except (MalformedError, binascii.Error):
        return None
    if len(decoded) != text.size // 4 * 3:
        return None
    body = np.frombuffer(decoded, dtype=np.uint8).reshape(len(text), -1)
    overhead = _overhead(mark)
    sizes = Lengths.of(_body_length(lengths.each))
    if sizes.shortest < overhead or (lengths.each % 4 == 1).any() or anything_after(body, sizes):
        return None
    key = keys.get(key_id)
    return (
        [UnknownKeyError(key_id)] * len(text) if key is None else _decrypt_rows(key, mark, body, sizes.plus(-overhead))
    )


def _decrypt_rows(key: DataKey, mark: bytes, body: Bytes2, lengths: Lengths) -> Sequence[bytes | SealedError]:
    cipher = key._cipher  # noqa: SLF001
    overhead = _overhead(mark)
    nonces = body[:, :NONCE_SIZE] if mark == _RANDOMIZED else None
    siv = body[:, overhead - BLOCK : overhead]
    encrypted = np.zeros((len(body), _row_width(lengths)), dtype=np.uint8)
    encrypted[:, : lengths.longest] = body[:, overhead : overhead + lengths.longest]
    plain, good = cipher.siv.decrypt_rows(siv, encrypted, lengths, cipher.mode(mark).associated, nonces)
    values = _cut(plain, lengths)
    return values if good.all() else [v if g else DamagedError(key.key_id) for v, g in zip(values, good, strict=True)]


def _cut(rows: Bytes2, lengths: Lengths) -> list[bytes]:
    """Each row's bytes up to its length."""
    if lengths.longest == 0:
        return [b""] * len(rows)
    cut: list[bytes] = np.ascontiguousarray(rows[:, : lengths.longest]).view(f"V{lengths.longest}").ravel().tolist()
    if lengths.alike:
        return cut
    return [row[:length] for row, length in zip(cut, lengths.each.tolist(), strict=True)]


def _rows(values: Sequence[bytes], width: int) -> Bytes2:
    """(n, width) uint8, zeros after each value's end."""
    return np.array(values, dtype=f"S{width}").view(np.uint8).reshape(len(values), width)


def _row_width(lengths: Lengths) -> int:
    """Bytes of the rows that hold values of one number of blocks."""
    return max(-(-lengths.longest // BLOCK), 1) * BLOCK


def _lengths(values: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, values), np.int64, len(values))


def _blocks(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Blocks that a value of each length takes, at least one."""
    return np.maximum((lengths + (BLOCK - 1)) // BLOCK, 1)


def _body_length(characters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that so many characters of unpadded base64 hold."""
    return characters * 3 // 4


def _overhead(mark: bytes) -> int:
    """Bytes before the ciphertext: the SIV, and the nonce where there is one."""
    return NONCE_SIZE + BLOCK if mark == _RANDOMIZED else BLOCK


def _classes(labels: NDArray[Any]) -> list[NDArray[np.intp]]:
    """The places of each distinct label, ascending; there is at least one label."""
    if (labels == labels[0]).all():
        return [np.arange(len(labels))]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _present(values: Sequence[bytes | None], count: int) -> Sequence[int]:
    """The places of the `count` values that are not None."""
    return range(count) if count == len(values) else [i for i, v in enumerate(values) if v is not None]


def _take(values: Sequence[bytes], chosen: NDArray[np.intp]) -> Sequence[bytes]:
    return values if len(chosen) == len(values) else [values[i] for i in chosen.tolist()]


def _put(target: list[T | None], present: Sequence[int], chosen: NDArray[np.intp], results: Sequence[T]) -> None:
    """target[present[chosen[i]]] = results[i]."""
    if len(results) == len(target):
        target[:] = results
        return
    for i, result in zip(chosen.tolist(), results, strict=True):
        target[present[i]] = result


def _draw_nonces(random: Callable[[int], bytes], count: int) -> list[bytes]:
    drawn = random(NONCE_SIZE * count)
    if len(drawn) != NONCE_SIZE * count:
        raise ValueError("the source of randomness gave another number of bytes than it was asked for")
    return [drawn[i : i + NONCE_SIZE] for i in range(0, len(drawn), NONCE_SIZE)]


def _check_size(plaintext: bytes) -> None:
    if len(plaintext) > MAX_PLAINTEXT:
        raise TooLongError(len(plaintext))


def _unpadded(body: bytes) -> bytes:
    return binascii.b2a_base64(body, newline=False).rstrip(b"=")
