"""SQL text as bytes and as characters, in PostgreSQL's client encodings (documentation chapter 24.3, "Character Set Support").

Strict on purpose: whatever is not certain to mean the same characters to the server is refused. A byte of a GBK or SJIS character can
look like a quote or a backslash, so the text must be decoded before anything is looked for in it.
"""

from __future__ import annotations

from typing import Final

# Names as pg_char_to_encoding sees them: letters and digits only, lower case. Encodings without a codec (EUC_TW, MULE_INTERNAL) are left out.
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
    "shiftjis2004": "shift_jis_2004",
    "big5": "cp950",
    "win950": "cp950",
    "windows950": "cp950",
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


class EncodingError(ValueError):
    """The bytes and the characters of a text do not certainly correspond. No part of the text is in it."""


def decode_sql(raw: bytes, client_encoding: str) -> str:
    """The characters of `raw`.

    Raises EncodingError for an unknown encoding, invalid bytes, and where encoding the result again would give other bytes.
    """
    codec = _codec(client_encoding)
    text = _decoded(raw, codec)
    if text is None:
        raise EncodingError(f"text is not valid in client encoding {client_encoding}")
    if codec != "utf-8" and _encoded(text, codec) != raw:
        raise EncodingError(f"text does not survive conversion from client encoding {client_encoding} and back")
    return text


def encode_sql(text: str, client_encoding: str) -> bytes:
    """The bytes of `text`.

    Raises EncodingError for an unknown encoding, characters that it lacks, and where decoding the result again would give another text.
    """
    codec = _codec(client_encoding)
    raw = _encoded(text, codec)
    if raw is None:
        raise EncodingError(f"text has characters that client encoding {client_encoding} lacks")
    if codec != "utf-8" and _decoded(raw, codec) != text:
        raise EncodingError(f"text does not survive conversion to client encoding {client_encoding} and back")
    return raw


def _codec(client_encoding: str) -> str:
    name = "".join(c for c in client_encoding if c.isascii() and c.isalnum()).lower()
    codec = _CODECS.get(name)
    if codec is None:
        raise EncodingError(f"client encoding {client_encoding[:64]!r} is not supported")
    return codec


def _decoded(raw: bytes, codec: str) -> str | None:
    # The error object holds the text, so it must not become the context of ours: None leaves its handler first.
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        return None


def _encoded(text: str, codec: str) -> bytes | None:
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        return None
