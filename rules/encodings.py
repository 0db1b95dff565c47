"""SQL text as bytes and as characters, in PostgreSQL's client encodings (documentation chapter 24.3, "Character Set Support").

Strict on purpose: whatever is not certain to mean the same characters to the server is refused. A byte of a GBK or SJIS character can
look like a quote or a backslash, so the text must be decoded before anything is looked for in it. A name that decodes here to other
characters than in the server would slip past the rules, so Python's codecs were compared with the server's own conversions, sequence by
sequence (tests/rules/test_encodings.py): where they differ the table below follows the server.
"""

from __future__ import annotations

from typing import Final

# Names as pg_char_to_encoding sees them: letters and digits only, lower case. Left out: EUC_TW and
# MULE_INTERNAL, which have no codec, and SHIFT_JIS_2004, whose codec reads a backslash as a yen sign.
_CODECS: Final[dict[str, str]] = {
    "sqlascii": "ascii",
    "utf8": "utf-8",
    "unicode": "utf-8",
    "gbk": "gbk",
    "win936": "gbk",
    "windows936": "gbk",
    "gb18030": "gb18030",
    "sjis": "cp932",
    "mskanji": "cp932",
    "shiftjis": "cp932",
    "win932": "cp932",
    "windows932": "cp932",
    "big5": "big5",
    "win950": "big5",
    "windows950": "big5",
    "uhc": "cp949",
    "win949": "cp949",
    "windows949": "cp949",
    "johab": "johab",
    "euccn": "gb2312",
    "eucjp": "euc_jp",
    "eucjis2004": "euc_jis_2004",
    "euckr": "euc_kr",
    "latin1": "iso8859-1",
    "iso88591": "iso8859-1",
    "latin2": "iso8859-2",
    "iso88592": "iso8859-2",
    "latin3": "iso8859-3",
    "iso88593": "iso8859-3",
    "latin4": "iso8859-4",
    "iso88594": "iso8859-4",
    "latin5": "iso8859-9",
    "iso88599": "iso8859-9",
    "latin6": "iso8859-10",
    "iso885910": "iso8859-10",
    "latin7": "iso8859-13",
    "iso885913": "iso8859-13",
    "latin8": "iso8859-14",
    "iso885914": "iso8859-14",
    "latin9": "iso8859-15",
    "iso885915": "iso8859-15",
    "latin10": "iso8859-16",
    "iso885916": "iso8859-16",
    "iso88595": "iso8859-5",
    "iso88596": "iso8859-6",
    "iso88597": "iso8859-7",
    "iso88598": "iso8859-8",
    "koi8": "koi8-r",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "alt": "cp866",
    "win": "cp1251",
    "win866": "cp866",
    "windows866": "cp866",
    "win874": "cp874",
    "windows874": "cp874",
    "win1250": "cp1250",
    "windows1250": "cp1250",
    "win1251": "cp1251",
    "windows1251": "cp1251",
    "win1252": "cp1252",
    "windows1252": "cp1252",
    "win1253": "cp1253",
    "windows1253": "cp1253",
    "win1254": "cp1254",
    "windows1254": "cp1254",
    "win1255": "cp1255",
    "windows1255": "cp1255",
    "win1256": "cp1256",
    "windows1256": "cp1256",
    "win1257": "cp1257",
    "windows1257": "cp1257",
    "win1258": "cp1258",
    "windows1258": "cp1258",
    "abc": "cp1258",
    "tcvn": "cp1258",
    "tcvn5712": "cp1258",
    "vscii": "cp1258",
}


# Characters that a codec reads other than the server does. U+FFFD is what the server makes of some: no way back, so they are refused.
_SERVER_READS: Final[dict[str, dict[int, int]]] = {
    "big5": {0x2574: 0xFFFD, 0xFFE3: 0xFFFD, 0x02CD: 0xFFFD},
    "euc_jp": {
        0x00A6: 0xFFE4,
        0x301C: 0xFF5E,
        0x2016: 0x2225,
        0x2212: 0xFF0D,
        0x00A2: 0xFFE0,
        0x00A3: 0xFFE1,
        0x00AC: 0xFFE2,
    },
    "euc_jis_2004": {0xFFE3: 0x203E, 0x2015: 0x2014, 0xFFE5: 0x00A5, 0x2985: 0xFF5F, 0x2986: 0xFF60},
}
_CODEC_READS: Final[dict[str, dict[int, int]]] = {
    codec: {server: ours for ours, server in reads.items() if server != 0xFFFD}
    for codec, reads in _SERVER_READS.items()
}

ENCODING_NAMES: Final = frozenset(_CODECS)
CODECS: Final = frozenset(_CODECS.values())


class EncodingError(ValueError):
    """The bytes and the characters of a text do not certainly correspond. No part of the text is in it."""


def decode_sql(raw: bytes, client_encoding: str, *, server_encoding: str | None = None) -> str:
    """The characters of `raw`.

    With client encoding SQL_ASCII the server converts nothing, so `server_encoding` says what the bytes are; without it they must be ASCII.
    Raises EncodingError for an unknown encoding, invalid bytes, and where encoding the result again would give other bytes.
    """
    codec = _codec(client_encoding, server_encoding)
    text = _decoded(raw, codec)
    if text is None:
        raise EncodingError(f"text is not valid in client encoding {_shown(client_encoding)}")
    if codec != "utf-8" and _encoded(text, codec) != raw:
        raise EncodingError(f"text does not survive conversion from client encoding {_shown(client_encoding)} and back")
    return text


def encode_sql(text: str, client_encoding: str, *, server_encoding: str | None = None) -> bytes:
    """The bytes of `text`; the inverse of `decode_sql`.

    Raises EncodingError for an unknown encoding, characters that it lacks, and where decoding the result again would give another text.
    """
    codec = _codec(client_encoding, server_encoding)
    raw = _encoded(text, codec)
    if raw is None:
        raise EncodingError(f"text has characters that client encoding {_shown(client_encoding)} lacks")
    if codec != "utf-8" and _decoded(raw, codec) != text:
        raise EncodingError(f"text does not survive conversion to client encoding {_shown(client_encoding)} and back")
    return raw


def _codec(client_encoding: str, server_encoding: str | None) -> str:
    codec = _CODECS.get(_canonical(client_encoding))
    if codec == "ascii" and server_encoding is not None:
        codec = _CODECS.get(_canonical(server_encoding))
    if codec is None:
        raise EncodingError(f"encoding {_shown(client_encoding)} is not supported")
    return codec


def _canonical(name: str) -> str:
    """What pg_char_to_encoding compares: ASCII letters and digits only, in lower case; case and punctuation do not matter."""
    return "".join(c for c in name if c.isascii() and c.isalnum()).lower()


def _shown(name: str) -> str:
    """A name that came from outside, fit for a message."""
    return _canonical(name)[:32].upper()


def _decoded(raw: bytes, codec: str) -> str | None:
    # The error object holds the text, so it must not become the context of ours: None leaves its handler first.
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError:
        return None
    return text.translate(_SERVER_READS[codec]) if codec in _SERVER_READS else text


def _encoded(text: str, codec: str) -> bytes | None:
    try:
        return (text.translate(_CODEC_READS[codec]) if codec in _CODEC_READS else text).encode(codec)
    except UnicodeEncodeError:
        return None
