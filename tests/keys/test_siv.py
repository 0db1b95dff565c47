"""RFC 5297: its own vectors, OpenSSL's command line and the library's AESSIV, against the construction over many values."""

from __future__ import annotations

import pickle
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.siv import BLOCK, Lengths, OpenFailure, Siv, double

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keys.siv import Bytes2


class Vector(NamedTuple):
    key: bytes
    components: list[bytes]
    nonce: bytes | None
    plaintext: bytes
    siv: bytes
    ciphertext: bytes


A1 = Vector(
    bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
    [bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")],
    None,
    bytes.fromhex("112233445566778899aabbccddee"),
    bytes.fromhex("85632d07c6e8f37f950acd320a2ecc93"),
    bytes.fromhex("40c02b9690c4dc04daef7f6afe5c"),
)
A2 = Vector(
    bytes.fromhex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f"),
    [
        bytes.fromhex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100"),
        bytes.fromhex("102030405060708090a0"),
    ],
    bytes.fromhex("09f911029d74e35bd84156c5635688c0"),
    bytes.fromhex("7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553"),
    bytes.fromhex("7bdb6e3b432667eb06f4d14bff2fbd0f"),
    bytes.fromhex("cb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"),
)


def matrix(values: Sequence[bytes], width: int) -> Bytes2:
    return np.frombuffer(b"".join(v.ljust(width, b"\0") for v in values), dtype=np.uint8).reshape(-1, width).copy()


def width_of(values: Sequence[bytes]) -> int:
    return max(BLOCK, -(-max(map(len, values)) // BLOCK) * BLOCK)


def lengths_of(values: Sequence[bytes]) -> Lengths:
    return Lengths.of(np.array([len(v) for v in values], dtype=np.int64))


def seal_many(
    key: bytes, components: Sequence[bytes], values: Sequence[bytes], nonces: Sequence[bytes] | None
) -> list[bytes]:
    siv = Siv(key)
    rows = None if nonces is None else matrix(nonces, BLOCK)
    tags, texts = siv.encrypt_rows(
        matrix(values, width_of(values)), lengths_of(values), siv.associated(components), rows
    )
    return [t.tobytes() + c[: len(v)].tobytes() for t, c, v in zip(tags, texts, values, strict=True)]


@pytest.mark.parametrize("vector", [A1, A2], ids=["A.1", "A.2"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_vectors_of_rfc_5297(vector: Vector, count: int) -> None:
    expected = vector.siv + vector.ciphertext
    nonces = None if vector.nonce is None else [vector.nonce] * count
    assert seal_many(vector.key, vector.components, [vector.plaintext] * count, nonces) == [expected] * count
    siv = Siv(vector.key)
    associated = siv.associated(vector.components)
    assert siv.encrypt(vector.plaintext, associated, vector.nonce) == expected
    assert siv.decrypt(expected, associated, vector.nonce) == vector.plaintext


def test_the_running_values_of_a_1() -> None:
    """The intermediate results that the RFC prints: D before and after the associated data, and both doublings."""
    siv = Siv(A1.key)
    assert siv.associated([]).state.hex() == "0e04dfafc1efbf040140582859bf073a"
    assert siv.associated(A1.components).state.hex() == "edf09de876c642ee4d78bce4ceedfc4f"
    assert double(bytes.fromhex("0e04dfafc1efbf040140582859bf073a")).hex() == "1c09bf5f83df7e080280b050b37e0e74"
    assert double(bytes.fromhex("edf09de876c642ee4d78bce4ceedfc4f")).hex() == "dbe13bd0ed8c85dc9af179c99ddbf819"


# Lengths about the block's borders: where padding, subkey and the way of mixing change.
BORDERS = [0, 1, 11, 15, 16, 17, 19, 31, 32, 33, 47, 48, 49, 200]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[bytes], list[bytes] | None]:
    """Values of one number of blocks, of one length or of many, and nonces for them."""
    blocks = draw(st.integers(1, 4))
    low = 0 if blocks == 1 else BLOCK * (blocks - 1) + 1
    sizes = st.integers(low, BLOCK * blocks)
    fixed = draw(st.none() | sizes)
    count = draw(st.integers(1, 6))
    values = []
    for _ in range(count):
        size = draw(sizes) if fixed is None else fixed
        # Zeros and ends of zeros: what a padded row could confuse with its padding.
        values.append(draw(st.binary(min_size=size, max_size=size) | st.just(bytes(size))))
    nonces = draw(st.none() | st.lists(st.binary(min_size=16, max_size=16), min_size=count, max_size=count))
    return values, nonces


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([32, 48, 64]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    st.lists(st.binary(max_size=40), max_size=3),
    batches(),
)
def test_many_at_once_are_what_the_library_makes_one_by_one(
    key: bytes, components: list[bytes], batch: tuple[list[bytes], list[bytes] | None]
) -> None:
    values, nonces = batch
    if not components and nonces is None:
        components = [b"x"]  # S2V of one string alone is the same by the RFC; the library wants a component
    reference = AESSIV(key)
    expected = [
        reference.encrypt(v, [*components, *([] if nonces is None else [nonces[i]])]) if v else None
        for i, v in enumerate(values)
    ]
    sealed = seal_many(key, components, values, nonces)
    for got, want in zip(sealed, expected, strict=True):
        assert want is None or got == want
    siv = Siv(key)
    rows = None if nonces is None else matrix(nonces, BLOCK)
    cipher = matrix([s[BLOCK:] for s in sealed], width_of(values))
    tags = matrix([s[:BLOCK] for s in sealed], BLOCK)
    plain, good = siv.decrypt_rows(tags, cipher, lengths_of(values), siv.associated(components), rows)
    assert good.all()
    assert [p[: len(v)].tobytes() for p, v in zip(plain, values, strict=True)] == values


def openssl(*arguments: str, given: bytes) -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def cmac(key: bytes, message: bytes) -> bytes:
    cipher = f"AES-{len(key) * 8}-CBC"
    shown = openssl("mac", "-cipher", cipher, "-macopt", f"hexkey:{key.hex()}", "-in", "-", "CMAC", given=message)
    return bytes.fromhex(shown.decode().strip())


def by_openssl(key: bytes, components: list[bytes], plaintext: bytes) -> bytes:
    """RFC 5297 read again, on OpenSSL's CMAC and counter mode, with integers."""
    half = len(key) // 2

    def doubled(value: int) -> int:
        shifted = value * 2
        return shifted ^ (1 << 128 | 0x87) if shifted >> 128 else shifted

    state = int.from_bytes(cmac(key[:half], bytes(16)), "big")
    for component in components:
        state = doubled(state) ^ int.from_bytes(cmac(key[:half], component), "big")
    if len(plaintext) >= 16:
        end = int.from_bytes(plaintext[-16:], "big") ^ state
        last = plaintext[:-16] + end.to_bytes(16, "big")
    else:
        padded = (plaintext + b"\x80").ljust(16, b"\0")
        last = (doubled(state) ^ int.from_bytes(padded, "big")).to_bytes(16, "big")
    tag = cmac(key[:half], last)
    counter = int.from_bytes(tag, "big") & ~(1 << 31 | 1 << 63)
    mode = f"-aes-{half * 8}-ctr"
    return tag + openssl("enc", mode, "-K", key[half:].hex(), "-iv", f"{counter:032x}", given=plaintext)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
@pytest.mark.parametrize("size", BORDERS)
def test_openssl_s_command_line_agrees(size: int) -> None:
    key = bytes(range(64))
    value = bytes(i * 7 % 251 for i in range(size))
    nonce = bytes(range(100, 116))
    siv = Siv(key)
    for components, last in (([b"column"], None), ([b"a", b""], nonce)):
        expected = by_openssl(key, [*components, *([] if last is None else [last])], value)
        assert seal_many(key, components, [value] * 2, None if last is None else [last] * 2) == [expected] * 2
        assert siv.encrypt(value, siv.associated(components), last) == expected
        assert siv.decrypt(expected, siv.associated(components), last) == value


@pytest.mark.parametrize("size", BORDERS)
def test_every_flipped_bit_is_found_one_by_one_and_among_others(size: int) -> None:
    key, value = bytes(range(64)), bytes(size)
    siv = Siv(key)
    associated = siv.associated([b"column"])
    sealed = siv.encrypt(value, associated, None)
    damaged = [
        sealed[:i] + bytes([sealed[i] ^ 1 << bit]) + sealed[i + 1 :] for i in range(len(sealed)) for bit in (0, 7)
    ]
    for each in damaged:
        with pytest.raises(OpenFailure):
            siv.decrypt(each, associated, None)
    every = [sealed, *damaged, sealed]
    lengths = lengths_of([value] * len(every))
    cipher = matrix([e[BLOCK:] for e in every], width_of([value]))
    plain, good = siv.decrypt_rows(matrix([e[:BLOCK] for e in every], BLOCK), cipher, lengths, associated, None)
    assert good.tolist() == [True, *[False] * len(damaged), True]
    # What did not authenticate is not there to be read.
    assert not plain[~good].any()


def test_other_associated_data_do_not_open() -> None:
    siv = Siv(bytes(64))
    sealed = siv.encrypt(b"value", siv.associated([b"a", b"b"]), None)
    for components in ([b"ab"], [b"b", b"a"], [b"a"], [b"a", b"b", b""]):
        with pytest.raises(OpenFailure):
            siv.decrypt(sealed, siv.associated(components), None)


def test_the_counter_s_low_word_does_not_carry_out() -> None:
    """RFC 5297 section 2.5 clears two bits for it; a value whose SIV has them set and whose low word is near its end says it."""
    key = bytes(64)
    values = [bytes([i, j]) + bytes(300) for i in range(16) for j in range(16)]
    reference = AESSIV(key)
    assert seal_many(key, [b"x"], values, None) == [reference.encrypt(v, [b"x"]) for v in values]


def test_a_key_is_not_pickled_and_not_shown() -> None:
    siv = Siv(bytes(range(64)))
    with pytest.raises(TypeError):
        pickle.dumps(siv)
    assert "0001" not in repr(siv)
    assert not hasattr(siv, "__dict__")
