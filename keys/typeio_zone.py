"""Time zones: what a TimeZone setting names, and what its offset is at an instant or a local time.

A timestamp here is microseconds since 2000-01-01, a date days since then. The rules are the tz database's, by `zoneinfo`; years beyond
what it knows are refused.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from keys.typeio_base import OutputSettings, WireValueError

DAY = 86_400_000_000  # microseconds
EPOCH = date(2000, 1, 1).toordinal()
CYCLE = 146_097  # days in 400 years


def civil(days: int) -> tuple[int, int, int]:
    """Year (0 is 1 BC), month and day of a day number."""
    cycle, rest = divmod(days + EPOCH - 1, CYCLE)
    found = date.fromordinal(rest + 1)
    return found.year + 400 * cycle, found.month, found.day


_POSIX_ZONE = re.compile(r"(?:<[+-]?[\w:]+>|[A-Za-z]{3,})([+-]?)(\d{1,2})(?::(\d{2})(?::(\d{2}))?)?", re.ASCII)
_UTC_NAMES = frozenset({"UTC", "GMT", "Z", "ZULU", "UCT", "UNIVERSAL"})


def is_utc(name: str) -> bool:
    """Whether a TimeZone setting is UTC by one of its names."""
    return name.upper().removeprefix("ETC/") in _UTC_NAMES


def find_zone(name: str) -> tzinfo:
    """The zone that a TimeZone setting names: UTC, a fixed offset as SET TIME ZONE makes it, or a name of the tz database.

    Raises WireValueError 0AP01 for another.
    """
    if is_utc(name):
        return UTC
    posix = _POSIX_ZONE.fullmatch(name)
    if posix is not None and int(posix[2]) < 24:
        sign, hours, minutes, seconds = posix.groups(default="0")
        west = timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds))
        return timezone(west if sign == "-" else -west)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise WireValueError(
        "0AP01", "protected timestamps can't be shown in this TimeZone setting; use a name of the tz database"
    )


def zone_offset(zone: tzinfo, micros: int) -> timedelta:
    """A zone's offset from UTC at a UTC instant. 0AP01 outside the years that the tz library knows."""
    if isinstance(zone, timezone):
        return zone.utcoffset(None)
    days, rest = divmod(micros, DAY)
    year = civil(days)[0]
    if not 2 <= year <= 9998:
        raise WireValueError(
            "0AP01", "protected timestamps outside the years 2 to 9998 can be shown in UTC or a fixed offset only"
        )
    moment = datetime.fromordinal(days + EPOCH).replace(tzinfo=UTC) + timedelta(microseconds=rest)
    found = moment.astimezone(zone).utcoffset()
    assert found is not None
    return found


def _local_offset(zone: tzinfo, micros: int) -> timedelta:
    """A zone's offset at a local time. In a gap the offset before it holds, in an overlap the one after it, as on the server."""
    if isinstance(zone, timezone):
        return zone.utcoffset(None)
    days, rest = divmod(micros, DAY)
    if not 2 <= civil(days)[0] <= 9998:
        raise WireValueError("0AP01", "protected timestamps outside the years 2 to 9998 need their offset written")
    local = datetime.fromordinal(days + EPOCH) + timedelta(microseconds=rest)
    both = [local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    return min(o for o in both if o is not None)


def to_micros(delta: timedelta) -> int:
    """An offset in microseconds."""
    return round(delta / timedelta(microseconds=1))


def abbreviation(zone: tzinfo, micros: int, settings: OutputSettings) -> str:
    """What the server prints after the time where DateStyle is not ISO: the zone's abbreviation at that instant."""
    if zone is UTC:
        return "GMT" if settings.timezone.upper().endswith("GMT") else "UTC"
    if isinstance(zone, timezone):
        raise WireValueError("0AP01", "protected timestamps in a fixed-offset TimeZone need DateStyle ISO")
    days, rest = divmod(micros, DAY)
    moment = datetime.fromordinal(days + EPOCH).replace(tzinfo=UTC) + timedelta(microseconds=rest)
    return moment.astimezone(zone).tzname() or ""


def to_utc(micros: int, settings: OutputSettings | None) -> int:
    """A local timestamp of the session's zone in UTC. 0AP01 where the zone is not known."""
    if settings is None:
        raise WireValueError(
            "0AP01", "protected columns of type timestamp with time zone need the offset written (+00)"
        )
    return micros - to_micros(_local_offset(find_zone(settings.timezone), micros))


def from_utc(micros: int, settings: OutputSettings | None) -> int:
    """A UTC instant as a local timestamp of the session's zone. 0AP01 where the zone is not known."""
    if settings is None:
        raise WireValueError(
            "0AP01", "the session's TimeZone is needed to make a timestamp of a timestamp with time zone"
        )
    return micros + to_micros(zone_offset(find_zone(settings.timezone), micros))
