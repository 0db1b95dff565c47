"""How much work the planning of one text may be, counted in steps and not by a clock, so that the same text always ends alike.

The budget travels with the tokens (`Lexed.budget`): whatever is derived from a client's text is planned on that text's account.
"""

from __future__ import annotations

from typing import Final

STATEMENT_TOO_COMPLEX: Final = "54001"
TOO_MANY_COLUMNS: Final = "54011"
MAX_COLUMNS: Final = 1664  # of a target list, as MaxTupleAttributeNumber in PostgreSQL's htup_details.h
# A step is a token moved over, a node looked at or a column made: 5 to 10 microseconds.
BASE_STEPS: Final = 20_000
STEPS_A_CHARACTER: Final = 4
MOST_STEPS: Final = 500_000
TOO_DEEP: Final = "the statement is too complex: it is nested too deeply"
_SPLIT: Final = "Split the statement, or send its values as parameters or with COPY."


class TooComplexError(Exception):
    """A statement is beyond what is planned. No part of the text is in the message."""

    def __init__(self, message: str, sqlstate: str = STATEMENT_TOO_COMPLEX, hint: str = _SPLIT) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.hint = hint


class Budget:
    """The steps that are left of one planning."""

    __slots__ = ("allowed", "left")

    def __init__(self, steps: int) -> None:
        self.allowed = steps
        self.left = steps

    @classmethod
    def of(cls, characters: int) -> Budget:
        """The budget of a text of so many characters."""
        return cls(min(BASE_STEPS + STEPS_A_CHARACTER * characters, MOST_STEPS))

    @property
    def spent(self) -> int:
        """How many steps were taken."""
        return self.allowed - self.left

    def spend(self, steps: int = 1) -> None:
        """Take some steps. Raises TooComplexError where there are none left."""
        self.left -= steps
        if self.left < 0:
            raise TooComplexError(f"the statement is too complex: it needs more than {self.allowed} steps to plan")


def check_width(columns: int) -> None:
    """Raises TooComplexError for more columns than PostgreSQL allows a target list."""
    if columns > MAX_COLUMNS:
        raise TooComplexError(
            f"target lists can have at most {MAX_COLUMNS} entries",
            TOO_MANY_COLUMNS,
            "Name only the columns that are needed.",
        )
