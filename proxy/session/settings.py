"""What the session knows of the server's settings, how it comes to doubt it, and the question that settles the doubt.

The server reports some settings by itself (ParameterStatus, PostgreSQL 55.2.7), but only before ReadyForQuery, and search_path not at all
before version 18. So after anything that may have changed them, the texts that follow wait for the next ReadyForQuery or for an answer to PROBE_TEXT.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from keys.types import OutputSettings
from proxy.session.gate import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.gate import Judge

PROBE_TEXT: Final = (
    b"SELECT pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.pg_client_encoding(),"
    b" pg_catalog.array_to_json(pg_catalog.current_schemas(true))::pg_catalog.text, current_user::pg_catalog.text,"
    b" pg_catalog.current_setting('bytea_output'), pg_catalog.current_setting('extra_float_digits'),"
    b" CASE WHEN pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.=) '0' THEN '[]' ELSE"
    b" (SELECT COALESCE(pg_catalog.json_agg(t.relname)::pg_catalog.text, '[]') FROM (SELECT c.relname FROM pg_catalog.pg_class c"
    b" WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 10001) t) END"
)
# Temporary relations of one session, their indexes included. With more its names are not known, and what needs them is refused.
_MOST_TEMPORARY: Final = 10_000

# A completion tag's first word after which the settings may be other ones (SET LOCAL and a rolled back SET end with the transaction).
_CHANGING: Final = frozenset((b"SET", b"RESET", b"DISCARD"))
_ENDING: Final = frozenset((b"COMMIT", b"ROLLBACK", b"PREPARE"))

_MEANING: Final = frozenset((b"search_path", b"session_authorization", b"is_superuser", b"role"))


class SettingsTracker:
    """The settings that texts are judged by, and those that values are shown under.

    `doubt`: even the reported ones may be out of date; no text may be judged before the next quiet ReadyForQuery or a probe.
    """

    __slots__ = ("_reported", "_touched", "doubt", "lost", "output", "read_only", "settings", "standby", "temporary_at")

    def __init__(self) -> None:
        self.settings = Settings()
        self.output = OutputSettings()
        self.doubt = False
        self.lost = False  # temporary relations may have come or gone since the last probe
        self.temporary_at: int | None = (
            None  # the judge's generation at the last probe, if it named temporary relations
        )
        self.standby: bool | None = None  # what the server says of itself, as far as it has
        self.read_only: bool | None = None
        self._touched = False
        self._reported: dict[bytes, bytes] = {}

    @property
    def known(self) -> bool:
        """Whether a probe has answered since the last change."""
        return self.settings.search_path is not None

    def unsettle(self) -> None:
        """A statement that may change settings was sent, or is seen to have run."""
        self._touched = True
        self.doubt = self.lost = True
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

    def completed(self, tag: bytes) -> None:
        """A statement completed with `tag`."""
        word = tag.partition(b" ")[0]
        if word in _CHANGING or (self._touched and word in _ENDING):
            self.unsettle()

    def ready(self, status: bytes, *, quiet: bool) -> None:
        """ReadyForQuery: what the server reports by itself is now up to date, if nothing else is under way (`quiet`)."""
        if status == b"I" and self._touched:
            self._touched = False
            self._forget()
        if quiet:
            self.doubt = False

    def probed(self, row: Sequence[bytes | None], judge: Judge) -> bool:
        """The answer to PROBE_TEXT; False where it is not one."""
        values = [None if v is None else v.decode("utf-8", "replace") for v in row]
        if len(values) != 7 or None in values:
            return False
        strings, encoding, schemas, role, bytea, digits, relations = (str(v) for v in values)
        path, temporary = _names(schemas), _names(relations)
        try:
            places = int(digits)
        except ValueError:
            return False
        if path is None or temporary is None or len(temporary) > _MOST_TEMPORARY:
            return False
        shadowing = judge.protected_names(frozenset(temporary)) if temporary else frozenset()
        self._set(Settings(strings != "off", encoding, path, role, shadowing))
        self.temporary_at = judge.generation if temporary else None
        self.lost = False
        self.output = replace(self.output, client_encoding=encoding, bytea_output=bytea, extra_float_digits=places)
        self.doubt = False
        return True

    def judged_by(self, generation: int) -> None:
        """Other names may be protected in a new generation: which temporary relations matter is known no longer."""
        if self.temporary_at is not None and self.temporary_at != generation:
            self.temporary_at = None
            self.lost = True
            self._forget()

    def _forget(self) -> None:
        self._set(replace(self.settings, search_path=None, database_role=None, temporary=frozenset()))

    def _set(self, settings: Settings) -> None:
        # The same value stays the same object: prepared statements are compared with it by identity first.
        if settings != self.settings:
            self.settings = settings


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
