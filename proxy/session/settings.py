"""What the session knows of the server's settings, how it comes to doubt it, and the question that settles the doubt.

The server reports some settings by itself (ParameterStatus, PostgreSQL 55.2.7), but only before ReadyForQuery, and others, as bytea_output, not at all. So after anything that may have changed them, the texts that follow wait for the next ReadyForQuery or for an answer to PROBE_TEXT.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from keys.types import OutputSettings
from proxy.session.gate import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.gate import Judge

# How values look where only the calculator makes them.
OTHER_FORMS: Final = (b"lc_monetary", b"lc_numeric", b"lc_time", b"xmlbinary", b"xmloption", b"timezone_abbreviations")
# With other values than these, constants and comparisons mean something else than pgveil reads in them.
UNREADABLE: Final = MappingProxyType({b"array_nulls": "on", b"transform_null_equals": "off"})
PROBE_TEXT: Final = (
    b"SELECT pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.pg_client_encoding(),"
    b" pg_catalog.array_to_json(pg_catalog.current_schemas(true))::pg_catalog.text, current_user::pg_catalog.text,"
    b" pg_catalog.current_setting('bytea_output'), pg_catalog.current_setting('extra_float_digits'),"
    b" CASE WHEN pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.=) '0' THEN '[]' ELSE"
    b" (SELECT COALESCE(pg_catalog.json_agg(CASE WHEN t.relkind OPERATOR(pg_catalog.=) 'v' THEN pg_catalog.json_build_array(t.relname)"
    b" ELSE pg_catalog.to_json(t.relname) END)::pg_catalog.text, '[]') FROM (SELECT c.relname, c.relkind FROM pg_catalog.pg_class c"
    b" WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 10001) t) END,"
    b" pg_catalog.current_setting('DateStyle'), pg_catalog.current_setting('TimeZone'), pg_catalog.current_setting('IntervalStyle'),"
    b" pg_catalog.json_build_array("
    + b", ".join(b"pg_catalog.current_setting('%s')" % name for name in (*OTHER_FORMS, *UNREADABLE))
    + b")::pg_catalog.text"
)
# Temporary relations of one session, their indexes included. With more its names are not known, and what needs them is refused.
_MOST_TEMPORARY: Final = 10_000
_COLUMNS: Final = 11

_MEANING: Final = frozenset((b"search_path", b"session_authorization", b"is_superuser", b"role"))


class SettingsTracker:
    """The settings that texts are judged by, and those that values are shown under.

    `doubt`: even the reported ones may be out of date; no text may be judged before the next quiet ReadyForQuery or a probe.
    `touched`: they may have been changed in this transaction, whose end, or a part of it that is undone, may change them again; `meaning_touched`:
    what texts mean may be other than before it.
    `unreadable`: the name of a setting under which pgveil does not read texts.
    """

    __slots__ = (
        "_reported",
        "doubt",
        "lost",
        "meaning_touched",
        "output",
        "read_only",
        "settings",
        "shadows",
        "standby",
        "temporary_at",
        "touched",
        "unreadable",
    )

    def __init__(self) -> None:
        self.settings = Settings()
        self.output = OutputSettings()
        self.doubt = False
        self.lost = False  # temporary relations may have come or gone since the last probe
        self.shadows: frozenset[str] = frozenset()  # names of catalogs that such may bear now
        self.temporary_at: int | None = (
            None  # the judge's generation at the last probe, if it named temporary relations
        )
        self.standby: bool | None = None  # what the server says of itself, as far as it has
        self.read_only: bool | None = None
        self.touched = self.meaning_touched = False
        self.unreadable: str | None = None
        self._reported: dict[bytes, bytes] = {}

    @property
    def known(self) -> bool:
        """Whether a probe has answered since the last change."""
        return self.settings.search_path is not None

    def unsettle(self, *, views: bool = True) -> None:
        """A statement that may change settings was sent, or is seen to have run. `views`: and may have made temporary views."""
        self.touched = True
        self.doubt = self.lost = True
        if views:
            self._set(replace(self.settings, views=None))
        self._forget()

    def parameter(self, name: bytes, value: bytes) -> None:
        """The server reports a setting."""
        text = value.decode("utf-8", "replace")
        if name == b"standard_conforming_strings":
            self._set(replace(self.settings, standard_conforming_strings=text != "off"))
        elif name == b"client_encoding":
            self._set(replace(self.settings, client_encoding=text))
            self.output = replace(self.output, client_encoding=text)
        elif name == b"DateStyle":
            self.output = replace(self.output, date_style=text)
        elif name == b"TimeZone":
            self.output = replace(self.output, timezone=text)
        elif name == b"IntervalStyle":
            self.output = replace(self.output, interval_style=text)
        elif name == b"in_hot_standby":
            self.standby = text == "on"
        elif name == b"default_transaction_read_only":
            self.read_only = text == "on"
        elif name in _MEANING:
            if self._reported.get(name) != value:
                self._forget()
            self._reported[name] = value

    def ready(self, status: bytes, *, quiet: bool) -> None:
        """ReadyForQuery: what the server reports by itself is now up to date, if nothing else is under way (`quiet`)."""
        if status == b"I" and self.touched:
            self.touched = self.meaning_touched = False
            self._forget()
        if quiet:
            self.doubt = False

    def probed(self, row: Sequence[bytes | None], judge: Judge) -> bool:
        """The answer to PROBE_TEXT; False where it is not one."""
        answer = _answer(row)
        if answer is None:
            return False
        temporary = answer.temporary
        shadowing = judge.protected_names(frozenset(temporary)) if temporary else frozenset()
        self._set(replace(answer.settings, temporary=shadowing, views=answer.views))
        self.temporary_at = judge.generation if temporary else None
        self.lost = False
        self.shadows = frozenset()
        self.output = answer.output
        self.unreadable = answer.unreadable
        self.doubt = False
        return True

    def forms_probed(self, row: Sequence[bytes | None]) -> bool:
        """The answer to PROBE_TEXT in the middle of a text: values are shown so from here on, and what follows may change it; False where it is not one."""
        answer = _answer(row)
        if answer is None:
            return False
        self.output = answer.output
        return True

    def judged_by(self, generation: int) -> None:
        """Other names may be protected in a new generation: which temporary relations matter is known no longer."""
        if self.temporary_at is not None and self.temporary_at != generation:
            self.temporary_at = None
            self.lost = True
            self._forget()

    def _forget(self) -> None:
        self._set(replace(self.settings, search_path=None, database_role=None, temporary=self.shadows))

    def _set(self, settings: Settings) -> None:
        # The same value stays the same object: prepared statements are compared with it by identity first.
        if settings != self.settings:
            self.settings = settings


class _Answer(NamedTuple):
    """What PROBE_TEXT was answered. `temporary`: all of the session's temporary relations, `views` those of them that are views."""

    settings: Settings
    output: OutputSettings
    temporary: tuple[str, ...]
    views: frozenset[str]
    unreadable: str | None


