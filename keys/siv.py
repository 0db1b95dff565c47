"""AES-SIV (RFC 5297) over many short values at once: AES-ECB calls from the library, everything between them in numpy.

One call of the library's own AESSIV costs one to two microseconds whatever it encrypts. Here a thousand values share each AES call: S2V's
CMAC (RFC 4493) goes block by block over all values together, and counter mode is one call over all their counters. The result is the
standard's, bit for bit; the tests hold it against RFC 5297's vectors, the library's AESSIV and OpenSSL's command line.

Shapes: a batch is `n` values of at most `16 * m` bytes, each in a row of an (n, 16m) uint8 array, zeros after its end; `m >= 1`, and every
value of more than 16 bytes ends in its row's last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.cmac import CMAC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers import CipherContext
    from numpy.typing import NDArray

    Bytes2 = NDArray[np.uint8]
    Flags = NDArray[np.bool_]

BLOCK = 16
# RFC 5297 section 2.5: bits 31 and 63 from the right are cleared in the counter, so that its low word never carries.
_COUNTER_MASK = np.frombuffer(b"\xff" * 8 + b"\x7f\xff\xff\xff" * 2, dtype=np.uint8)


class OpenFailure(Exception):  # noqa: N818 - an outcome of authentication, not a programming error
    """A ciphertext that this key and associated data do not authenticate."""


@dataclass(frozen=True, slots=True)
class Associated:
    """The leading components of the associated data, fixed for a batch, and S2V's running value `D` after them (16 bytes)."""

    components: tuple[bytes, ...]
    state: bytes


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many bytes of each row count: (n,) int64, n >= 1, with the least and the greatest, which are asked for again and again."""

    each: NDArray[np.int64]
    shortest: int
    longest: int

    @classmethod
    def of(cls, each: NDArray[np.int64]) -> Lengths:
        """Measured once."""
        return cls(each, int(each.min()), int(each.max()))

    @property
    def alike(self) -> bool:
        """Whether all rows are of one length: then one slice does what else takes a mask."""
        return self.shortest == self.longest

    def plus(self, more: int) -> Lengths:
        """Every length with `more` added."""
        return Lengths(self.each + more, self.shortest + more, self.longest + more)

    def beyond(self, width: int) -> Flags:
        """(n, width): which bytes of the rows lie after their row's length."""
        return np.arange(width) >= self.each[:, None]


