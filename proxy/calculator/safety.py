"""What the calculator can't run rightly, told from a statement's tokens; the engine's own privileges are the wall behind it."""

from __future__ import annotations

import re
from typing import Final

# White space and comments, then a parenthesis or the first word. Every client encoding is ASCII where it matters here.
_GAP: Final = rb"(?:[ \t\n\r\f\v(]|--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)*"
_QUERY: Final = re.compile(_GAP + rb"(?:SELECT|VALUES|TABLE|WITH)\b", re.IGNORECASE)


def is_query(text: bytes) -> bool:
    """Whether a text begins as a query does. A nested comment in front of it is taken for none: the text is then refused."""
    return _QUERY.match(text) is not None