def _answer(row: Sequence[bytes | None]) -> _Answer | None:
    values = [None if v is None else v.decode("utf-8", "replace") for v in row]
    if len(values) != _COLUMNS or None in values:
        return None
    strings, encoding, schemas, role, bytea, digits, relations, dates, zone, intervals, more = (str(v) for v in values)
    path, found, others = _names(schemas), _relations(relations), _names(more)
    if path is None or found is None or len(found[0]) > _MOST_TEMPORARY:
        return None
    if others is None or len(others) != len(OTHER_FORMS) + len(UNREADABLE):
        return None
    try:
        places = int(digits)
    except ValueError:
        return None
    forms = tuple(zip((name.decode() for name in OTHER_FORMS), others, strict=False))
    read = zip(UNREADABLE.items(), others[len(OTHER_FORMS) :], strict=True)
    unreadable = next((name.decode() for (name, wanted), value in read if value != wanted), None)
    return _Answer(
        Settings(strings != "off", encoding, path, role),
        OutputSettings(dates, zone, bytea, places, intervals, encoding, forms),
        *found,
        unreadable,
    )


def _relations(text: str) -> tuple[tuple[str, ...], frozenset[str]] | None:
    """Names of relations, and those of them that are views, each in a list of its own; None where it is nothing like that."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    names, views = [], set()
    for entry in entries:
        name = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        if not isinstance(name, str):
            return None
        names.append(name)
        if name is not entry:
            views.add(name)
    return tuple(names), frozenset(views)


def _names(text: str) -> tuple[str, ...] | None:
    """A JSON array of strings; None where it is not one."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return None
    return tuple(names)


class Probe:
    """One question on its way. `left`: answers still to come; `finished` when they are there or will not come; `row`: what was answered.

    `error`: the server's ErrorResponse instead, and its SQLSTATE.
    """

    __slots__ = ("error", "finished", "left", "row")

    def __init__(self, answers: int) -> None:
        self.row: tuple[bytes | None, ...] | None = None
        self.error: tuple[bytes, str] | None = None
        self.left = answers
        self.finished = False

    def answered(self) -> None:
        """One more answer."""
        self.left -= 1
        self.finished = self.left <= 0

    def drop(self) -> None:
        """The server ignores the question."""
        self.finished = True
