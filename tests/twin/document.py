"""docs/sql.md, made from the golden corpus: `python -m tests.twin.document > docs/sql.md`. A test holds the page against it."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.twin.corpus import SAME, Entry, Expectation, Feature, pending_lines, read_corpus
from tests.twin.world import CLEAR, MASKED

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES: Final = 6
WIDTH: Final = 118
_HEAD: Final = """\
# SQL through pgveil

What an application may write, and what it gets. This page is made from the golden corpus in `tests/fixtures/sql`
(`python -m tests.twin.document > docs/sql.md`), so every statement on it has been run: on a plain database, and through pgveil on one that is sealed.

**A role that sees everything** (`clear`) gets what the plain database gives: the same rows as bytes, the same columns, types and command tags,
the same order where the statement asks for one, the same errors. **A role that sees masks** gets what a database would give in which every
protected value had been replaced by its mask. What can't be had so is **refused**, with an error that says why and what works instead
([errors.md](errors.md)). What is not so yet is told with each feature. `make twin` counts.

{counts}

## What differs all the same

- **Values in error texts.** pgveil writes no value into an error. Where PostgreSQL quotes a protected one, `DETAIL` has `<sealed>` in its place
  (`Key (pan)=(<sealed>) already exists.`), and where pgveil itself finds a value to be wrong, the message ends before it (`invalid input
  syntax for type integer`). SQLSTATE, position, and the names of tables, columns and constraints are PostgreSQL's. `CONTEXT` may be missing,
  and the position where pgveil computes a statement in parts.
- **When a wrong constant is noticed.** A constant or parameter for a sealed column is read when the statement is prepared or bound, where PostgreSQL
  may do so only when it runs.
- **Where a computed column is from.** PostgreSQL says of a result column which table's column it is. Of columns that pgveil computed it says nothing.
- **Parameter types.** A parameter may be described as `text` where PostgreSQL says `varchar`, or the other way round. The two are read alike.
- **Severity, hints and places of pgveil's own errors.** Where pgveil finds an error itself that PostgreSQL would have found, SQLSTATE and message
  are PostgreSQL's; severity, `HINT`, position and the names that go with it are not compared.