class Siv:
    """AES-SIV under one key of 32, 48 or 64 bytes. Holds key material: never shown, compared or pickled."""

    __slots__ = ("_aead", "_counter", "_mac", "_mac_key", "_subkey1", "_subkey2")

    def __init__(self, key: bytes) -> None:
        half = len(key) // 2
        self._aead = AESSIV(key)
        self._mac_key = algorithms.AES(key[:half])
        self._mac = Cipher(self._mac_key, modes.ECB())  # noqa: S305 - the block cipher itself, from which RFC 5297 is built
        self._counter = Cipher(algorithms.AES(key[half:]), modes.ECB())  # noqa: S305
        zero = self._mac.encryptor().update(bytes(BLOCK))
        self._subkey1 = double(zero)
        self._subkey2 = double(self._subkey1)

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")

    def associated(self, components: Sequence[bytes]) -> Associated:
        """Run S2V (RFC 5297 section 2.4) over the leading components."""
        state = self._cmac(bytes(BLOCK))
        for component in components:
            state = _xor(double(state), self._cmac(component))
        return Associated(tuple(components), state)

    def encrypt(self, plaintext: bytes, associated: Associated, nonce: bytes | None) -> bytes:
        """SIV, then ciphertext."""
        if plaintext:
            return self._aead.encrypt(plaintext, _components(associated, nonce))
        # OpenSSL before 3.5 refuses or mistakes the empty plaintext; the construction below does not depend on its version.
        siv, _ = self.encrypt_rows(*_empty_row(), associated, _row(nonce))
        return siv.tobytes()

    def decrypt(self, sealed: bytes, associated: Associated, nonce: bytes | None) -> bytes:
        """The plaintext of SIV and ciphertext. Raises OpenFailure."""
        if len(sealed) > BLOCK:
            try:
                return self._aead.decrypt(sealed, _components(associated, nonce))
            except InvalidTag:
                raise OpenFailure from None
        siv = np.frombuffer(sealed, dtype=np.uint8).reshape(1, BLOCK)
        _, good = self.decrypt_rows(siv, *_empty_row(), associated, _row(nonce))
        if not good[0]:
            raise OpenFailure
        return b""

    def encrypt_rows(
        self, plain: Bytes2, lengths: Lengths, associated: Associated, nonces: Bytes2 | None
    ) -> tuple[Bytes2, Bytes2]:
        """(SIVs (n, 16), ciphertexts (n, 16m) with zeros after each end). `nonces`: (n, 16), the last component."""
        siv = self._s2v(plain, lengths, associated, nonces)
        return siv, self._apply_counter(plain, lengths, siv)

    def decrypt_rows(
        self, siv: Bytes2, cipher: Bytes2, lengths: Lengths, associated: Associated, nonces: Bytes2 | None
    ) -> tuple[Bytes2, Flags]:
        """(plaintexts (n, 16m), which of them are authentic (n,)). Rows that are not authentic are zeros."""
        plain = self._apply_counter(cipher, lengths, siv)
        expected = self._s2v(plain, lengths, associated, nonces)
        # Every byte of every tag is compared, with no early exit: the time tells neither how many bytes agree nor which.
        difference = np.bitwise_or.reduce(expected ^ siv, axis=1)
        good = difference == 0
        if not good.all():
            plain[~good] = 0
        return plain, good

    def _cmac(self, message: bytes) -> bytes:
        mac = CMAC(self._mac_key)
        mac.update(message)
        return mac.finalize()

    def _s2v(self, plain: Bytes2, lengths: Lengths, associated: Associated, nonces: Bytes2 | None) -> Bytes2:
        encryptor = self._mac.encryptor()
        state = np.frombuffer(associated.state, dtype=np.uint8).reshape(1, BLOCK)
        if nonces is not None:
            first = np.frombuffer(double(associated.state), dtype=np.uint8)
            state = first ^ _ecb(encryptor, nonces ^ np.frombuffer(self._subkey1, dtype=np.uint8))
        message = self._final_message(plain, lengths, state)
        chain = _ecb(encryptor, np.ascontiguousarray(message[:, :BLOCK]))
        for start in range(BLOCK, message.shape[1], BLOCK):
            chain = _ecb(encryptor, chain ^ message[:, start : start + BLOCK])
        return chain

    def _final_message(self, plain: Bytes2, lengths: Lengths, state: Bytes2) -> Bytes2:
        """S2V's last string, mixed with D and with CMAC's padding and subkey: what is left to do is to chain its blocks."""
        message = plain.copy()
        width = plain.shape[1]
        subkey1 = np.frombuffer(self._subkey1, dtype=np.uint8)
        if width == BLOCK:
            # Shorter than a block: dbl(D) xor pad(S). A whole block: S xor D. CMAC sees one whole block in both cases.
            whole = lengths.each == BLOCK
            message ^= np.where(whole[:, None], state, _double_rows(state)) ^ subkey1
            rows = np.flatnonzero(~whole)
            message[rows, lengths.each[rows]] ^= 0x80
            return message
        subkey2 = np.frombuffer(self._subkey2, dtype=np.uint8)
        if lengths.alike:
            message[:, lengths.longest - BLOCK : lengths.longest] ^= state
            if lengths.longest < width:
                message[:, lengths.longest] = 0x80
            message[:, -BLOCK:] ^= subkey2 if lengths.longest < width else subkey1
            return message
        rows = np.arange(len(plain))
        message[rows[:, None], (lengths.each - BLOCK)[:, None] + np.arange(BLOCK)] ^= state
        partial = lengths.each < width
        message[rows[partial], lengths.each[partial]] = 0x80
        message[:, -BLOCK:] ^= np.where(partial[:, None], subkey2, subkey1)
        return message

    def _apply_counter(self, text: Bytes2, lengths: Lengths, siv: Bytes2) -> Bytes2:
        count, width = text.shape
        start = siv & _COUNTER_MASK
        counters = np.empty((count, width // BLOCK, BLOCK), dtype=np.uint8)
        counters[:] = start[:, None, :]
        if width > BLOCK:
            low = np.ascontiguousarray(start[:, 12:]).view(">u4").astype(np.uint32)
            each = low + np.arange(width // BLOCK, dtype=np.uint32)
            counters[:, :, 12:] = each.astype(">u4").view(np.uint8).reshape(count, width // BLOCK, 4)
        stream = _ecb(self._counter.encryptor(), counters.reshape(count, width))
        return blank_after(text ^ stream, lengths)


def double(block: bytes) -> bytes:
    """Doubling in GF(2^128) (RFC 5297 section 2.3). Branches on no secret bit."""
    value = int.from_bytes(block, "big")
    return ((value << 1 & (1 << 128) - 1) ^ 0x87 * (value >> 127)).to_bytes(BLOCK, "big")


def blank_after(rows: Bytes2, lengths: Lengths, fill: int = 0) -> Bytes2:
    """Set every byte after its row's length to `fill`, in place; the rows."""
    if lengths.alike:
        rows[:, lengths.longest :] = fill
    else:
        rows[lengths.beyond(rows.shape[1])] = fill
    return rows


def anything_after(rows: Bytes2, lengths: Lengths) -> bool:
    """Whether any byte after its row's length is not zero."""
    after = rows[:, lengths.longest :] if lengths.alike else rows[lengths.beyond(rows.shape[1])]
    return bool(after.any())


def _double_rows(blocks: Bytes2) -> Bytes2:
    words = np.ascontiguousarray(blocks).view(">u8").astype(np.uint64)
    high, low = words[:, 0], words[:, 1]
    one, top = np.uint64(1), np.uint64(63)
    out = np.empty_like(words)
    out[:, 0] = (high << one) | (low >> top)
    out[:, 1] = (low << one) ^ ((high >> top) * np.uint64(0x87))
    return out.astype(">u8").view(np.uint8)


def _ecb(encryptor: CipherContext, blocks: Bytes2) -> Bytes2:
    return np.frombuffer(encryptor.update(blocks.data), dtype=np.uint8).reshape(blocks.shape)


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _components(associated: Associated, nonce: bytes | None) -> list[bytes | bytearray | memoryview]:
    return [*associated.components] if nonce is None else [*associated.components, nonce]


def _empty_row() -> tuple[Bytes2, Lengths]:
    return np.zeros((1, BLOCK), dtype=np.uint8), Lengths.of(np.zeros(1, dtype=np.int64))


def _row(nonce: bytes | None) -> Bytes2 | None:
    return None if nonce is None else np.frombuffer(nonce, dtype=np.uint8).reshape(1, BLOCK)
