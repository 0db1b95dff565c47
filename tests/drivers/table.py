"""docs/compatibility.md: written by `python -m tests.drivers.table` from what the checks have just shown (`make compatibility`).

The page's own words are here too, so that the whole of it is made at once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.drivers.checks import CHECKS
from tests.drivers.compare import compared, targets
from tests.drivers.ground import make_ground, stop_ground
from tests.drivers.registry import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.drivers.ground import Ground

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
SAME, READS, LACKS = "yes", "yes (m)", "–"

HEAD = """\
# Compatibility

Which clients work through pgveil. Each cell of the table is a test: a real program does the same thing directly on the server, on plain data, and through
pgveil; what it sees must be equal, value by value, type by type, error field by error field. To make the page again: `make compatibility`.

- `yes`: equal on tables that no rule names, and on protected tables (14 sealed types, masked names and telephone numbers) for a login that sees them clear.
- `yes (m)`: besides, a login that sees masks gets what it would get directly from a database that holds the masks.
- `–`: the client has no means for it; why, is below the table.

Tried with PostgreSQL 15 with TLS and SCRAM-SHA-256 behind pgveil, and pgveil with the server's certificate ([ADR 0010](adr/0010-channel-binding.md)).
TLS from the first byte is compared with ordinary TLS, since PostgreSQL 15 does not have it.

"""
TAIL = """
## What differs on protected tables, for every client

- **Errors never repeat a value** for a sealed column: `invalid input syntax for type date`, where PostgreSQL adds `: "no date"`; and `Key (card)=(<sealed>) already exists.`
- **Constants that do not fit a sealed column** are found when the statement is prepared (Parse); PostgreSQL finds some of them, as a text that is too long, when it runs.
- **The source file and line** of PostgreSQL's errors (`\\errverbose`) is missing from pgveil's.
- **One parameter in two places**, of which one is a sealed column and the other is none, can't be served: use two.
- **Texts of more than 1,048,576 characters** are refused. Values of any size go as parameters or by COPY; psycopg2, Django and psql write them into the text.
- **Sealed columns of enum types** can't be computed on (`mood::text`): the calculator does not have the database's own types.
- **Catalogs are the plain database's** ([ADR 0038](adr/0038-catalogs-as-on-a-plain-database.md)): `\\d`, reflection, `getColumns` and `information_schema` show sealed columns under their logical
  types and modifiers, no schema, view, type or function of pgveil's, and to a login that sees masks each column once. What a catalog says of *privileges* is what the server grants,
  `pgveil_owner`'s and the columns that `apply` took included. Functions that write a definition, and views and functions of the database's own over catalogs, show what is there.

## Whole objects, saved by who sees masks

`tests/writes/test_orms.py`: Django, SQLAlchemy (on psycopg and psycopg2), Hibernate, TypeORM and Sequelize load objects as a login that sees masks, change something that is
not protected, and save the whole object, in each way that they have for it: all fields, versioned, locked, merged, in batches, `bulk_update`, `refresh`, `get_or_create`. What
was not protected is stored, the values behind the masks stay, nothing is an error; a really new value is refused with a hint
([ADR 0027](adr/0027-writes-by-logins-with-limits.md)). So with their upserts of objects that are there; Django's, an INSERT from UNNEST, are refused to such logins.

## pg_dump

What is tested by `tests/drivers/test_dump.py` with pg_dump 15 in the plain, custom and directory formats, with `--inserts` and `--rows-per-insert`, and with 16 and 18 in
the plain one, or in all of them where it is refused ([ADR 0024](adr/0024-dumps.md)). A login that sees every column clear dumps through pgveil what the plain database
would be, without anything of pgveil's but `GRANT ... TO pgveil_owner`, which `-x` leaves out:

```console
$ pg_dump -h pgveil -p 6432 -U backup -O -x -Fc -f shop.dump shop
```