- **Triggers and rules.** What the database runs by itself sees sealed values as they are stored (see [INSERT](#insert)).
- **Tables that can't be sealed.** Sealed columns under a check or a domain with checks, generated columns, columns that a generated one is made of, and
  defaults that are no constants are obstacles of `pgveil apply` ([apply.md](apply.md)): there is nothing to compare, for the database is not sealed.
- **Catalogs.** `pg_catalog` and `information_schema` are the plain database's where a query names them, but for privileges
  ([compatibility.md](compatibility.md), ADR 0038). `EXPLAIN` of such a query shows what was put into it.
- **Plans.** `EXPLAIN` shows the plan of what the database does, with other names and costs.
- **Constraints of a role that sees masks.** Unique and foreign keys hold real values, masks or not: what another row already has can't be
  written.

## The tables of the examples

`customers` (name, phone, email, birth and income masked; id_number sealed), `accounts` (number, opened and level sealed deterministic, balance
randomized), `cards` (pan and credit deterministic, cvv and expires randomized; cvv has no mask, so it is refused to who sees masks),
`payments` (pan of the same key domain as the cards', memo randomized), `profiles` (a column of every type), `orders` (ship_to masked), `visits`
(partitioned; guest masked, token sealed), `people` and their heirs `employees`, `archive` (id_number of the same domain as the customers'),
`"Gift List"`, `badges` (code deterministic, zone and uses with defaults; a trigger logs its changes into `badge_log`), `doors` (code of the same
domain as the badges', with `ON UPDATE` and `ON DELETE CASCADE`), and `products` and `crm.customers` with nothing protected. All of it: `tests/fixtures/sql/world`.
"""
_MASKED: Final = {
    "lookup": "searching, joining or comparing sealed columns by the real value",
    "verdict": "columns without a mask",
    "unsupported": "masked columns of a table that is written, locked or sampled, its partitions by name, and views over masked columns",
    "cross_domain": "moving sealed values that it sees masked",
    "sealed_into_plain": "storing masks where values belong",
    "constraint": "what breaks a constraint over real values (PostgreSQL's own error)",
    "view": "columns that would be grouped by the table's primary key alone, which a masking view does not have: name them all in GROUP BY",
    "fence": "what PostgreSQL's privileges behind pgveil keep from it",
    "copy": "what COPY can't protect",
    "plain_into_sealed": "values for sealed columns that only the database could compute",
    "randomized": "comparing randomized values",
    "oracle": "giving a value to a column that is not seen clear: the server would compare it",
    "unfenced": "defining objects around protected tables",
    "ordering": "locking by a sealed order",
    "compute": "what pgveil can't compute for anyone",
    "unparsed": "forms that the parser does not know",
}


def document(features: Sequence[Feature], pending: Sequence[tuple[str, str, str]]) -> str:
    """The page. `pending`: role, entry's key and what comes instead, of what does not come out yet as it should."""
    waiting = {(role, key): found for role, key, found in pending}
    parts = [_HEAD.format(counts=_counts(features, waiting))]
    parts += [_feature(f, waiting) for f in features]
    return "\n".join(parts)


def _counts(features: Sequence[Feature], waiting: dict[tuple[str, str], str]) -> str:
    entries = [e for f in features for e in f.entries]
    lines = [
        "| | Entries | As on plain data, or on masks | Refused, and meant to be | Not yet |",
        "|---|---|---|---|---|",
    ]
    for role in (CLEAR, MASKED):
        compared = [e for e in entries if _expected(e, role).compared]
        late = sum((role, e.key) in waiting for e in compared)
        refused = sum(bool(_expected(e, role).reason) and (role, e.key) not in waiting for e in compared)
        lines.append(f"| `{role}` | {len(compared)} | {len(compared) - refused - late} | {refused} | {late} |")
    return "\n".join(lines)


def _feature(feature: Feature, waiting: dict[tuple[str, str], str]) -> str:
    parts = [f"## {feature.title}", ""]
    if feature.text:
        parts += [feature.text, ""]
    good = [e for e in feature.entries if _expected(e, CLEAR) == SAME and (CLEAR, e.key) not in waiting]
    shown, rest = good[:EXAMPLES], good[EXAMPLES:]
    if shown:
        parts += ["Works:", "", *_code(shown)]
    if rest:
        parts += [_wrap("Works as well: " + "; ".join(_short(e.title) for e in rest) + "."), ""]
    for entry in feature.entries:
        if _expected(entry, CLEAR).reason and (CLEAR, entry.key) not in waiting:
            parts += _refused(entry, _expected(entry, CLEAR))
    parts += _masked(feature, waiting)
    late = [(e, waiting[CLEAR, e.key]) for e in feature.entries if (CLEAR, e.key) in waiting]
    if late:
        parts += ["Not yet, also for who sees everything:", ""]
        parts += [f"- {_short(e.title)} ({'it differs' if found == 'different' else found})" for e, found in late]
        parts.append("")
    return "\n".join(parts)


def _masked(feature: Feature, waiting: dict[tuple[str, str], str]) -> list[str]:
    refused = [
        e
        for e in feature.entries
        if _expected(e, MASKED).reason and not _expected(e, CLEAR).reason and (MASKED, e.key) not in waiting
    ]
    late = [e for e in feature.entries if (MASKED, e.key) in waiting and (CLEAR, e.key) not in waiting]
    if not refused and not late:
        return ["A role that sees masks gets the same of masks.", ""]
    parts = []
    if refused:
        parts += ["A role that sees masks gets the same of masks, and is refused:", ""]
        for reason, count in Counter(_expected(e, MASKED).reason for e in refused).most_common():
            each = [e for e in refused if _expected(e, MASKED).reason == reason]
            example = " ".join(each[0].steps[0].sql.split())
            whys = {_expected(e, MASKED).why for e in each} - {""}
            why = f" ({'; '.join(sorted(whys))})" if whys else ""
            more = f", and {count - 1} more" if count > 1 else ""
            link = "" if reason in {"constraint", "view", "fence"} else f" [{reason}](errors.md#{reason})"
            parts += [f"- {_MASKED[reason]}{why}: `{_cut(example)}`{more}.{link}"]
        parts.append("")
    if late:
        parts += [_wrap("Not yet for a role that sees masks: " + "; ".join(_short(e.title) for e in late) + "."), ""]
    return parts


def _refused(entry: Entry, expected: Expectation) -> list[str]:
    return [
        f"**Refused** ([{expected.reason}](errors.md#{expected.reason})): {_short(entry.title)}. {_sentence(expected.why)}",
        "",
        *_code([entry]),
    ]


def _code(entries: Sequence[Entry]) -> list[str]:
    lines = ["```sql"]
    for number, entry in enumerate(entries):
        if number:
            lines.append("")
        lines += [f"-- {entry.title}", entry.sql]
    return [*lines, "```", ""]


def _expected(entry: Entry, role: str) -> Expectation:
    return entry.expected.get(role, SAME)


def _short(title: str) -> str:
    short = title.rstrip(".")
    first = short.split(" ")[0]
    return short if len(first) > 1 and first[:2].isupper() else short[0].lower() + short[1:]


def _sentence(words: str) -> str:
    return (words if words.startswith("pgveil") else words[:1].upper() + words[1:]) + "."


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def main() -> None:
    """Print the page."""
    sys.stdout.write(document(read_corpus(), pending_lines()))


if __name__ == "__main__":
    main()
