"""Masking of text, character by character as people see them. Each function has a SQL twin of the same patterns in `keys.mask_sql`.

A character here is one code point and the marks that follow it. The set of marks is fixed below and not taken from a Unicode library:
the server and Python know different Unicode versions and both sides must agree for ever. Where it knows less than Unicode does, one seen
character counts as two, so that less of the value is shown, never more; a joiner joins nothing after it for the same reason.
"""

from __future__ import annotations

import re

# Combining marks, vowel signs, conjoining jamo, variation selectors, joiners, emoji modifiers and tags.
MARK_RANGES = (
    (0x0300, 0x036F),  # combining diacritical marks
    (0x0483, 0x0489),  # Cyrillic
    (0x0591, 0x05BD),  # Hebrew points
    (0x05BF, 0x05BF),
    (0x05C1, 0x05C2),
    (0x05C4, 0x05C5),
    (0x05C7, 0x05C7),
    (0x0610, 0x061A),  # Arabic
    (0x064B, 0x065F),
    (0x0670, 0x0670),
    (0x06D6, 0x06DC),
    (0x06DF, 0x06E4),
    (0x06E7, 0x06E8),
    (0x06EA, 0x06ED),
    (0x0711, 0x0711),  # Syriac
    (0x0730, 0x074A),
    (0x07A6, 0x07B0),  # Thaana
    (0x0900, 0x0903),  # Devanagari
    (0x093A, 0x093C),
    (0x093E, 0x094F),
    (0x0951, 0x0957),
    (0x0962, 0x0963),
    (0x0981, 0x0983),  # Bengali
    (0x09BC, 0x09BC),
    (0x09BE, 0x09CD),
    (0x09D7, 0x09D7),
    (0x0A01, 0x0A03),  # Gurmukhi
    (0x0A3C, 0x0A51),
    (0x0A70, 0x0A71),
    (0x0A81, 0x0A83),  # Gujarati
    (0x0ABC, 0x0ABC),
    (0x0ABE, 0x0ACD),
    (0x0B01, 0x0B03),  # Oriya
    (0x0B3C, 0x0B3C),
    (0x0B3E, 0x0B57),
    (0x0B82, 0x0B82),  # Tamil
    (0x0BBE, 0x0BCD),
    (0x0BD7, 0x0BD7),
    (0x0C00, 0x0C04),  # Telugu
    (0x0C3E, 0x0C56),
    (0x0C81, 0x0C83),  # Kannada
    (0x0CBC, 0x0CBC),
    (0x0CBE, 0x0CD6),
    (0x0D00, 0x0D03),  # Malayalam
    (0x0D3B, 0x0D3C),
    (0x0D3E, 0x0D4D),
    (0x0D57, 0x0D57),
    (0x0DCA, 0x0DDF),  # Sinhala
    (0x0E31, 0x0E31),  # Thai
    (0x0E34, 0x0E3A),
    (0x0E47, 0x0E4E),
    (0x0EB1, 0x0EB1),  # Lao
    (0x0EB4, 0x0EBC),
    (0x0EC8, 0x0ECE),
    (0x0F18, 0x0F19),  # Tibetan
    (0x0F35, 0x0F35),
    (0x0F37, 0x0F37),
    (0x0F39, 0x0F39),
    (0x0F3E, 0x0F3F),
    (0x0F71, 0x0F84),
    (0x0F86, 0x0F87),
    (0x0F8D, 0x0FBC),
    (0x102B, 0x103E),  # Myanmar
    (0x1056, 0x1059),
    (0x1160, 0x11FF),  # Hangul jamo, vowels and finals
    (0x135D, 0x135F),  # Ethiopic
    (0x1712, 0x1715),  # Tagalog
    (0x17B6, 0x17D3),  # Khmer
    (0x180B, 0x180D),  # Mongolian variation selectors
    (0x1AB0, 0x1AFF),  # combining diacritical marks extended
    (0x1DC0, 0x1DFF),  # combining diacritical marks supplement
    (0x200C, 0x200D),  # zero-width non-joiner and joiner
    (0x20D0, 0x20FF),  # marks for symbols
    (0x2DE0, 0x2DFF),  # Cyrillic extended
    (0x302A, 0x302F),  # ideographic tone marks
    (0x3099, 0x309A),  # kana voiced sound marks
    (0xA66F, 0xA672),
    (0xA674, 0xA67D),
    (0xD7B0, 0xD7FF),  # Hangul jamo extended
    (0xFB1E, 0xFB1E),
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFE20, 0xFE2F),  # combining half marks
    (0xFF9E, 0xFF9F),  # half-width kana voiced sound marks
    (0x1F3FB, 0x1F3FF),  # emoji skin tones
    (0xE0020, 0xE007F),  # tags
    (0xE0100, 0xE01EF),  # variation selectors supplement
)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# The escapes are the same in Python's regular expressions and PostgreSQL's.
MARKS = "".join(_escape(a) if a == b else f"{_escape(a)}-{_escape(b)}" for a, b in MARK_RANGES)
ANY_MARK = f"[{MARKS}]"
SEEN = f".[{MARKS}]*"  # one seen character, from wherever the last one ended
BASE = f"[^{MARKS}][{MARKS}]*"  # the same where it can't be the first of the value
SPACES = " \\u00a0\\u3000"
NAME_REST = f"(?<=[^{SPACES}])[^{SPACES}{MARKS}][{MARKS}]*"  # every seen character of a word but its first
NAME_ALONE = f"(?<![^{SPACES}])[^{SPACES}][{MARKS}]*(?![^{SPACES}])"  # a word of one seen character
EMAIL_DOMAIN = "^@(?:[A-Za-z0-9-]+[.])+[A-Za-z][A-Za-z0-9-]*$"  # from the last @ on
SEPARATORS = " ().+-"
MIDDLE_HIDDEN = "[^ ().+-]"
END_HIDDEN = "[^0-9 ().+-]"
YEAR = (
    "^[12][0-9]{3}(?:[-/.][0-9]{1,2}[-/.][0-9]{1,2}(?:[ T].*)?|\\u5e74.*|(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))$"
)
NUMBER = "^ *-?[0-9]{1,15}(?:[.][0-9]{1,30})? *$"
MAX_KEPT = 32  # a bound on keep_* that keeps the server's patterns small
PHONE_LONG, PHONE_SHORT = 11, 8  # digits from which a number shows its first three and last four, and its last four
CARD_SHORTEST = 12  # digits of the shortest card number (ISO/IEC 7812)
ID_SHORTEST = 8


