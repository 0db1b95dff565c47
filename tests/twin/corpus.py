"""The golden corpus: tests/fixtures/sql/NN-feature.sql, read, run and held against what each entry says should become of it.

A file is paragraphs between blank lines. The first is the feature's title (`-- # Joins`) and what is to be said of it. Every other one is
an entry: comment lines, then one statement or several, which run as one transaction that is rolled back. Of the comment lines

    -- $1 = 4111        is a parameter (NULL without quotes is NULL), so the statement travels by the extended protocol only;
    -- data: a line     is a line for COPY FROM STDIN (\\t is a tab);
    -- autocommit       runs every statement in a transaction of its own: the entry cleans up after itself;
    -- one message      sends all statements in one Query message;
    -- any order        compares rows as a multiset although there is an ORDER BY (it leaves ties);
    -- clear: refused REASON: why       is what should become of it for a role that sees all: without the line, the same as on plain data;
    -- masked: refused REASON: why      for one that sees masks: without it, the same as on a database that holds masks;
    -- masked: not compared: why         is for what the masks database can't show (it has no constraints over masked columns);
    -- since: 17        needs that major version of PostgreSQL;

and the rest is the entry's title, unique in its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rules.lexer import lex
from rules.tokens import LexError
from tests.twin.answers import Mode
from tests.twin.compare import Outcome, Step, Verdict, worst
from tests.twin.fixture import DIRECTORY
from tests.twin.tally import Tally, describe
from tests.twin.world import ALL_MODES, CLEAR, MASKED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.twin.world import World

ROLES: Final = (CLEAR, MASKED)
PENDING: Final = DIRECTORY / "PENDING"
_DIRECTIVE = re.compile(r"(\$[0-9]+) = (.*)|(data|clear|masked|since):(?: (.*))?|(autocommit|one message|any order)")
_REFUSED = re.compile(r"(?:refused ([a-z_]+)|not compared)(?:: (.+))?")


class CorpusError(ValueError):
    """A file of the corpus that can't be read; the text says where."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What should become of an entry for a role. `reason` and `why` where it is refused. `compared`: see the file's form."""

    reason: str = ""
    why: str = ""
    compared: bool = True

    def __str__(self) -> str:
        return f"refused {self.reason}" if self.reason else "same"


SAME: Final = Expectation()


@dataclass(frozen=True, slots=True)
class Entry:
    """One paragraph: a statement, or several that belong together."""

    feature: str
    title: str
    sql: str
    steps: tuple[Step, ...]
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    autocommit: bool = False
    since: int = 0

    @property
    def key(self) -> str:
        """A name that stays when other entries come and go."""
        return f"{self.feature}: {self.title}"


@dataclass(frozen=True, slots=True)
class Feature:
    """One file."""

    name: str
    title: str
    text: str
    entries: tuple[Entry, ...]


def read_corpus(directory: Path = DIRECTORY) -> list[Feature]:
    """Every feature in the files' order. Raises CorpusError."""
    return [_read(path) for path in sorted(directory.glob("[0-9]*.sql"))]


def _read(path: Path) -> Feature:
    name = path.stem.partition("-")[2]
    paragraphs = [p for p in re.split(r"\n(?:[ \t]*\n)+", path.read_text().strip()) if p]
    head = [line.removeprefix("--").strip() for line in paragraphs[0].splitlines()]
    if not head[0].startswith("# ") or any(not line.startswith("--") for line in paragraphs[0].splitlines()):
        raise CorpusError(f"{path.name}: the first paragraph is the title: -- # ...")
    entries = tuple(_entry(name, p) for p in paragraphs[1:])
    titles = [e.title for e in entries]
    if double := {t for t in titles if titles.count(t) > 1}:
        raise CorpusError(f"{path.name}: titles that occur twice: {sorted(double)}")
    return Feature(name, head[0][2:], "\n".join(head[1:]).strip(), entries)


