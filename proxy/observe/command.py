"""`pgveil observe report`: what observe mode has found, of all workers."""

# ruff: noqa: PLC0415 - what a command needs is loaded when it runs, not whenever pgveil prints its help

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from proxy.errors import ConfigError
from rules.problems import json_text

if TYPE_CHECKING:
    from proxy.observe.tally import Book

_DEFAULT: Final = Path("pgveil.yaml")

_Config = Annotated[Path, typer.Option("--config", "-c", help="pgveil's configuration.", metavar="FILE")]
_Directory = Annotated[
    Path | None, typer.Option("--directory", help="The observations, instead of the configured directory.")
]
_All = Annotated[bool, typer.Option("--all", help="Also what was seen under earlier rules only.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


def register(app: typer.Typer) -> None:
    """Add `pgveil observe`."""
    commands = typer.Typer(help="Observe mode: what pgveil would have done.", no_args_is_help=True)
    commands.callback()(_observe)
    commands.command("report")(report)
    app.add_typer(commands, name="observe")


def _observe() -> None:
    """Observe mode: what pgveil would have done (docs/observe.md)."""


def report(config: _Config = _DEFAULT, directory: _Directory = None, all_: _All = False, json_: _Json = False) -> None:
    """Show what would have been refused or changed in observe mode: by statement shape, with counts, messages and hints.

    Exit code 0: nothing would have been refused. 1: something would. 2: bad usage. 3: the observations can't be read.
    """
    from rich.console import Console

    from proxy.observe.findings import Outcome
    from proxy.observe.report import document, show
    from proxy.observe.tally import count_by_outcome

    if directory is None:
        from proxy.config import load_config

        directory = load_config(config).observe.directory
    book, rules, earlier = _read(directory, everything=all_)
    counts = count_by_outcome(book)
    if json_:
        totals = {"rules": rules, "earlier": earlier, "counts": {o.value: n for o, n in counts.items()}}
        typer.echo(json_text(totals | document(book)))
    else:
        told = ", ".join(f"{count} {_WORDS[outcome.value]}" for outcome, count in counts.items())
        typer.echo(f"{sum(counts.values())} statements observed: {told}")
        show(Console(), book)
        if earlier:
            typer.echo(f"{earlier} findings of earlier rules are left out; --all shows them")
    if counts[Outcome.REFUSED]:
        raise typer.Exit(1)


_WORDS: Final = {
    "refused": "would be refused",
    "by_mask": "would find by masks only",
    "computed": "would be computed",
    "changed": "would be changed",
    "recorded": "would be recorded",
    "passes": "touch nothing protected",
}


def _read(directory: Path, *, everything: bool) -> tuple[Book, str | None, int]:
    """What all workers found, the version of the newest rules, and how many findings of earlier ones are left out.

    Raises ConfigError, OSError.
    """
    from keys import durable
    from proxy.observe.tally import MAX_FILE, Book, BookError, decode, merged

    books = []
    for path in sorted(directory.iterdir()):
        if path.suffix != ".json":
            continue
        try:
            books.append(decode(durable.read_regular(path, MAX_FILE)[0]))
        except (BookError, durable.NotRegularError) as error:
            raise ConfigError(f"{path}: {error or 'not a file'}") from error
    whole = merged(books)
    newest = max(whole.kept, key=lambda k: k.seen.last or "", default=None)
    rules = None if newest is None else newest.finding.rules
    if everything:
        return whole, rules, 0
    kept = tuple(k for k in whole.kept if k.finding.rules == rules)
    return Book(whole.format, kept, whole.passed, whole.dropped), rules, len(whole.kept) - len(kept)
