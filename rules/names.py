"""Names in a rules file, written as in SQL: folded to lower case unless quoted, parts joined by dots.

Source: PostgreSQL, "Identifiers and Key Words". Only ASCII letters fold, as in every multi-byte server encoding.
"""

from __future__ import annotations

import re
import string

from rules.model import ColumnName, TableName

# NAMEDATALEN - 1. PostgreSQL cuts longer names silently; here they are refused, so that two names cannot become one.
MAX_NAME_BYTES = 63

PLAIN_PART = r"(?:[A-Za-z_]|[^\x00-\x7f])(?:[A-Za-z0-9_$]|[^\x00-\x7f])*"
QUOTED_PART = r'"(?:[^"]|"")+"'
_PART = re.compile(f"({PLAIN_PART})|({QUOTED_PART})")
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class NameFormError(ValueError):
    """Not a name as SQL writes it. `fix` says what to write."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def split_name(text: str) -> tuple[str, ...]:
    """The canonical parts of a name. Raises NameFormError."""
    parts: list[str] = []
    at = 0
    while True:
        found = _PART.match(text, at)
        if found is None:
            raise NameFormError(f"{text[:80]!r} is not a name as SQL writes it", _quoting_fix(text))
        plain, quoted = found.groups()
        parts.append(_checked(plain.translate(_FOLD) if plain is not None else quoted[1:-1].replace('""', '"')))
        at = found.end()
        if at == len(text):
            return tuple(parts)
        if text[at] != ".":
            raise NameFormError(f"{text[:80]!r} is not a name as SQL writes it", _quoting_fix(text))
        at += 1


def single_name(text: str) -> str:
    """A name of one part (a column or a login). Raises NameFormError."""
    parts = split_name(text)
    if len(parts) != 1:
        raise NameFormError(
            f"{text[:80]!r} has {len(parts)} parts; one is wanted", f"quote a name that holds a dot: '\"{text[:80]}\"'"
        )
    return parts[0]


def table_name(text: str) -> TableName:
    """A table's name with its schema. Raises NameFormError."""
    parts = split_name(text)
    if len(parts) != 2:
        raise NameFormError(
            f"{text[:80]!r} is not a table with its schema", f"write schema.table, e.g. public.{show_name(parts[-1])}"
        )
    return TableName(*parts)


def column_name(text: str) -> ColumnName:
    """A column's name with its table and schema. Raises NameFormError."""
    parts = split_name(text)
    if len(parts) != 3:
        raise NameFormError(
            f"{text[:80]!r} is not a column with its table and schema",
            f"write schema.table.column, e.g. public.customers.{show_name(parts[-1])}",
        )
    return ColumnName(*parts)


def show_name(*parts: str) -> str:
    """A name as it has to be written in a rules file: quoted only where that is needed."""
    return ".".join(
        p if re.fullmatch(PLAIN_PART, p) and p == p.translate(_FOLD) else '"' + p.replace('"', '""') + '"'
        for p in parts
    )


def _checked(part: str) -> str:
    if "\x00" in part:
        raise NameFormError("a name cannot hold the character NUL", "take it out")
    if not part.isprintable() and any(ord(c) < 0x20 for c in part):
        raise NameFormError(f"the name {part[:80]!r} holds a control character", "take it out")
    size = len(part.encode())
    if size > MAX_NAME_BYTES:
        raise NameFormError(
            f"the name {part[:80]!r} has {size} bytes; PostgreSQL keeps {MAX_NAME_BYTES}",
            "write it as the database has it",
        )
    return part


def _quoting_fix(text: str) -> str:
    parts = [p.strip() for p in text[:80].replace('"', "").split(".")]
    shown = show_name(*parts) if all(parts) else '"..."'
    return f"names are written as in SQL, with spaces and signs in double quotes: '{shown}'"