def _entry(feature: str, paragraph: str) -> Entry:
    lines = paragraph.splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    comments = [line.removeprefix("--").strip() for line in lines[:count]]
    sql = "\n".join(lines[count:])
    title, found = _directives(comments)
    if not title or not sql:
        raise CorpusError(f"{feature}: an entry has a title and a statement: {paragraph[:60]!r}")
    expected = {role: _expectation(feature, found[role][0]) for role in ROLES if role in found}
    params = tuple(None if v == "NULL" else v for name, values in found.items() if name[0] == "$" for v in values)
    data = "".join(line.replace("\\t", "\t") + "\n" for line in found.get("data", []))
    ordered = False if "any order" in found else None
    texts = [sql] if "one message" in found else _split(sql)
    steps = tuple(
        Step(
            text,
            params if "$1" in text else (),
            ordered=ordered,
            data=data.encode() if re.search(r"(?i)\bfrom stdin\b", text) else b"",
            several="one message" in found,
        )
        for text in texts
    )
    since = int(found["since"][0]) if "since" in found else 0
    return Entry(feature, title, sql, steps, expected, "autocommit" in found, since)


def _directives(comments: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    title: list[str] = []
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for line in comments:
        match = _DIRECTIVE.fullmatch(line)
        if match is not None:
            name = match[1] or match[3] or match[5]
            last = found.setdefault(name, [])
            last.append(match[2] or match[4] or "")
        elif last and last[-1] and not found.get("data"):
            last[-1] += " " + line  # a sentence that goes on
        else:
            title.append(line)
    return " ".join(title), found


def _expectation(feature: str, text: str) -> Expectation:
    if text == "same":
        return SAME
    match = _REFUSED.fullmatch(text)
    if match is None:
        raise CorpusError(f"{feature}: not an expectation: {text!r}")
    return Expectation(match[1] or "", match[2] or "", match[1] is not None)


def _split(sql: str) -> list[str]:
    try:
        lexed = lex(sql)
    except LexError:
        return [sql]  # wrong on purpose
    return [sql[lexed.tokens[first].start : lexed.tokens[last].end] for first, last in lexed.statements]


@dataclass(frozen=True, slots=True)
class Deviation:
    """An entry that did not come out as it says. `found`: "same", "refused REASON" or "different"."""

    role: str
    entry: Entry
    found: str
    detail: str = ""

    @property
    def place(self) -> str:
        """Role and entry, as PENDING names them."""
        return f"{self.role} | {self.entry.key}"

    @property
    def line(self) -> str:
        """The line of PENDING that stands for it."""
        return f"{self.place} | {self.found}"


def run_entry(world: World, entry: Entry, role: str, modes: Sequence[Mode] = ALL_MODES) -> list[Outcome]:
    """The outcomes of the entry's statements as far as they were run, each the worst over the modes."""
    chosen = modes
    if all(s.params for s in entry.steps):
        chosen = [m for m in modes if m is not Mode.SIMPLE] or modes
    if all(s.several for s in entry.steps):
        chosen = [Mode.SIMPLE]
    runs = [world.compare_block(entry.steps, role, mode, autocommit=entry.autocommit) for mode in chosen]
    return [worst([run[i] for run in runs if i < len(run)]) for i in range(max(map(len, runs)))]


def deviation(entry: Entry, role: str, outcomes: Sequence[Outcome]) -> Deviation | None:
    """What differs from the entry's expectation, or None."""
    expected = entry.expected.get(role, SAME)
    bad = worst(outcomes)
    found = "same" if bad.verdict is Verdict.SAME else "different"
    if bad.verdict is Verdict.REFUSED:
        found = f"refused {bad.reason}"
    return None if found == str(expected) else Deviation(role, entry, found, describe(bad))


def run_corpus(
    world: World, features: Sequence[Feature], roles: Sequence[str] = ROLES, modes: Sequence[Mode] = ALL_MODES
) -> tuple[Tally, list[Deviation]]:
    """Run everything that this server's version has; what became of it, and what should have."""
    tally, deviations = Tally(), []
    for feature in features:
        for entry in feature.entries:
            if entry.since > world.pg.version:
                continue
            for role in roles:
                if not entry.expected.get(role, SAME).compared:
                    continue
                outcomes = run_entry(world, entry, role, modes)
                tally.extend(outcomes, entry.key)
                if (found := deviation(entry, role, outcomes)) is not None:
                    deviations.append(found)
    return tally, deviations


def pending_lines() -> list[tuple[str, str, str]]:
    """The deviations that are known and wait for their part of pgveil: role, entry's key, what comes instead."""
    lines = (line for line in PENDING.read_text().splitlines() if line and not line.startswith("#"))
    return [(role, key, found) for role, key, found in (line.split(" | ") for line in lines)]


def read_pending() -> frozenset[str]:
    """The places ("role | feature: title") of known deviations. The list must only shrink."""
    return frozenset(f"{role} | {key}" for role, key, _ in pending_lines())
