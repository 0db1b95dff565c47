"""The check at the end of a sealed value, as SQL: what the domain recomputes, and what brings values of the old form into the present one.

Built-in functions alone: a dump restores wherever PostgreSQL runs, whatever is restored first, and a writer needs no privilege on anything.
SHA-256 is in every build since 11, FIPS ones too. Source: PostgreSQL documentation, 9.5 "Binary String Functions" and "CREATE DOMAIN".
"""

from __future__ import annotations

from typing import Final

from keys.sealed import CHECK_CHARACTERS

_SIZE: Final = 1 + CHECK_CHARACTERS


def _check(data: str) -> str:
    digest = f"pg_catalog.encode(pg_catalog.sha256({data}), 'base64')"
    return f"'-' OPERATOR(pg_catalog.||) pg_catalog.\"left\"({digest}, {CHECK_CHARACTERS})"


def _bytes(text: str) -> str:
    return f"pg_catalog.convert_to({text}, 'UTF8')"


def holds(value: str) -> str:
    """A condition on an expression of type text: it is what `keys.sealed.seal` gave, and nothing has rewritten it. NULL gives NULL.

    It cuts bytes, not characters, which the server would have to count.
    """
    size = f"GREATEST(pg_catalog.octet_length({value}) OPERATOR(pg_catalog.-) {_SIZE}, 0)"
    body = f"pg_catalog.substr({_bytes(value)}, 1, {size})"
    end = f"pg_catalog.substr({_bytes(value)}, {size} OPERATOR(pg_catalog.+) 1)"
    return (
        f"(pg_catalog.starts_with({value}, '~') OR pg_catalog.starts_with({value}, '^'))"
        f" AND {end} OPERATOR(pg_catalog.=) {_bytes(_check(body))}"
    )


def checked(value: str) -> str:
    """An expression of type text: a value of the old form with its check, as `keys.sealed.checked` makes it."""
    return f"({value} OPERATOR(pg_catalog.||) {_check(_bytes(value))})"
