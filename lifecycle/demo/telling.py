"""How the story is printed: chapters, sentences, statements with what each person saw, and claims, which are checked before they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from lifecycle.demo.people import ANALYST, APP, AUDIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, RenderableType

    from lifecycle.demo.disk import OnDisk
    from lifecycle.demo.people import Answer, Person, Refused
    from lifecycle.demo.stage import Stage

# Narrow enough for a terminal of 80 columns, wide enough for four people side by side.
WIDTH: Final = 96


class ClaimError(Exception):
    """Something that the story says did not come out so. The text is the claim, never a value."""


class Teller:
    """Prints the story and counts its claims."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._chapters = 0
        self.claims = 0

    def title(self, text: str, *sentences: str) -> None:
        """The story's name and what it is about."""
        self._console.rule(Text(text, style="bold"), characters="=")
        self.say(*sentences)

    def chapter(self, name: str) -> None:
        """The next chapter's heading."""
        self._chapters += 1
        self._console.print()
        self._console.rule(Text(f"{self._chapters}. {name}", style="bold cyan"), align="left")

    def say(self, *sentences: str) -> None:
        """A paragraph."""
        self._console.print()
        self._console.print(Text(" ".join(sentences)))

    def claim(self, holds: bool, sentence: str) -> None:
        """Tell it if it holds. Raises ClaimError if not."""
        if not holds:
            raise ClaimError(sentence)
        self.claims += 1
        line = Table.grid(padding=(0, 1))
        line.add_row(Text("  ✓", style="bold green"), Text(sentence))
        self._console.print(line)

    def check(self, holds: bool, what: str) -> None:
        """A claim that goes without saying in the story. Raises ClaimError."""
        if not holds:
            raise ClaimError(what)
        self.claims += 1

    def code(self, text: str, language: str = "sql") -> None:
        """A piece of SQL, YAML and so on."""
        self._console.print()
        shown = Syntax("", language, theme="ansi_dark", background_color="default").highlight(text.strip("\n"))
        shown.rstrip()
        shown.no_wrap = False
        self._indented(shown)

    def command(self, line: str, output: str, *, code: int, lines: int = 40) -> None:
        """A command that was run, the beginning of what it printed, and its exit code."""
        self._console.print()
        self._indented(Text(f"$ {line}", style="bold"))
        told = output.rstrip().splitlines()
        for each in told[:lines]:
            self._indented(Text(each.rstrip()))
        if len(told) > lines:
            self._indented(Text(f"... ({len(told) - lines} more lines)", style="dim"))
        self._indented(Text(f"exit code {code}", style="dim" if code == 0 else "bold red"))

    def grep(self, value: str, found: OnDisk) -> None:
        """How often a value is in a table's file, as one would ask at a terminal."""
        self._console.print()
        self._indented(Text(f"$ grep -ao {value} {found.path} | wc -l", style="bold"))
        self._indented(Text(str(found.in_table)))

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """A small table."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        self._console.print()
        self._indented(table)

    def seen(self, sql: str, answers: Mapping[Person, Answer]) -> None:
        """One statement, and what each person got: their rows turned on the side, or that they got none."""
        self.code(sql)
        names = list(dict.fromkeys(name for answer in answers.values() for name in answer.names))
        rows: list[list[str | Text]] = []
        for at in range(max(len(answer.rows) for answer in answers.values())):
            if at:
                rows.append([""])
            rows += [[name, *(_cell(answer, name, at) for answer in answers.values())] for name in names]
        self.table(("", *(person.title for person in answers)), rows)
        for words in dict.fromkeys(answer.refusal.message for answer in answers.values() if answer.refusal is not None):
            self._indented(Text(f"refused: {words}", style="red"))

    def error(self, error: Refused) -> None:
        """An error as psql shows it."""
        self._console.print()
        for label, text in (
            ("ERROR", f"{error.sqlstate}: {error.message}"),
            ("DETAIL", error.detail),
            ("HINT", error.hint),
        ):
            if text:
                self._indented(Text.assemble((f"{label}:  ", "bold red"), text))

    def _indented(self, what: RenderableType) -> None:
        self._console.print(Padding(what, (0, 0, 0, 4), expand=False))

    def end(self, seconds: float) -> None:
        """The story's last lines."""
        self._console.print()
        self._console.rule(characters="=")
        self._console.print(Text(f"{self.claims} claims, all checked, in {seconds:.0f} seconds."))

    def connections(self, stage: Stage) -> None:
        """Where everything listens, for those who want to try for themselves."""
        self.say("It goes on running. Through pgveil:")
        self.table(("who", "connection string"), [(p.title, stage.dsn(p.login)) for p in (APP, *AUDIENCE)])
        self.say("Past it, as an intruder or as the superuser:")
        self.table(
            ("who", "connection string"),
            [(ANALYST.title, stage.dsn(ANALYST.login, direct=True)), ("superuser", stage.dsn("postgres", direct=True))],
        )
        psql = stage.postgres.bin_dir / "psql"
        self.say(
            f"A psql is at {psql}. Files are in {stage.home}; metrics at http://127.0.0.1:{stage.metrics_port}/metrics."
        )
        self.say("Ctrl-C stops everything and removes the files.")


def _cell(answer: Answer, name: str, at: int) -> Text:
    """One value of an answer, or why there is none."""
    if answer.refusal is not None:
        return Text("refused", style="red")
    if at >= len(answer.rows):
        return Text("no row" if at == 0 else "", style="dim")
    return Text(answer.rows[at].get(name, ""))
