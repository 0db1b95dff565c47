"""An explanation for people: lines that are never broken, the edited pieces marked where the terminal can show it."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from proxy.explain import PASSES, pieces
from rules.plan import Reason
from rules.problems import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from proxy.explain import Explanation, RefusalShown, Result, Sealing, Statement, TouchedColumn

_EDITED = "bold reverse"
_LONG = 200  # characters of a replacement in a table: that of a catalog is shown whole above
_INDENT = "  "
# Of other reasons a typing error is not likely.
_NOT_UNDERSTOOD = frozenset({Reason.UNPARSED, Reason.LEXER})


def psql_lines(refusal: RefusalShown, text: str) -> list[str]:
    """The error as psql shows it with `\\set VERBOSITY verbose`: message, line and caret, detail, hint."""
    lines = [f"ERROR:  {refusal.sqlstate}: {refusal.message}"]
    if refusal.position is not None:
        lines += _caret(text, refusal.position)
    lines += [f"DETAIL:  {refusal.detail}"] if refusal.detail else []
    lines += [f"HINT:  {refusal.hint}"] if refusal.hint else []
    return lines


def _caret(text: str, position: int) -> list[str]:
    """The line that a 1-based position is in, and a caret under the character; wide characters take two columns."""
    at = position - 1
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : len(text) if end < 0 else end].rstrip("\r").replace("\t", " ")
    label = f"LINE {text.count(chr(10), 0, at) + 1}: "
    blanks = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text[start:at])
    return [label + line, " " * (len(label) + blanks) + "^"]


def show(console: Console, explanation: Explanation) -> None:
    """Print an explanation."""
    for line in _lines(explanation):
        console.print(line, soft_wrap=True, highlight=False)


def _lines(explanation: Explanation) -> Iterator[Text]:
    roles = ", ".join(explanation.roles) or "no role of the rules: the strictest verdicts hold"
    yield _text(f"{explanation.login}: {roles}", "bold")
    why = explanation.unfenced_by
    fence = "kept out by privileges too" if why is None else f"NOT kept out by privileges: {why}"
    yield _text(
        f"class {explanation.policy_class}, database {explanation.database}, rules {explanation.rules_version}, {fence}"
    )
    if explanation.refusal is not None:
        yield from _titled("refused", _refusal(explanation.refusal, explanation.text))
        return
    several = len(explanation.statements) > 1
    for number, statement in enumerate(explanation.statements, start=1):
        title = f"statement {number}: {statement.outcome}" if several else statement.outcome
        yield from _titled(title, _statement(statement))


def _text(text: str, style: str = "") -> Text:
    """One line; what a terminal would take for a command is escaped."""
    return Text(printable(text), style)


def _titled(title: str, lines: Iterable[Text]) -> Iterator[Text]:
    yield Text()
    yield _text(title, "bold")
    yield from _indented(lines)


def _section(title: str, lines: Iterable[Text]) -> Iterator[Text]:
    yield _text(title, "italic")
    yield from _indented(lines)


def _indented(lines: Iterable[Text]) -> Iterator[Text]:
    for line in lines:
        yield Text(_INDENT).append_text(line)


def _table(rows: Iterable[Sequence[str]], marked: int | None = None) -> Iterator[Text]:
    """Rows in aligned columns; the cells of column `marked` are shown as edited."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[i]) for row in shown) for i in range(len(shown[0]))]
    for row in shown:
        line = Text()
        for index, cell in enumerate(row):
            line.append(cell, _EDITED if index == marked else None)
            if index < len(row) - 1:
                line.append(" " * (widths[index] - cell_len(cell) + 2))
        line.rstrip()
        yield line


# -- what is admitted


def _statement(statement: Statement) -> Iterator[Text]:
    yield from (_text(line) for line in statement.text.splitlines())
    if statement.outcome == PASSES:
        how = "with system catalogs as on a plain database" if statement.splices else "byte for byte"
        yield _text(f"touches nothing protected: forwarded {how}, not recorded")
        yield _text("(but an error or notice in which the server could quote protected values to this login)")
        if statement.splices:
            yield from _section("runs", _runs(statement))
        return
    if statement.columns:
        yield from _section("columns", _columns(statement.columns))
    if statement.by_mask:
        yield _text(
            f"a condition meets the masks of {', '.join(statement.by_mask)}: it finds by these only, not by values"
        )
    if statement.fetches:
        limits = "(within the limits of docs/limits.md, else SQLSTATE 54000)"
        yield from _section(f"fetches, then computes on the opened rows {limits}", map(_text, statement.fetches))
        if statement.reads:
            yield from _section("reads, by the server's last count", (_text(r.text) for r in statement.reads))
        if statement.writes:
            yield from _section("writes what was computed", [_text(statement.runs)])
    else:
        yield from _section("runs", _runs(statement))
    if statement.results is not None:
        yield from _section("results", (_text(_result(r)) for r in statement.results))
    parameters = [s for s in statement.sealed if s.number is not None]
    if parameters:
        yield from _section("parameters", (_text(_parameter(s)) for s in parameters))
    if statement.audit is not None:
        released = "it can commit" if statement.writes else "the first row leaves"
        yield from _section(f"audit record, durable before {released}", [_json(statement.audit)])


def _runs(statement: Statement) -> Iterator[Text]:
    if not statement.splices:
        yield _text("the text as it came")
        return
    whole = Text()
    for piece, edited in pieces(statement.text, statement.position, statement.splices):
        whole.append("\n".join(printable(line) for line in piece.splitlines() or [""]), _EDITED if edited else None)
        if piece.endswith("\n"):
            whole.append("\n")
    yield from whole.split("\n")
    yield from _table(
        [(f"at {s.position}:", s.original, "->", _beginning(s.replacement), s.why) for s in statement.splices], marked=3
    )


def _beginning(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _columns(columns: Iterable[TouchedColumn]) -> Iterator[Text]:
    rows = []
    for c in columns:
        use = " and ".join(word for word, so in (("read", c.read), ("written", c.written)) if so)
        mask = f"mask {c.mask}" if c.verdict == "masked" and c.mask else ""
        rows.append((c.column, c.level, c.protection, c.verdict, ", ".join(filter(None, (use, mask)))))
    return _table(rows)


def _result(result: Result) -> str:
    what = "" if result.column is None else f"{'something of ' if result.derived else ''}{result.column}: "
    seen = f" as {result.type}" if result.type else ""
    mask = f", by {result.mask}" if result.mask else ""
    return f"{result.position}. {what}{result.does}{seen}{mask}"


def _parameter(sealed: Sealing) -> str:
    each = "each element " if sealed.array else ""
    use = "compared" if sealed.compared else "stored"
    domain = "" if sealed.domain == sealed.column else f", domain {sealed.domain}"
    return f"${sealed.number}: {each}sealed for {sealed.column} as {sealed.type}, {sealed.mode}{domain}, to be {use}"


# -- what is refused


def _refusal(refusal: RefusalShown, text: str) -> Iterator[Text]:
    yield from (_text(line) for line in psql_lines(refusal, text))
    yield _text(f"reason {refusal.reason}: see {refusal.section}")
    if refusal.server_first and refusal.reason in _NOT_UNDERSTOOD:
        yield _text("(the server is asked first: an error of its own, as for a typing error, would come instead)")
    if refusal.columns:
        yield from _section("protected columns of what it names", _columns(refusal.columns))
    yield from _section("audit record", [_json(refusal.audit)])


def _json(record: object) -> Text:
    return Text(json.dumps(record))
