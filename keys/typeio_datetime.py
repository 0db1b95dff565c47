"""date, time, timetz, timestamp, timestamptz (PostgreSQL documentation, section 8.5 and appendix B).

Input in ISO form only: what else the server takes depends on DateStyle, the clock or its tables of abbreviations, and is refused, never
guessed. Canonical form is DateStyle ISO; timestamptz in UTC. Inside, a date is days and a timestamp is microseconds since 2000-01-01.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import date, timezone
from typing import ClassVar

from keys.typeio_base import (
    BLANKS,
    CANONICAL_SETTINGS,
    OutputSettings,
    ScalarCodec,
    UnrepresentableError,
    WireValueError,
    need_length,
)
from keys.typeio_zone import CYCLE, DAY, EPOCH, abbreviation, civil, find_zone, is_utc, to_micros, to_utc, zone_offset

_MIN_DAYS = -2_451_545  # 4714-11-24 BC, Julian day 0
_MAX_DAYS = 2_145_031_948  # 5874897-12-31
_MIN_MICROS = _MIN_DAYS * DAY
_MAX_MICROS = 9_223_371_331_200_000_000  # 294277-01-01, not included
_MAX_ZONE = 16 * 3600  # seconds, not included
_INFINITE = {"infinity": "infinity", "+infinity": "infinity", "-infinity": "-infinity"}

_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<frac>\.\d*)?)?"
_COMPACT_TIME = r"(?P<chour>\d{2})(?P<cminute>\d{2})(?P<csecond>\d{2})(?P<cfrac>\.\d*)?"
_ZONE = r"(?: *(?P<zone>Z|UTC|GMT|[+-]\d{1,2}(?::?\d{2}(?::?\d{2})?)?))?"
_DATE = r"(?:(?P<year>\d{4,7})-(?P<month>\d{1,2})-(?P<day>\d{1,2})|(?P<ymd>\d{8}))"
_FLAGS = re.ASCII | re.IGNORECASE
_STAMP = re.compile(rf"{_DATE}(?:(?:T| +)(?:{_TIME}|{_COMPACT_TIME}){_ZONE})?(?P<era> +(?:BC|AD))?", _FLAGS)
# A day with an offset, as pgjdbc's setDate writes it; the server takes the offset off.
_ZONED_DAY = re.compile(rf"{_DATE}(?P<era> +(?:BC|AD))? +(?P<zone>[+-]\d{{1,2}}(?::\d{{2}}(?::\d{{2}})?)?)", _FLAGS)
_CLOCK = re.compile(
    rf"(?:{_TIME}|(?P<chour>\d{{2}})(?P<cminute>\d{{2}})(?P<csecond>\d{{2}})(?P<cfrac>\.\d*)?){_ZONE}", _FLAGS
)

_WORD = re.compile(
    r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)(?:uary|ruary|ch|il|ust|ember|tember|ober)?"
    r"|(?:sun|mon|tues?|weds?|wednes|thu|thurs?|fri|sat|satur)(?:day)?"
    r"|today|tomorrow|yesterday|now|noon|midnight|allballs|epoch|am|pm|bc|ad|t|z|j|jd|d|y|m|on|at|dst|utc|gmt|zulu|msk|hkt|sgt"
    r"|[aecmphn]k?[sd]t|[cew]es?t|ee[st]{1,2}|[bijk]st|a[ecw][sd]t|nz[sd]t|[a-z_]+(?:/[a-z_]+)+"
)
_CLOCK_WORDS = frozenset({"today", "tomorrow", "yesterday", "now", "noon", "midnight", "allballs", "epoch"})
_TOKEN = re.compile(r"[a-z_]+(?:/[a-z_]+)+|[a-z]+|[0-9]+|[\s]+|.", re.IGNORECASE | re.DOTALL)


def _days(year: int, month: int, day: int) -> int | None:
    """Days since 2000-01-01 of a proleptic Gregorian date (year 0 is 1 BC); None for a day that the calendar lacks."""
    cycle, rest = divmod(year, 400)
    try:
        ordinal = date(rest + 400, month, day).toordinal()
    except ValueError:
        return None
    return ordinal + (cycle - 1) * CYCLE - EPOCH


def _field_range() -> WireValueError:
    return WireValueError("22008", "date/time field value out of range")


def _not_understood(text: str, label: str) -> WireValueError:
    """0AP01 for text that the server might take in its wider grammar, 22007 for what it can't."""
    tokens = _TOKEN.findall(text.lower())
    known = all(_WORD.fullmatch(t) or t.isdigit() or t.isspace() or t in "/.,:+-" for t in tokens if t)
    meant = any(t.isdigit() or t in _CLOCK_WORDS for t in tokens)
    if tokens and known and meant and text.isascii():
        return WireValueError(
            "0AP01", f"protected columns of type {label} take dates and times in ISO form only (2024-12-31 23:59:59+00)"
        )
    return WireValueError("22007", f"invalid input syntax for type {label}")