- **Back through pgveil**, into tables to which the rules have been applied: dump with `--data-only`; `pg_restore` or `psql` through pgveil seals what is sealed.
- **Into a plain database**, past pgveil: `pg_restore -d plain shop.dump`. The schema in the dump has the logical types.
- **A dump whose schema names the type `pgveil.sealed`** (taken past pgveil, or by a pgveil before 0.1.0's last changes, with `--data-only` for the values) gets the types afterwards:

  ```console
  $ psql plain -c 'CREATE SCHEMA pgveil; CREATE DOMAIN pgveil.sealed AS text'
  $ pg_restore -d plain shop.dump
  $ pgveil plain-types rules.yaml | psql plain
  ```

  Views over sealed columns stand in the way of the last step: leave them out (`pg_restore -L`) and make them afterwards.
- **Past pgveil**, a dump is of ciphertext and of pgveil's own objects. Restored past pgveil it opens through a pgveil with the same keys: this is what backups are for.
  Keep a backup of the keys (`pgveil keys backup`) elsewhere.
- **Statistics** (`--statistics`, `--statistics-only` of PostgreSQL 18) are what the planner knows of the stored values: of sealed columns bounds and common values that are
  sealed, of masked ones clear, in every dump. They estimate and decide nothing: under other keys they are poor until `ANALYZE`, and in a plain database, whose
  types they are no values of, PostgreSQL leaves them out with a warning. Run `ANALYZE` after a restore that changes keys or types. To pgveil their reader has read all columns that he may, and the record says so.
- **Other logins** get an error with a hint, whatever the options: never a dump of masks. They can dump tables in which they see everything clear. Foreign tables
  (`--include-foreign-data`) are never masked: one that is a partition of a table with masked columns is an error to them.

## Not tested

- **Npgsql**: the machine of the tests has no .NET. HikariCP over pgjdbc, pgxpool, and lib/pq by database/sql stand for pools of other languages.
- psycopg2 is LGPL and used by the tests only.
"""


def cell(driver: str, check: str, differences: Mapping[str, str] | None) -> str:
    """What the table says of one check; `differences` by target, None where the driver lacks the means."""
    if differences is None:
        return LACKS
    failed = [name for name, difference in differences.items() if difference]
    if failed:
        return "no: " + ", ".join(failed)
    return READS if "masked" in targets(check) else SAME


def lacking(driver: str, check: str) -> bool:
    return check in DRIVERS[driver].lacking


def page(cells: Mapping[tuple[str, str], str]) -> str:
    """The whole page, from the cells by driver and check."""
    lines = ["| | " + " | ".join(f"{name} {DRIVERS[name].version()}" for name in DRIVERS) + " |"]
    lines.append("|---|" + "---|" * len(DRIVERS))
    for check, what in CHECKS.items():
        lines.append(f"| {what.title} | " + " | ".join(cells[name, check] for name in DRIVERS) + " |")
    lines += ["", "Why some cells are empty:", ""]
    for name, driver in DRIVERS.items():
        reasons: dict[str, list[str]] = {}
        for check in CHECKS:
            if check in driver.lacking:
                reasons.setdefault(driver.lacking[check], []).append(check.replace("_", " "))
        told = "; ".join(f"{reason} ({', '.join(checks)})" for reason, checks in reasons.items())
        lines.append(f"- {name}: {told or 'none are'}.")
    return HEAD + "\n".join(lines) + "\n" + TAIL


def observed(ground: Ground) -> dict[tuple[str, str], str]:
    """Every cell, by running every check."""
    return {
        (name, check): cell(name, check, None if check in driver.lacking else compared(ground, driver, check))
        for name, driver in DRIVERS.items()
        for check in CHECKS
    }


def main() -> int:
    """Write the page; 1 where a check fails."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        ground = make_ground(place)
        try:
            cells = observed(ground)
        finally:
            stop_ground(ground)
    PAGE.write_text(page(cells))
    failed = {where: text for where, text in cells.items() if text.startswith("no")}
    for (driver, check), text in failed.items():
        print(f"{driver}, {check}: {text}")
    print(f"{sum(text.startswith('yes') for text in cells.values())} of {len(cells)} cells work; {len(failed)} fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
