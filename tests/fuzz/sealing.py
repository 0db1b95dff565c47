"""Sealed values, the values in them, their masks, and the files of the key ring."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from random import Random
from struct import pack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from keys.lookup import MAC_SIZE, TIME_SIZE, Bearer, ticket
from keys.mask import MASK_KINDS, MaskError, make_mask
from keys.providers import ProviderError
from keys.providers.file import FileMasterKey
from keys.ring import RING_FILE, KeyRing, RingError, RingFileError, read_entries
from keys.sealed import (
    SEALED_IN_TEXT,
    SEALED_PATTERN,
    UNCHECKED_PATTERN,
    DataKey,
    MalformedError,
    OpenError,
    SealedError,
    checked,
    is_randomized,
    key_id_of,
    open_batch,
    open_batch_lenient,
    open_sealed,
    seal,
)
from keys.types import (
    CANONICAL_SETTINGS,
    OutputSettings,
    UnrepresentableError,
    WireValueError,
    decode,
    decode_array,
    decode_literal,
    encode,
    encode_array,
    equality_is_bytes,
    parse_type,
    with_enum,
)
from tests.fuzz.target import Cursor, Target, promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keys.mask import Mask
    from keys.types import LogicalType

# -- sealed texts --------------------------------------------------------------------------------------------------------------------

_KEYS: Final = {i: DataKey("public.customers.card", i, bytes((i % 251,)) * 64) for i in (1, 2, 262_143)}
_PLAIN: Final = (
    b"",
    b"7",
    b"6222021234567890123",
    b"x" * 15,
    b"x" * 16,
    b"y" * 33,
    "\u5f20\u4e09".encode(),
    bytes(range(100)),
)
_PATTERN: Final = re.compile(SEALED_PATTERN.encode())
_UNCHECKED: Final = re.compile(UNCHECKED_PATTERN.encode())
_CHECK: Final = 7
_IN_TEXT: Final = re.compile(SEALED_IN_TEXT.encode())
_BATCH: Final = 40  # values, so that the quick way is taken
_SEALED_WORDS: Final = (b"~", b"^", b"AAAB", b"=", b"==", b"\n", b"+/", b"~AAE", b"~///", b"-", b"-AAAAAA")


def _sealed_texts() -> dict[bytes, bytes]:
    """Everything that was ever sealed, with what it is."""
    made: dict[bytes, bytes] = {}
    for key in _KEYS.values():
        for plain in _PLAIN:
            for nonce in (None, bytes(range(16))):
                text = seal(key, plain, nonce=nonce)
                # Of the present form, and of the old one.
                made[text] = made[text[:-_CHECK]] = plain
    return made


def _sealed() -> Callable[[bytes], int]:
    known = _sealed_texts()
    whole = list(known)

    def run(data: bytes) -> int:
        results = [_open_one(text, known) for text in data.split(b"|")]
        texts = data.split(b"|")
        # Beside good ones: each must come out as it does alone.
        batch = [*texts, None, *whole][: max(_BATCH, len(texts))]
        opened = open_batch_lenient(_KEYS, batch)
        for text, result in zip(batch, opened, strict=True):
            alone = None if text is None else _open_one(text, known)
            promise(
                result == alone or (isinstance(result, SealedError) and type(result) is type(alone)),
                "a value opens otherwise in company",
            )
        try:
            open_batch(_KEYS, texts)
            promise(not any(isinstance(r, SealedError) for r in results), "a batch opens that holds what does not")
        except OpenError as error:
            promise(isinstance(results[error.index], SealedError), "the wrong value is said not to open")
        return len(texts)

    return run


def _open_one(text: bytes, known: dict[bytes, bytes]) -> bytes | SealedError:
    """What the text opens to, by the single functions; they agree with the published pattern."""
    try:
        key_id = key_id_of(text)
        randomized = is_randomized(text)
    except MalformedError as error:
        promise(_UNCHECKED.fullmatch(text) is None, "the pattern takes what nobody opens")
        looks = _PATTERN.fullmatch(text) is not None and checked(text[:-_CHECK]) == text
        promise(not looks, "a text with a right check is malformed")
        promise(text not in known, "a sealed value is malformed")
        return error
    old = _UNCHECKED.fullmatch(text) is not None
    promise(old or _PATTERN.fullmatch(text) is not None, "the pattern refuses a sealed value")
    promise(old or checked(text[:-_CHECK]) == text, "a wrong check is taken")
    promise(_IN_TEXT.search(text) is not None, "a sealed value would not be found in a text")
    key = _KEYS.get(key_id)
    if key is None:
        return open_batch_lenient(_KEYS, [text])[0]  # type: ignore[return-value]
    try:
        plain = open_sealed(key, text)
    except SealedError as error:
        promise(text not in known, "what was sealed does not open")
        return error
    promise(known.get(text) == plain, "something opens that nobody sealed")
    promise(randomized or seal(key, plain, nonce=None) == (checked(text) if old else text), "one value has two texts")
    return plain


def _sealed_seeds() -> Iterator[bytes]:
    made = list(_sealed_texts())
    yield from made
    yield b"|".join(made[:6])
    yield b"|".join(made)
    yield b"plain text|~AAB|^AAB"


# -- the values in them --------------------------------------------------------------------------------------------------------------

_SCALARS: Final = (
    ("text", "abc d\u00e9f", b"abc"),
    ("varchar(5)", "ab   ", b"ab"),
    ("char(5)", "ab   ", b"ab   "),
    ("smallint", "-7", pack("!h", -7)),
    ("integer", "0x_1f", pack("!i", 31)),
    ("bigint", "9223372036854775807", pack("!q", -1)),
    ("numeric", "-1234.5600e-2", pack("!hhHhhhh", 3, 0, 0x4000, 4, 12, 3456, 7000)),
    ("numeric(6,2)", "1234.567", pack("!hhHhhh", 2, 0, 0, 2, 1234, 5600)),
    ("numeric(4,-2)", "NaN", pack("!hhHh", 0, 0, 0xC000, 0)),
    ("real", "1e-40", pack("!f", 1.5)),
    ("float8", "-Infinity", pack("!d", -0.0)),
    ("boolean", " tru ", b"\1"),
    ("date", "1990-02-03 BC", pack("!i", -3619)),
    ("time", "24:00:00", pack("!q", 86_400_000_000)),
    ("time(2)", "04:05:06.789 PM", pack("!q", 1)),
    ("timetz", "04:05:06.789-08:30", pack("!qi", 1, -3600)),
    ("timestamp", "infinity", pack("!q", -(1 << 63))),
    ("timestamp(1)", "Fri Jan 02 04:05:06.78 1990", pack("!q", -1)),
    ("timestamptz", "1990-01-02 04:05:06 Europe/Berlin", pack("!q", 7)),
    ("uuid", "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}", bytes(range(16))),
    ("bytea", "\\x00ff", b"\0\xff"),
    ("json", '{"a": [1, "\\ud83d\\ude00"]}', b'{"a" : 1}'),
    ("jsonb", '{"b": 1e2, "a": [null, true, "x"]}', b'\1{"a": 1}'),
    ("enum mood(sad, ok, 'so so')", "so so", b"ok"),
)
_DECLARED: Final = (0, 0, 0, 25, 1043, 1042, 21, 23, 20, 1700, 700, 701, 1082, 1114, 1184, 19, 705, 1009, 1007, 16)
_SETTINGS: Final = (
    CANONICAL_SETTINGS,
    OutputSettings("ISO, DMY", "Europe/Berlin", "escape", 0),
    OutputSettings("SQL, MDY", "America/New_York", "hex", -3),
    OutputSettings("Postgres, DMY", "Asia/Kathmandu", "escape", 3),
    OutputSettings("German, YMD", "UTC", "hex", 1),
    OutputSettings("nonsense", "<+05>-5", "odd", 99, "iso_8601", "LATIN1"),
)
_VALUE_WORDS: Final = tuple(
    b'infinity -infinity NaN epoch now BC AM PM Z +14:59 24:00:00 60 0x 0b 0o _ e9999 \\x {} {{ NULL "," \\" [1:2]={1,2} \\u0000 \\ud800 '
    b"true t yes on 1 Jan 0001 294276-12-31 5874897-12-31 4714-11-24 1e308 1e-45 00000000000".split()
)
_DIGITS: Final = re.compile(rb"[0-9]{9,}")


def _types() -> list[LogicalType]:
    made = [parse_type(spec + suffix) for spec, _, _ in _SCALARS for suffix in ("", "[]")]
    return [with_enum(t, oid=90_001, array_oid=90_002) if t.scalar.labels is not None else t for t in made]


def _values() -> Callable[[bytes], int]:
    types = _types()

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        type_ = cursor.pick(types)
        flags = cursor.byte()
        declared = cursor.pick(_DECLARED)
        settings = cursor.pick(_SETTINGS)
        raw = cursor.rest()
        binary, exact = flags & 1, bool(flags & 2)
        try:
            if flags & 4:
                canonical = decode_literal(
                    type_, raw.decode(errors="surrogateescape"), number=bool(flags & 8), settings=settings, exact=exact
                )
            else:
                canonical = decode(type_, raw, binary, declared_oid=declared, settings=settings, exact=exact)
        except WireValueError as error:
            _says_nothing(raw, error)
            promise(exact or not isinstance(error, UnrepresentableError), "not to be represented, where it is stored")
            return 1
        _comes_back(type_, canonical, settings)
        return 1

    return run


def _says_nothing(raw: bytes, error: WireValueError) -> None:
    promise(len(error.sqlstate) == 5 and error.message, "an error without words")
    said = f"{error.message} {error.detail}".encode(errors="replace")
    promise(not any(number in said for number in _DIGITS.findall(raw)), "an error tells a value")
    chain = error.__context__ or error.__cause__
    promise(
        chain is None or isinstance(chain, WireValueError) or error.__suppress_context__,
        "an error drags another one along",
    )


def _comes_back(type_: LogicalType, canonical: bytes, settings: OutputSettings) -> None:
    """What is sealed is shown in every form, and each form is the value again."""
    text = encode(type_, canonical, 0)
    promise(decode(type_, text, 0, settings=CANONICAL_SETTINGS) == canonical, "the text form is another value")
    promise(encode(type_, decode(type_, text, 0), 0) == text, "a value has two texts")
    packed = encode(type_, canonical, 1)
    promise(decode(type_, packed, 1) == canonical, "the binary form is another value")
    try:
        shown = encode(type_, canonical, 0, settings=settings)
        encode(type_, canonical, 1, settings=settings)
    except WireValueError as error:
        promise(error.sqlstate == "0AP01", "a stored value can't be shown")
        return
    if not _loses(type_, settings):
        promise(decode(type_, shown, 0, settings=settings) == canonical, "the client's form is another value")
    kinds = [("t.a", Bearer("a", 1)), ("t.b", Bearer("a", 1)), ("t.a", Bearer("b", 1)), ("t.a", Bearer("a", 2))]
    vouched = [base64.b64decode(ticket(b"k" * 32, c, text, b), validate=True) for c, b in kinds]
    promise(all(each[MAC_SIZE + TIME_SIZE :] == text for each in vouched), "a look-up ticket is for another value")
    promise(len({v[:MAC_SIZE] for v in vouched}) == len(kinds), "a ticket is good for two columns, logins or times")
    if type_.array:
        value = decode_array(type_, text, 0)
        promise(encode_array(type_, value, 0) == text, "an array is another one")
    equality_is_bytes(type_)


def _loses(type_: LogicalType, settings: OutputSettings) -> bool:
    """Whether what is shown under the settings is not what pgveil takes: digits cut, or dates that are not in ISO form."""
    oid = type_.scalar.oid
    return (oid in (700, 701) and settings.extra_float_digits < 1) or (
        oid in (1082, 1114, 1184) and not settings.date_style.startswith("ISO")
    )


def _value_seeds() -> Iterator[bytes]:
    for number, (_, text, packed) in enumerate(_SCALARS):
        scalar, array = 2 * number, 2 * number + 1
        for settings in range(len(_SETTINGS)):
            yield bytes((scalar, 0, 0, settings)) + text.encode()
        yield bytes((scalar, 1, 0, 0)) + packed
        yield bytes((scalar, 6, 0, 0)) + text.encode()
        yield bytes((scalar, 12, 0, 0)) + text.encode()
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        yield bytes((array, 0, 0, 1)) + f'{{{{"{quoted}"}},{{NULL}}}}'.encode()
        oid = _types()[scalar].oid
        yield bytes((array, 1, 0, 0)) + pack("!iiIiii", 1, 0, oid, 1, 1, len(packed)) + packed
        for declared in range(3, len(_DECLARED)):
            if number in (0, 4, 6, 10, 12):
                yield bytes((scalar, 2, declared, 0)) + text.encode()


# -- masks ---------------------------------------------------------------------------------------------------------------------------

_MASKED_TYPES: Final = ("text", "varchar(12)", "char(12)", "integer", "numeric(12,2)", "float4", "float8", "date", "timestamp", "timestamptz", "bytea", "text[]", "jsonb")  # fmt: skip
_PARAMETERS: Final[tuple[dict[str, object], ...]] = (
    {},
    {"n": 0},
    {"n": 32},
    {"first": 1, "last": 1},
    {"first": 32, "last": 32},
    {"width": 1},
    {"width": 10},
    {"width": 10**12},
    {"value": "0"},
    {"value": "1990-01-01"},
    {"scope": "s"},
)
# Digits of a value that each kind may show at most.
_SHOWN: Final = {"phone": 7, "bank_card": 4}


def _masks() -> Callable[[bytes], int]:
    made: list[Mask] = []
    for spec in _MASKED_TYPES:
        for kind in MASK_KINDS:
            for parameters in _PARAMETERS:
                try:
                    made.append(make_mask(kind, parameters, parse_type(spec), pseudonym_key=b"k" * 32))
                except MaskError:
                    continue

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        first = cursor.byte() << 8 | cursor.byte()
        raw = cursor.rest()
        count = 0
        # Several kinds at once for the same value.
        for mask in made[first % len(made) :: 37]:
            try:
                canonical = decode(mask.type, raw, 0)
            except WireValueError:
                continue
            count += 1
            _hides(mask, canonical, mask.apply(canonical))
        promise(made[0].apply(None) is None, "a mask for nothing")
        return count or 1

    return run


def _hides(mask: Mask, canonical: bytes, shown: bytes | None) -> None:
    if shown is None:
        promise(mask.kind == "null", "a value is masked as none")
        return
    promise(
        mask.type.oid == 1042 or decode(mask.type, encode(mask.type, shown, 0), 0) == shown,
        "a masked value is none of the column's",
    )
    encode(mask.type, shown, 1)
    if mask.kind in _SHOWN:
        digits = [b for b in shown if chr(b).isdigit()]
        promise(len(digits) <= _SHOWN[mask.kind], "more digits are shown than may be")
        promise(len(shown.decode()) == len(canonical.decode()), "a mask is of another length")
    if mask.kind == "name":
        words = canonical.decode().replace("\u3000", " ").replace("\u00a0", " ").split(" ")
        promise(
            all(len(w) < 3 or w.encode() not in shown or set(w) == {"*"} for w in words if _plain(w)), "a name is shown"
        )
    if mask.kind == "email":
        name, _, _ = canonical.decode().rpartition("@")
        promise(not _plain(name) or len(name) < 3 or not shown.startswith(name.encode()), "an address is shown")
    if mask.kind == "id_number" and canonical.isalnum() and len(canonical) > 2:
        promise(set(shown[1:-1]) == {ord("*")}, "the middle of a number is shown")
    if mask.kind == "pseudonym":
        promise(re.fullmatch(rb"p_[0-9a-f]{8,16}", shown), "a pseudonym of another form")


def _plain(text: str) -> bool:
    return text.isascii() and text.isalnum()


def _mask_seeds() -> Iterator[bytes]:
    texts = (
        "13800138000", "+86 138 0013 8000", "John Smith", "\u5f20\u4e09\u3000\u674e\u56db", "john@example.com", "a@b@c.de", "1990-05-17", "19900517",
        "11010519491231002X", "6222 0212 3456 7890", "-12.5", "37", "NaN", "infinity", "-infinity", "1e308", "{a,b}", '{"a":1}', "e\u0301\u0301x",
        "\U0001f468\u200d\U0001f469", "294276-12-31 23:59:59", "4714-11-24 BC", "", " ", "1e-45",
    )  # fmt: skip
    for number, text in enumerate(texts):
        for first in (0, 7, 19, 30):
            yield bytes((0, (first + number) % 37)) + text.encode()


# -- the key ring's files ------------------------------------------------------------------------------------------------------------


def _ring_files() -> tuple[bytes, bytes]:
    """A master key's file, and a ring with live and destroyed keys, always the same."""
    random = Random(11)
    with TemporaryDirectory() as place:
        directory = Path(place)
        master = FileMasterKey.generate(directory / "master", random.randbytes)
        ring = KeyRing.initialise(directory, master)
        ring = KeyRing.open(directory, master, clock=lambda: 1_700_000_000.0)
        for domain in ("public.customers.card", "shared", "public.customers.card"):
            ring.create(domain, random.randbytes)
        ring.destroy(2)
        return (directory / "master").read_bytes(), (directory / RING_FILE).read_bytes()