def _clock(found: re.Match[str]) -> int:
    """Microseconds of the time of day, 24:00:00 allowed; 0 where there is none."""
    groups = found.groupdict()
    prefix = "c" if groups["chour"] is not None else ""
    if groups[prefix + "hour"] is None:
        return 0
    hour, minute, second = (int(groups[prefix + f] or 0) for f in ("hour", "minute", "second"))
    # The server multiplies a double and rounds it to even; so must we, to store the same microsecond.
    micros = round(float("0" + (groups[prefix + "frac"] or ".0") + "0") * 1_000_000)
    total = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros
    if minute > 59 or second > 60 or total > DAY or hour > 24:
        raise _field_range()
    return total


def _zone_seconds(zone: str) -> int:
    """Seconds east of UTC."""
    if zone.upper() in {"Z", "UTC", "GMT"}:
        return 0
    digits = zone[1:].replace(":", "")
    if ":" not in zone and len(digits) % 2:
        digits = "0" + digits
    parts = zone[1:].split(":") if ":" in zone else [digits[i : i + 2] for i in range(0, len(digits), 2)]
    hours, minutes, seconds = (*map(int, parts), 0, 0)[:3]
    if hours > 15 or minutes > 59 or seconds > 59:
        raise WireValueError("22009", "time zone displacement out of range")
    total = (hours * 60 + minutes) * 60 + seconds
    return -total if zone[0] == "-" else total


def _zone_text(east: int) -> str:
    sign = "-" if east < 0 else "+"
    hours, rest = divmod(abs(east), 3600)
    minutes, seconds = divmod(rest, 60)
    tail = f":{minutes:02d}:{seconds:02d}" if seconds else f":{minutes:02d}" if minutes else ""
    return f"{sign}{hours:02d}{tail}"


def _date_days(found: re.Match[str]) -> int:
    """The day number of a matched date, within the calendar."""
    ymd = found["ymd"]
    if ymd is None:
        year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
    else:
        year, month, day = int(ymd[:4]), int(ymd[4:6]), int(ymd[6:])
    if year == 0:
        raise _field_range()
    if (found["era"] or "").strip().upper() == "BC":
        year = 1 - year
    days = _days(year, month, day)
    if days is None:
        raise _field_range()
    return days


def _date_fields(days: int) -> tuple[str, str, str, str]:
    """Year (four digits at least), month, day and the era's suffix, as printed."""
    year, month, day = civil(days)
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}", f"{month:02d}", f"{day:02d}", era


