"""The text that runs: a plan's edits and sealed literals spliced into the client's own at the lexer's offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from proxy.session.gate import BadValue, OffsetMap
from proxy.session.settings import PROBE_TEXT
from rules.lexer import Kind, literal_value
from rules.model import Protection
from rules.plan import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rules.lexer import Lexed
    from rules.model import Column
    from rules.plan import Plan, SealLiteral

# From and to in the original text, and what stands there instead.
Splice = tuple[int, int, str]

# invalid_text_representation, invalid_datetime_format, datetime_field_overflow
_POINTED: Final = frozenset({"22P02", "22007", "22008"})


class LiteralSealer(Protocol):
    """What the gate needs of `proxy.session.values.ValueCodec`."""

    @property
    def now(self) -> float:
        """When a ticket would be made, in seconds since 1970."""

    def seal_literal(
        self,
        column: Column,
        text: str,
        *,
        number: bool = False,
        array: bool = False,
        exact: bool = False,
        login: str = "",
    ) -> bytes:
        """A SQL constant, sealed. Raises BadValue."""

    def vouch(self, column: Column, sealed: bytes, login: str) -> bytes:
        """The ticket for what was sealed (ADR 0027). Raises BadValue."""


_STEPS_AN_ELEMENT: Final = 3


def vouched(plans: Iterable[Plan | None], sealer: LiteralSealer) -> float | None:
    """When the tickets in a text with these plans are made; None where it has none."""
    literals = [literal for plan in plans if plan is not None for literal in plan.literals]
    tickets = any(each.given or each.column.protection is Protection.MASKED for each in literals)
    return sealer.now if tickets else None


def edited(
    lexed: Lexed, plans: Iterable[Plan | None], sealer: LiteralSealer, login: str, probes: Iterable[int] = ()
) -> tuple[str, OffsetMap]:
    """The text with what its plans change, and the way back from its positions. Raises BadValue, LexError and TooComplexError.

    `login`: who asks. `probes`: where statements begin before which the settings are asked for.
    """
    splices: list[Splice] = [(at, at, PROBE_TEXT.decode() + "; ") for at in probes]
    for plan in plans:
        if plan is not None:
            lexed.budget.spend(len(plan.edits) // 4 + 2 * len(plan.literals))
            splices += [splice(lexed, e.first, e.last, e.text, behind=e.behind) for e in plan.edits]
            splices += [splice(lexed, s.first, s.last, _sealed(lexed, s, sealer, login)) for s in plan.literals]
    return spliced(lexed.text, sorted(splices))


def _sealed(lexed: Lexed, literal: SealLiteral, sealer: LiteralSealer, login: str) -> str:
    token = lexed.tokens[literal.token]
    if token.kind is Kind.BITSTRING:
        raise BadValue(
            Reason.BAD_VALUE,
            "42804",
            f"a bit string can't be stored in column {literal.column.name}",
            literal.column.name,
        )
    value = ("-" if literal.negative else "") + literal_value(lexed, literal.token)
    if literal.array:
        lexed.budget.spend(_STEPS_AN_ELEMENT * value.count(","))
    try:
        sealed = sealer.seal_literal(
            literal.column,
            value,
            number=token.kind is Kind.NUMBER,
            array=literal.array,
            exact=literal.exact,
            login=login,
        )
        if literal.given:
            sealed = sealer.vouch(literal.column, sealed, login)
    except BadValue as bad:
        # Where the server's own input function would have refused it, its error would point at the constant.
        if bad.sqlstate in _POINTED:
            bad.position = token.start + 1
        raise
    return "'" + sealed.decode("ascii") + "'"


def splice(lexed: Lexed, first: int, last: int, text: str, *, behind: bool = False) -> Splice:
    """Tokens `first..last` replaced by `text`; with `last < first` it goes before `first`, with `behind` after `last`."""
    if behind:
        return lexed.tokens[last].end, lexed.tokens[last].end, text
    start = lexed.tokens[first].start
    return start, (lexed.tokens[last].end if last >= first else start), text


def spliced(text: str, splices: list[Splice]) -> tuple[str, OffsetMap]:
    """The edited text, and the way back from its positions."""
    pieces: list[str] = []
    edits: list[tuple[int, int, int, int]] = []
    at = length = 0
    for start, end, replacement in splices:
        assert start >= at, "edits overlap"
        pieces += (text[at:start], replacement)
        length += start - at
        edits.append((length, len(replacement), start, end - start))
        length += len(replacement)
        at = end
    pieces.append(text[at:])
    return "".join(pieces), OffsetMap(tuple(edits))