def _ring() -> Callable[[bytes], int]:
    place = TemporaryDirectory(prefix="pgveil-fuzz-")
    directory = Path(place.name)
    good_master, good_ring = _ring_files()
    master_path, ring_path = directory / "master", directory / RING_FILE
    _private(master_path, good_master)
    _private(ring_path, good_ring)
    expected = KeyRing.open(directory, FileMasterKey.load(master_path)).entries()

    def run(data: bytes) -> int:
        promise(directory.is_dir(), f"{place.name} is gone")  # it is there as long as this function is
        cursor = Cursor(data)
        flags = cursor.byte()
        content = cursor.rest()
        master_path.write_bytes(content if flags & 1 else good_master)
        ring_path.write_bytes(good_ring if flags & 1 else content)
        try:
            read_entries(directory)
        except RingFileError as error:
            _no_material(error, good_master)
        try:
            ring = KeyRing.open(directory, FileMasterKey.load(master_path))
        except (RingError, ProviderError) as error:
            _no_material(error, good_master)
            return 1
        promise(ring.entries() == expected, "another ring opens than was written")
        for domain in ring.domains():
            promise(max(ring.keys(domain)) == ring.newest(domain).key_id, "the newest key is not the newest")
        return 1

    return run


def _private(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


def _no_material(error: Exception, master: bytes) -> None:
    promise(master.partition(b":")[2][:20] not in str(error).encode(), "an error shows a key")


def _ring_seeds() -> Iterator[bytes]:
    master, ring = _ring_files()
    yield b"\0" + ring
    yield b"\1" + master
    yield b"\0" + b'{"ring":{"format":"pgveil-ring-1","next_id":1,"keys":[]},"seal":""}'


TARGETS: Final = (
    Target(
        "sealed", "sealed values, alone and in batches", _sealed, _sealed_seeds, longest=2048, dictionary=_SEALED_WORDS
    ),
    Target(
        "values",
        "values of every logical type, text and binary",
        _values,
        _value_seeds,
        longest=512,
        dictionary=_VALUE_WORDS,
    ),
    Target("masks", "masks over any value of their types", _masks, _mask_seeds, longest=256, dictionary=_VALUE_WORDS),
    Target("ring", "the files of the key ring and its master key", _ring, _ring_seeds, longest=2048),
)
