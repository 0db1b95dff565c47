"""The sealed format: what it looks like, what opens it, and what nothing opens."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import pickle
import random
import re
import traceback
from typing import TYPE_CHECKING

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import sealed as sealed_module
from keys.sealed import (
    LIKE_SEALED,
    MAX_KEY_ID,
    SEALED_IN_TEXT,
    SEALED_PATTERN,
    UNCHECKED_PATTERN,
    DamagedError,
    DataKey,
    MalformedError,
    OpenError,
    OpenFault,
    SealedError,
    TooLongError,
    UnknownKeyError,
    checked,
    is_randomized,
    key_id_of,
    open_batch,
    open_batch_lenient,
    open_sealed,
    seal,
    seal_batch,
)

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

MATERIAL = bytes(range(64))
KEY = DataKey("public.cards.pan", 7, MATERIAL)
OTHER = DataKey("public.cards.pan", 8, bytes(reversed(MATERIAL)))
NONCE = bytes(range(16))
OLD_DETERMINISTIC = b"~AAHxAPOVIWv4md58uFAJKNaV5LsDvQ6CEQqEoQXKDJ96jY"
OLD_RANDOMIZED = b"^AAHAAECAwQFBgcICQoLDA0ODxDXO1X8KOz5S/57c2pOxTkyIRQ9tAwBEvWABsOcpMLq"
DETERMINISTIC_KNOWN = OLD_DETERMINISTIC + b"-XOkM8G"
RANDOMIZED_KNOWN = OLD_RANDOMIZED + b"-7FDknt"
PATTERN = re.compile(SEALED_PATTERN.encode())
OLD_PATTERN = re.compile(UNCHECKED_PATTERN.encode())
LIKE = re.compile(LIKE_SEALED.encode())
CHECK = 7
# About every border: of a block, of three bytes of base64, of what a batch takes.
SIZES = [0, 1, 2, 3, 11, 15, 16, 17, 18, 19, 31, 32, 33, 34, 35, 47, 48, 49, 383, 384, 385, 386, 1000]


def never(size: int) -> bytes:
    raise AssertionError(f"{size} random bytes asked for a deterministic value")


def test_the_format_does_not_change() -> None:
    """Known values: a database holds such texts for years."""
    assert seal(KEY, b"4111111111111111", nonce=None) == DETERMINISTIC_KNOWN
    assert seal(KEY, b"4111111111111111", nonce=NONCE) == RANDOMIZED_KNOWN
    assert open_sealed(KEY, DETERMINISTIC_KNOWN) == open_sealed(KEY, RANDOMIZED_KNOWN) == b"4111111111111111"


@pytest.mark.parametrize("count", [1, 40])
def test_values_of_the_old_form_open(count: int) -> None:
    """Alone and in batches, beside those of the present form."""
    for old, new in ((OLD_DETERMINISTIC, DETERMINISTIC_KNOWN), (OLD_RANDOMIZED, RANDOMIZED_KNOWN)):
        assert checked(old) == new
        assert not PATTERN.fullmatch(old)
        assert OLD_PATTERN.fullmatch(old)
        assert (
            open_batch({7: KEY}, [old, None, new] * count) == [b"4111111111111111", None, b"4111111111111111"] * count
        )
        assert key_id_of(old) == key_id_of(new) == 7
        assert is_randomized(old) is is_randomized(new)


@pytest.mark.parametrize("size", [s for s in SIZES if s])
def test_the_layout_is_what_the_document_says(size: int) -> None:
    """Built from the description with nothing of ours."""
    value = random.Random(size).randbytes(size)
    header = b"~AAH"
    body = AESSIV(MATERIAL).encrypt(value, [b"pgveil sealed:" + header + b":public.cards.pan"])
    text = header + base64.b64encode(body).rstrip(b"=")
    assert seal(KEY, value, nonce=None) == text + b"-" + base64.b64encode(hashlib.sha256(text).digest())[:6]
    header = b"^AAH"
    body = NONCE + AESSIV(MATERIAL).encrypt(value, [b"pgveil sealed:" + header + b":public.cards.pan", NONCE])
    text = header + base64.b64encode(body).rstrip(b"=")
    assert seal(KEY, value, nonce=NONCE) == text + b"-" + base64.b64encode(hashlib.sha256(text).digest())[:6]


def test_the_sizes_promised() -> None:
    card = b"6212345678901234567"
    assert len(seal(KEY, card, nonce=None)) == 58
    assert len(seal(KEY, card, nonce=NONCE)) == 79


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("nonce", [None, NONCE], ids=["deterministic", "randomized"])
def test_one_value_there_and_back(size: int, nonce: bytes | None) -> None:
    value = bytes(size)
    text = seal(KEY, value, nonce=nonce)
    assert PATTERN.fullmatch(text)
    assert re.search(SEALED_IN_TEXT.encode(), b"Key (pan)=(" + text + b") already exists.")
    assert open_sealed(KEY, text) == value
    assert key_id_of(text) == 7
    assert is_randomized(text) is (nonce is not None)


@pytest.mark.parametrize("key_id", [1, 63, 64, 4095, 4096, MAX_KEY_ID])
def test_key_ids_of_every_size(key_id: int) -> None:
    key = DataKey("d", key_id, MATERIAL)
    text = seal(key, b"x", nonce=None)
    assert PATTERN.fullmatch(text)
    assert key_id_of(text) == key_id
    assert open_sealed(key, text) == b"x"


values = (
    st.none() | st.sampled_from(SIZES).flatmap(lambda n: st.binary(min_size=n, max_size=n)) | st.binary(max_size=70)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=30), st.integers(0, 4), st.randoms(use_true_random=False))
def test_a_batch_is_what_its_values_are_one_by_one(
    some: list[bytes | None], copies: int, shuffler: random.Random
) -> None:
    batch = some * (1 + copies)
    shuffler.shuffle(batch)
    sealed = seal_batch(KEY, batch, randomized=False, random=never)
    assert sealed == [None if v is None else seal(KEY, v, nonce=None) for v in batch]
    drawn: list[bytes] = []

    def draw(size: int) -> bytes:
        drawn.append(shuffler.randbytes(size))
        return drawn[-1]

    randomized = seal_batch(KEY, batch, randomized=True, random=draw)
    assert len(drawn) == 1
    nonces = iter([drawn[0][i : i + 16] for i in range(0, len(drawn[0]), 16)])
    assert randomized == [None if v is None else seal(KEY, v, nonce=next(nonces)) for v in batch]
    # Both modes and two keys in one batch: a column in the middle of a rotation.
    rotated = [None if v is None else seal(OTHER, v, nonce=None) for v in batch]
    mixed = [*sealed, *rotated, *randomized]
    shuffled = list(enumerate(mixed))
    shuffler.shuffle(shuffled)
    opened = open_batch({7: KEY, 8: OTHER}, [s for _, s in shuffled])
    assert opened == [(batch * 3)[i] for i, _ in shuffled]


MANY: dict[str, list[bytes | None]] = {
    "of one length": [b"%019d" % i for i in range(100)],
    "empty": [b""] * 100,
    "empty among short ones": [b"", b"x"] * 50,
    "at most a block": [bytes(i % 17) for i in range(170)],
    "ends of zeros": [b"x".ljust(1 + i % 40, b"\0") for i in range(200)],
    "two blocks, of one length each": [bytes(17), bytes(32)] * 50,
    "many and a few": [*[bytes(19)] * 100, bytes(40), bytes(60)],
    "long": [bytes(384)] * 40,
    "too long for a batch": [bytes(385)] * 40,
    "with NULLs": [None, b"a", b"bb"] * 60,
    "fewer than a batch": [b"a", None, b"b"],
}


@pytest.mark.parametrize("what", MANY)
def test_batches_of_every_shape(what: str) -> None:
    batch = MANY[what]
    deterministic = seal_batch(KEY, batch, randomized=False, random=never)
    assert deterministic == [None if v is None else seal(KEY, v, nonce=None) for v in batch]
    randomized = seal_batch(KEY, batch, randomized=True, random=os.urandom)
    rotated = seal_batch(OTHER, batch, randomized=False, random=never)
    keys = {7: KEY, 8: OTHER}
    for sealed in (deterministic, randomized, rotated, [*deterministic, *randomized, *rotated[:5]]):
        opened = [None if s is None else open_sealed(keys[key_id_of(s)], s) for s in sealed]
        assert open_batch(keys, sealed) == opened
        assert opened == (batch * 3)[: len(sealed)]
        for text in sealed:
            assert text is None or PATTERN.fullmatch(text)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
def test_each_randomized_value_has_a_nonce_of_its_own(count: int) -> None:
    sealed = seal_batch(KEY, [b"same"] * count, randomized=True, random=os.urandom)
    assert len(set(sealed)) == count
    assert open_batch({7: KEY}, sealed) == [b"same"] * count


def test_nothing_to_do() -> None:
    assert seal_batch(KEY, [], randomized=True, random=os.urandom) == []
    assert open_batch({}, []) == []
    assert open_batch({}, [None] * 100) == [None] * 100


def test_a_source_of_randomness_that_runs_dry_is_found() -> None:
    with pytest.raises(ValueError, match="randomness"):
        seal_batch(KEY, [b"a", b"b"], randomized=True, random=lambda size: bytes(size - 1))
    with pytest.raises(ValueError, match="16 bytes"):
        seal(KEY, b"a", nonce=bytes(15))


def test_padding_at_the_very_end_of_a_batch() -> None:
    """Where base64 itself would allow it: the value fills its row."""
    good = seal(KEY, bytes(31), nonce=None)
    with pytest.raises(OpenError) as caught:
        open_batch({7: KEY}, [good] * 40 + [good + b"="])
    assert (caught.value.index, caught.value.kind) == (40, OpenFault.MALFORMED)


def test_a_text_longer_than_any_value_s_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = seal(KEY, bytes(1000), nonce=None)
    monkeypatch.setattr(sealed_module, "_MAX_TEXT", len(text) - 12)
    with pytest.raises(MalformedError):
        open_sealed(KEY, text)


def test_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_module, "MAX_PLAINTEXT", 100)
    with pytest.raises(TooLongError, match="101 bytes"):
        seal(KEY, bytes(101), nonce=None)


def wrongs() -> list[tuple[str, bytes]]:
    whole = seal(KEY, b"6212345678901234567", nonce=None)
    good = whole[:-CHECK]
    loose = seal(KEY, b"6212345678901234567", nonce=NONCE)[:-CHECK]
    return [
        ("empty", b""),
        ("a plain value", b"6212345678901234567"),
        ("a mark alone", b"~"),
        ("a header alone", b"~AAH"),
        ("another mark", b"!" + good[1:]),
        ("no base64 in the id", b"~A=H" + good[4:]),
        ("padding as the id", b"~===" + good[4:]),
        ("a space", good[:20] + b" " + good[21:]),
        ("a line break at the end", good + b"\n"),
        ("a NUL at the end", good + b"\0"),
        ("a NUL inside", good[:20] + b"\0" + good[21:]),
        ("padded", good + b"="),
        ("the URL alphabet", good[:20] + b"-" + good[21:]),
        ("not ASCII", good[:20] + b"\xc3" + good[21:]),
        ("unused bits set", good[:-1] + bytes([good[-1] + 1])),
        ("shorter than a SIV", good[: 4 + 21]),
        ("a length that base64 does not have", good[: 4 + 45]),
        ("a nonce and no SIV", loose[: 4 + 42]),
        ("leading space", b" " + good),
        ("two values", good + good),
        ("lower case", good.lower()),
        ("two checked values", whole + whole),
        ("two checks", whole + whole[-CHECK:]),
        ("a check alone", whole[-CHECK:]),
        ("a check without its dash", good + whole[1 - CHECK :]),
        ("the check of another", good + seal(KEY, b"1", nonce=None)[-CHECK:]),
        ("cut", whole[:-1]),
        ("cut at its beginning", whole[1:]),
        ("a checked value in lower case", whole.lower()),
        ("a checked value and a space", whole + b" "),
        ("something plain with a right check", checked(b"6212345678901234567")),
        ("a right check of a wrong length", checked(good[: 4 + 45])),
    ]


LOOKING_RIGHT = {"the check of another", "a checked value in lower case"}


@pytest.mark.parametrize(("what", "text"), wrongs(), ids=[w for w, _ in wrongs()])
@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among others"])
def test_what_is_not_the_format(what: str, text: bytes, others: int) -> None:
    if what != "lower case":
        assert what in LOOKING_RIGHT or not PATTERN.fullmatch(text)
        with pytest.raises(MalformedError):
            key_id_of(text)
        with pytest.raises(MalformedError):
            open_sealed(KEY, text)
    # Among values of its own length and of any: whichever way the batch would take it.
    alike = seal(KEY, bytes(19), nonce=None)
    batch = [alike] * others + [text] + [alike] * others
    with pytest.raises(OpenError) as caught:
        open_batch({7: KEY}, batch)
    assert caught.value.index == others
    if what != "lower case":
        assert caught.value.kind is OpenFault.MALFORMED
        assert caught.value.key_id is None
    # Nothing but such values: then the batch is of its shape.
    assert all(isinstance(o, SealedError) for o in open_batch_lenient({7: KEY}, [text] * 40))
    opened = open_batch_lenient({7: KEY}, batch)
    assert isinstance(opened.pop(others), SealedError)
    assert opened == [bytes(19)] * (2 * others)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=80)
    | st.from_regex(re.compile(r"[~^][A-Za-z0-9+/]{0,70}", re.ASCII), fullmatch=True).map(str.encode)
    | st.from_regex(re.compile(r"[~^][A-Za-z0-9+/]{0,70}", re.ASCII), fullmatch=True).map(str.encode).map(checked)
)
def test_any_bytes_open_or_fail_cleanly_and_the_pattern_says_the_same(text: bytes) -> None:
    try:
        key_id_of(text)
    except MalformedError:
        assert not OLD_PATTERN.fullmatch(text)
        assert not PATTERN.fullmatch(text) or checked(text[:-CHECK]) != text
    else:
        assert OLD_PATTERN.fullmatch(text) or (PATTERN.fullmatch(text) and checked(text[:-CHECK]) == text)
        assert LIKE.fullmatch(text) or not text[1:2].isalpha()
    alone = open_batch_lenient({7: KEY}, [text])
    many = open_batch_lenient({7: KEY}, [text] * 40)
    assert isinstance(alone[0], SealedError)
    assert {type(m) for m in many} == {type(alone[0])}


@pytest.mark.parametrize("nonce", [None, NONCE], ids=["deterministic", "randomized"])
@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among others"])
def test_any_change_of_a_character_is_found(nonce: bytes | None, others: int) -> None:
    good = seal(KEY, b"6212345678901234567", nonce=nonce)
    for place in range(len(good)):
        for replacement in (b"A", b"B", b"~", b"^"):
            changed = good[:place] + replacement + good[place + 1 :]
            if changed == good:
                continue
            with pytest.raises(OpenError) as caught:
                open_batch({7: KEY}, [good] * others + [changed])
            assert caught.value.index == others


def test_the_mode_cannot_be_changed() -> None:
    """A randomized value is not read as a deterministic one whose SIV is the nonce, nor the other way."""
    for nonce in (None, NONCE):
        text = seal(KEY, bytes(40), nonce=nonce)
        other = (b"^" if nonce is None else b"~") + text[1:]
        with pytest.raises(MalformedError):
            open_sealed(KEY, other)
        for remade in (other[:-CHECK], checked(other[:-CHECK])):
            with pytest.raises(DamagedError):
                open_sealed(KEY, remade)


@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among others"])
def test_a_value_moved_to_another_column_does_not_open(others: int) -> None:
    elsewhere = DataKey("public.cards.cvv", 7, MATERIAL)
    moved = seal(KEY, b"6212345678901234567", nonce=None)
    own = seal(elsewhere, b"6212345678901234567", nonce=None)
    with pytest.raises(OpenError) as caught:
        open_batch({7: elsewhere}, [own] * others + [moved] * max(1, others))
    assert (caught.value.index, caught.value.kind, caught.value.key_id) == (others, OpenFault.DAMAGED, 7)
    with pytest.raises(DamagedError):
        open_sealed(elsewhere, moved)


@pytest.mark.parametrize("others", [0, 40], ids=["alone", "among others"])
def test_a_key_that_is_not_at_hand(others: int) -> None:
    gone = seal(OTHER, b"6212345678901234567", nonce=None)
    own = seal(KEY, b"6212345678901234567", nonce=None)
    with pytest.raises(OpenError) as caught:
        open_batch({7: KEY}, [own] * others + [gone] * max(1, others))
    assert (caught.value.index, caught.value.kind, caught.value.key_id) == (others, OpenFault.UNKNOWN_KEY, 8)
    assert isinstance(caught.value.__cause__, UnknownKeyError)
    with pytest.raises(UnknownKeyError, match="key 8"):
        open_sealed(KEY, gone)


def test_the_first_fault_is_the_one_reported() -> None:
    good = [seal(KEY, bytes(n), nonce=None) for n in range(60)]
    good[50], good[20] = b"plain", good[20][:-2] + b"AA"
    with pytest.raises(OpenError) as caught:
        open_batch({7: KEY}, [None, *good])
    assert caught.value.index == 21


def test_no_error_shows_a_value_or_a_key() -> None:
    secret = b"6212345678901234567"
    good = seal(KEY, secret, nonce=None)
    damaged = good[:30] + (b"A" if good[30:31] != b"A" else b"B") + good[31:]
    for bad in (damaged, seal(OTHER, secret, nonce=None), good + b"=", secret):
        for count in (1, 50):
            try:
                open_batch({7: KEY}, [bad] * count)
            except OpenError as error:
                shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(vars(error.__cause__))
                assert secret.decode() not in shown
                assert bad.decode()[4:] not in shown
                assert MATERIAL.hex() not in shown
            else:
                raise AssertionError(bad)


def test_a_key_does_not_show_itself() -> None:
    assert repr(KEY) == "DataKey(domain='public.cards.pan', key_id=7)"
    assert str(KEY) == repr(KEY)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(KEY)


@pytest.mark.parametrize(
    ("domain", "key_id", "size"),
    [("d", 1, 32), ("d", 0, 64), ("d", MAX_KEY_ID + 1, 64), ("", 1, 64), ("d" * 256, 1, 64)],
)
def test_what_is_no_data_key(domain: str, key_id: int, size: int) -> None:
    with pytest.raises(ValueError, match="key"):
        DataKey(domain, key_id, bytes(size))


def test_keys_are_equal_when_everything_is() -> None:
    assert DataKey("public.cards.pan", 7, MATERIAL) == KEY
    assert len({KEY, OTHER, DataKey("public.cards.pan", 7, MATERIAL)}) == 2
    assert DataKey("public.cards.pan", 7, OTHER.material) != KEY


def test_postgresql_reads_the_patterns_as_python_does(pg: Postgres) -> None:
    """On every text, right and wrong."""
    right = [seal(KEY, bytes(n), nonce=nonce) for n in [*SIZES, 5000] for nonce in (None, NONCE)]
    wrong = [t for w, t in wrongs() if b"\0" not in t and b"\xc3" not in t]
    cut = [t[:-n] for t in right for n in (1, 2, 3, CHECK)]
    texts = [t.decode() for t in right + wrong + cut]
    patterns = (SEALED_PATTERN, UNCHECKED_PATTERN, LIKE_SEALED)
    with psycopg.connect(pg.dsn(pg.create_database())) as connection:
        for pattern in patterns:
            rows = connection.execute("select t ~ %s from unnest(%s::text[]) t", [pattern, texts]).fetchall()
            assert [r[0] for r in rows] == [re.fullmatch(pattern[1:-1], t) is not None for t in texts]


def test_what_is_never_sealed_again() -> None:
    whole = seal(KEY, b"6212345678901234567", nonce=None).decode()
    for text in (whole, whole[:-7], whole[:-3], whole[:9], whole[:19], whole.lower(), "^" + whole[1:]):
        assert LIKE.fullmatch(text.encode())
    for text in (
        "~/Documents/reports/2026/january",
        "~ about 20",
        "^caret",
        "~AAB",
        "4929000011112101",
        "~user",
        whole[1:],
        "x" + whole,
    ):
        assert not LIKE.fullmatch(text.encode())


def test_a_scrubber_finds_what_postgresql_cut() -> None:
    """`Failing row contains (...)` cuts each column at 64 bytes."""
    text = seal(KEY, bytes(200), nonce=NONCE)[:64].decode()
    assert re.sub(SEALED_IN_TEXT, "[sealed]", f"Failing row contains (1, {text}..., Ann).") == (
        "Failing row contains (1, [sealed]..., Ann)."
    )
    whole = seal(KEY, b"6212345678901234567", nonce=None).decode()
    assert (
        re.sub(SEALED_IN_TEXT, "[sealed]", f"Key (pan)=({whole}) already exists.")
        == "Key (pan)=([sealed]) already exists."
    )