def _python(pattern: str) -> re.Pattern[str]:
    # Python's $ also matches before a last newline; the server's does not.
    anchored = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    return re.compile(anchored, re.DOTALL)


_SEEN = _python(SEEN)
_NAME_REST, _NAME_ALONE = _python(NAME_REST), _python(NAME_ALONE)
_EMAIL_DOMAIN = _python(EMAIL_DOMAIN)
_MIDDLE_HIDDEN, _END_HIDDEN = _python(MIDDLE_HIDDEN), _python(END_HIDDEN)
_YEAR, _NUMBER = _python(YEAR), _python(NUMBER)
_DIGIT = re.compile("[0-9]")


def stars(text: str) -> str:
    """A star for each seen character."""
    return "*" * len(text) if text.isascii() else _SEEN.sub("*", text)


def keep(text: str, head: int, tail: int, least: int = 0) -> str:
    """The first `head` and last `tail` seen characters, stars between; all stars unless more than these are there, and `least`."""
    seen = list(text) if text.isascii() else _SEEN.findall(text)
    count = len(seen)
    if count <= head + tail or count < least:
        return "*" * count
    return "".join(seen[:head]) + "*" * (count - head - tail) + "".join(seen[count - tail :])


def name(text: str) -> str:
    """Each word's first character, stars for the rest; a word of one character is a star."""
    return _NAME_ALONE.sub("*", _NAME_REST.sub("*", text))


def email(text: str) -> str:
    """The first character before the last @, stars, and the domain; all stars for what is no address."""
    at = text.rfind("@")
    if at <= 0 or _EMAIL_DOMAIN.match(text[at:]) is None:
        return stars(text)
    return keep(text[:at], 1, 0) + text[at:]


def digits(text: str, head: int, tail: int) -> str:
    """The first `head` and last `tail` ASCII digits; separators stay; a star for every other code point."""
    places = [m.start() for m in _DIGIT.finditer(text)]
    first = places[head - 1] + 1 if head else 0
    last = places[len(places) - tail] if tail else len(text)
    return (
        _END_HIDDEN.sub("*", text[:first])
        + _MIDDLE_HIDDEN.sub("*", text[first:last])
        + _END_HIDDEN.sub("*", text[last:])
    )


def phone(text: str) -> str:
    """By the number of digits: from 11 the first three and last four, from 8 the last four, else none."""
    count = len(_DIGIT.findall(text))
    if count < PHONE_SHORT:
        return digits(text, 0, 0)
    return digits(text, 3 if count >= PHONE_LONG else 0, 4)


def bank_card(text: str) -> str:
    """The last four digits, if there are twelve at least."""
    return digits(text, 0, 4 if len(_DIGIT.findall(text)) >= CARD_SHORTEST else 0)


def id_number(text: str) -> str:
    """The first and the last character, if there are eight at least."""
    return keep(text, 1, 1, ID_SHORTEST)


def year(text: str) -> str:
    """The year of a date that starts with it; all stars for anything else."""
    return text[:4] if _YEAR.match(text) else stars(text)


def number_range(text: str, width: int, limit: int | None) -> str:
    """'lo-hi' of a written number's whole part; all stars for anything else, or where that is longer than `limit`."""
    if _NUMBER.match(text) is None:
        return stars(text)
    whole, _, fraction = text.strip(" ").partition(".")
    number = int(whole)
    if whole.startswith("-") and fraction.strip("0"):
        number -= 1
    low = number // width * width
    found = f"{low}-{low + width - 1}"
    return stars(text) if limit is not None and len(found) > limit else found