def _time_text(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    tail = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{hour:02d}:{minute:02d}:{second:02d}{tail}"


def _round_micros(value: int, precision: int | None, *, exact: bool) -> int:
    """To `precision` digits of a second, half away from the epoch."""
    if precision is None or precision == 6:
        return value
    step = int(10 ** (6 - precision))
    size = (abs(value) + step // 2) // step * step
    rounded = -size if value < 0 else size
    if exact and rounded != value:
        raise UnrepresentableError("22008", "timestamp has more digits of a second than the column")
    return rounded


def _style(settings: OutputSettings) -> tuple[str, bool]:
    """DateStyle's output style in capitals, and whether the day goes before the month."""
    style, _, order = settings.date_style.upper().partition(",")
    style = style.strip()
    if style not in {"ISO", "SQL", "POSTGRES", "GERMAN"}:
        raise WireValueError("0AP01", f"DateStyle {settings.date_style} is not known")
    return style, order.strip() == "DMY"


def _styled_date(days: int, settings: OutputSettings) -> tuple[str, str]:
    """The date under DateStyle, and the era's suffix."""
    year, month, day, era = _date_fields(days)
    style, day_first = _style(settings)
    if style == "ISO":
        return f"{year}-{month}-{day}", era
    if style == "GERMAN":
        return f"{day}.{month}.{year}", era
    mark = "/" if style == "SQL" else "-"
    return mark.join((day, month, year) if day_first else (month, day, year)), era


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _styled_stamp(micros: int, settings: OutputSettings, zone: str) -> str:
    """A local timestamp under DateStyle; `zone` is what follows the time."""
    days, rest = divmod(micros, DAY)
    style, day_first = _style(settings)
    if style != "POSTGRES":
        text, era = _styled_date(days, settings)
        return f"{text} {_time_text(rest)}{zone}{era}"
    year, month, day, era = _date_fields(days)
    name = _MONTHS[int(month) - 1]
    # 2000-01-01 was a Saturday.
    return f"{DAYS[(days + 5) % 7]} {f'{day} {name}' if day_first else f'{name} {day}'} {_time_text(rest)} {year}{zone}{era}"


class DateCodec(ScalarCodec):
    """date."""

    label = "date"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """An ISO date; a time of day and an offset after it are checked and dropped, as on the server."""
        del settings, exact
        word = text.strip(BLANKS)
        if word.lower() in _INFINITE:
            return _INFINITE[word.lower()].encode()
        found = _STAMP.fullmatch(word)
        if found is not None:
            _clock(found)
        else:
            found = _ZONED_DAY.fullmatch(word)
            if found is None:
                raise _not_understood(word, self.label)
        if found["zone"] is not None:
            _zone_seconds(found["zone"])
        return self.canonical(_date_days(found))

    def canonical(self, days: int) -> bytes:
        """Canonical bytes of a day number."""
        if not _MIN_DAYS <= days <= _MAX_DAYS:
            raise WireValueError("22008", "date out of range")
        text, era = _styled_date(days, CANONICAL_SETTINGS)
        return (text + era).encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Days since 2000-01-01, four bytes; the extremes are the infinities."""
        del exact
        need_length(data, 4)
        days = int.from_bytes(data, "big", signed=True)
        infinite = {0x7FFFFFFF: b"infinity", -0x80000000: b"-infinity"}.get(days)
        return infinite or self.canonical(days)

    def dump(self, canonical: bytes) -> bytes:
        """Days since 2000-01-01, four bytes."""
        if canonical.endswith(b"infinity"):
            return b"\x80\x00\x00\x00" if canonical[:1] == b"-" else b"\x7f\xff\xff\xff"
        return struct.pack("!i", date_days(canonical))

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """By DateStyle."""
        if self.shows_canonical(settings) or canonical.endswith(b"infinity"):
            return canonical
        return "".join(_styled_date(date_days(canonical), settings)).encode()

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Canonical form is DateStyle ISO."""
        return _style(settings)[0] == "ISO"


def date_days(canonical: bytes) -> int:
    """The day number of a canonical finite date."""
    found = _STAMP.fullmatch(canonical.decode())
    assert found is not None
    return _date_days(found)


@dataclass(frozen=True, slots=True)
class TimeCodec(ScalarCodec):
    """time without time zone."""

    precision: int | None = None
    label: ClassVar[str] = "time"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """hh:mm, hh:mm:ss or hhmmss, with a fraction; an offset is checked and dropped, as on the server."""
        del settings
        found = _CLOCK.fullmatch(text.strip(BLANKS))
        if found is None:
            raise _not_understood(text.strip(BLANKS), self.label)
        if found["zone"] is not None:
            _zone_seconds(found["zone"])
        return self.canonical(_clock(found), exact=exact)

    def canonical(self, micros: int, *, exact: bool) -> bytes:
        """Canonical bytes of microseconds since midnight."""
        if not 0 <= micros <= DAY:
            raise WireValueError("22008", "time out of range")
        return _time_text(_round_micros(micros, self.precision, exact=exact)).encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Microseconds since midnight, eight bytes."""
        need_length(data, 8)
        return self.canonical(int.from_bytes(data, "big", signed=True), exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """Microseconds since midnight, eight bytes."""
        found = _CLOCK.fullmatch(canonical.decode())
        assert found is not None
        return struct.pack("!q", _clock(found))


@dataclass(frozen=True, slots=True)
class TimeTzCodec(ScalarCodec):
    """time with time zone. Printed in ISO form under every DateStyle."""

    precision: int | None = None
    label: ClassVar[str] = "time with time zone"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """A time with its offset; without one the session's zone holds where its offset is the same all year."""
        found = _CLOCK.fullmatch(text.strip(BLANKS))
        if found is None:
            raise _not_understood(text.strip(BLANKS), self.label)
        if found["zone"] is not None:
            east = _zone_seconds(found["zone"])
        else:
            zone = None if settings is None else find_zone(settings.timezone)
            if not isinstance(zone, timezone):
                raise WireValueError(
                    "0AP01", f"protected columns of type {self.label} need the offset written (12:00:00+08)"
                )
            east = to_micros(zone.utcoffset(None)) // 1_000_000
        return self.canonical(_clock(found), east, exact=exact)

    def canonical(self, micros: int, east: int, *, exact: bool) -> bytes:
        """Canonical bytes of microseconds since midnight and an offset in seconds."""
        if not 0 <= micros <= DAY:
            raise WireValueError("22008", "time out of range")
        if abs(east) >= _MAX_ZONE:
            raise WireValueError("22009", "time zone displacement out of range")
        return (_time_text(_round_micros(micros, self.precision, exact=exact)) + _zone_text(east)).encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Microseconds since midnight, eight bytes; seconds west of UTC, four bytes."""
        need_length(data, 12)
        micros, west = struct.unpack("!qi", data)
        return self.canonical(micros, -west, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """Microseconds since midnight, eight bytes; seconds west of UTC, four bytes."""
        found = _CLOCK.fullmatch(canonical.decode())
        assert found is not None
        return struct.pack("!qi", _clock(found), -_zone_seconds(found["zone"]))


@dataclass(frozen=True, slots=True)
class TimestampCodec(ScalarCodec):
    """timestamp without (`tz` false) or with time zone; the latter canonical in UTC, with +00."""

    tz: bool
    precision: int | None = None

    @property
    def name(self) -> str:
        """The type's name in error messages."""
        return "timestamp with time zone" if self.tz else "timestamp"

    def parse(self, text: str, settings: OutputSettings | None, *, exact: bool) -> bytes:
        """An ISO timestamp; an offset counts with time zone and is dropped without. None in the text: the session's zone."""
        word = text.strip(BLANKS)
        if word.lower() in _INFINITE:
            return _INFINITE[word.lower()].encode()
        found = _STAMP.fullmatch(word)
        if found is None:
            raise _not_understood(word, self.name)
        micros = self._in_range(_date_days(found) * DAY + _clock(found))
        if found["zone"] is not None:
            east = _zone_seconds(found["zone"])
            micros -= east * 1_000_000 if self.tz else 0
        elif self.tz:
            micros = to_utc(micros, settings)
        return self.canonical(micros, exact=exact)

    def _in_range(self, micros: int) -> int:
        # A day's margin: an offset may bring a local time back into range.
        if not _MIN_MICROS - DAY <= micros < _MAX_MICROS + DAY:
            raise WireValueError("22008", "timestamp out of range")
        return micros

    def canonical(self, micros: int, *, exact: bool) -> bytes:
        """Canonical bytes of microseconds since 2000-01-01."""
        # The server judges the range before it rounds.
        if not _MIN_MICROS <= micros < _MAX_MICROS:
            raise WireValueError("22008", "timestamp out of range")
        rounded = _round_micros(micros, self.precision, exact=exact)
        return _styled_stamp(rounded, CANONICAL_SETTINGS, "+00" if self.tz else "").encode()

    def load(self, data: bytes, *, exact: bool) -> bytes:
        """Microseconds since 2000-01-01, eight bytes; the extremes are the infinities."""
        need_length(data, 8)
        micros = int.from_bytes(data, "big", signed=True)
        infinite = {(1 << 63) - 1: b"infinity", -(1 << 63): b"-infinity"}.get(micros)
        return infinite or self.canonical(micros, exact=exact)

    def dump(self, canonical: bytes) -> bytes:
        """Microseconds since 2000-01-01, eight bytes."""
        if canonical.endswith(b"infinity"):
            return struct.pack("!q", -(1 << 63) if canonical[:1] == b"-" else (1 << 63) - 1)
        return struct.pack("!q", stamp_micros(canonical))

    def show(self, canonical: bytes, settings: OutputSettings) -> bytes:
        """By DateStyle and, with time zone, TimeZone."""
        if self.shows_canonical(settings) or canonical.endswith(b"infinity"):
            return canonical
        micros = stamp_micros(canonical)
        if not self.tz:
            return _styled_stamp(micros, settings, "").encode()
        zone = find_zone(settings.timezone)
        offset = zone_offset(zone, micros)
        suffix = _zone_text(to_micros(offset) // 1_000_000)
        if _style(settings)[0] != "ISO":
            suffix = " " + abbreviation(zone, micros, settings)
        return _styled_stamp(micros + to_micros(offset), settings, suffix).encode()

    def shows_canonical(self, settings: OutputSettings) -> bool:
        """Canonical form is DateStyle ISO in UTC."""
        iso = _style(settings)[0] == "ISO"
        return iso and (not self.tz or is_utc(settings.timezone))


def stamp_micros(canonical: bytes) -> int:
    """The microseconds of a canonical finite timestamp (with time zone: of its UTC form) or date."""
    found = _STAMP.fullmatch(canonical.decode())
    assert found is not None
    return _date_days(found) * DAY + _clock(found)


def year_start(codec: DateCodec | TimestampCodec, canonical: bytes) -> bytes:
    """The first instant of the value's year (with time zone: in UTC); -infinity where the calendar starts later. Infinities stay."""
    if canonical.endswith(b"infinity"):
        return canonical
    days = stamp_micros(canonical) // DAY
    first = _days(civil(days)[0], 1, 1)
    assert first is not None
    if first < _MIN_DAYS:
        return b"-infinity"
    return codec.canonical(first) if isinstance(codec, DateCodec) else codec.canonical(first * DAY, exact=False)
