"""docs/doctor.md: its text from here, its codes from the checks' own tables, its samples from two systems that are really there.

`python -m tests.doctor.page` writes it. It takes a minute: both systems are built and looked at.
"""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from doctor.examine import CHECKS, Report
from doctor.model import Acceptance, Finding, Group, Severity
from doctor.show import show
from tests.doctor.systems import bad_system, good_system

if TYPE_CHECKING:
    from tests.doctor.systems import System

PAGE: Final = Path("docs/doctor.md")
WIDTH: Final = 118
# What depends on the machine that the samples are made on.
MACHINE: Final = frozenset({"account", "memory-on-disk", "disk-space", "workers"})

HEAD: Final = """\
# Is it set up well? `pgveil doctor`

Rules that are right protect nothing if a login owns the tables, if pg_hba.conf lets people past pgveil, or if the server writes phone numbers into its log.
`pgveil doctor` looks at the live system (database, server, keys, files, certificates, the pgveil that runs) and says what is not as it should be, why it matters,
and the statement, line or command that fixes it. It changes nothing (it logs in once through pgveil, which the audit log records). Findings name objects and count
values; they never show one.

## Run it

On pgveil's machine, as pgveil's account, before the first client and then every day:

```console
$ pgveil doctor --config /etc/pgveil/pgveil.yaml --database postgresql://postgres@db.internal/crm
```

| Option | Meaning | Default |
|---|---|---|
| `--config` | The configuration file. | `pgveil.yaml` |
| `--database` | A URL for looking, or the variable `PGVEIL_DATABASE`. With a superuser's everything is checked; with pgveil's own login what that may not see is named as not checked. | `catalog.dsn` |
| `--only CODE`, `--skip CODE` | Run this check only; leave this one out. Repeatable. | all |
| `--why` | Say why each finding matters, and list what is well. | |
| `--deep` | Read tables of more than 100,000 rows whole too, for sealed values that stand in two rows (`sealed-repeated`). | |
| `--codes` | List the checks, and do nothing. | |
| `--json` | One JSON document. | |

| Exit code | Meaning |
|---|---|
| 0 | All is well: nothing but notes, and findings that are accepted. |
| 1 | Something is bad, or a warning, or could not be looked at. |
| 2 | Bad usage, a configuration with errors, or a file of acceptances with errors. |
| 3 | The database cannot be reached. What can be checked without it is checked and shown. |

`bad`: a promise does not hold. `warning`: it holds by luck, or nobody could look. `note`: know this; it does not count.

## Accept a finding

Some things are so on purpose. Write them down with a reason, in a file that `pgveil.yaml` names:

```yaml
doctor:
  accepted: accepted.yaml
  addresses: [10.0.0.5, 10.0.0.6]   # where pgveil connects from, if doctor runs elsewhere
```

```yaml
accepted:
  - {code: key-backup, reason: "file in the safe of branch 4, tried 2026-05-02", by: "j. doe", until: 2027-05-02}
  - {code: login-superuser, object: ops, reason: "on-call, hardware token, from the jump host only"}
```

`code` and `reason` have to be there. Without `object` every finding of the code is accepted, those to come too. After `until` the finding counts again, and
`acceptance` says so. Keep the file under change control: who edits it says what is good enough ([ADR 0023](adr/0023-doctor-above-both.md)).

## Keep people from going past pgveil

Past pgveil, masked columns are denied by PostgreSQL and sealed ones are ciphertext, but nothing is recorded. Two walls, each with its codes:

1. **pg_hba.conf** lets applications' logins in from pgveil's address only (`hba-past`, `hba-trust`, `hba-plain`). Order matters: the first line that matches decides.

   ```text
   # pg_hba.conf; 10.0.0.5 is pgveil
   local   all         postgres                       peer
   hostssl crm         all            10.0.0.5/32     scram-sha-256
   hostssl replication replicator     10.0.0.9/32     scram-sha-256
   host    all         all            all             reject
   ```

2. **Column privileges**, which `pgveil apply` sets, hold for whoever comes by another way (`column-open`, `object-open`, `apply-pending`), as long as nobody uses logins that no
   privilege binds (`login-superuser`, `login-owner`, `login-reads-all`, `login-attributes`).

   ```sql
   -- a login that owns nothing, and a role that is no login for the tables
   CREATE ROLE crm_owner NOLOGIN;
   ALTER TABLE customers OWNER TO crm_owner;
   CREATE ROLE crm_app LOGIN;
   GRANT SELECT, INSERT, UPDATE ON customers TO crm_app;
   ALTER DEFAULT PRIVILEGES FOR ROLE crm_owner REVOKE ALL ON TABLES FROM PUBLIC;
   ```

And what the server writes down by itself (`log-statements`, `log-errors`, `log-parameters`):

```sql
ALTER SYSTEM SET log_statement = 'ddl';
ALTER SYSTEM SET log_min_duration_statement = -1;
ALTER SYSTEM SET log_min_error_statement = 'fatal';
ALTER SYSTEM SET log_error_verbosity = 'terse';
ALTER SYSTEM SET log_parameter_max_length_on_error = 0;
SELECT pg_reload_conf();
```

## For programs

`--json` prints one document. Keys may be added; where one changes its meaning, `form` gets a new number.

```json
{
  "form": 1,
  "well": false,
  "time": "2026-11-28T21:04:11+00:00",
  "config": "/etc/pgveil/pgveil.yaml",
  "database": "postgresql://postgres@db.internal/crm",
  "counts": {"bad": 1, "warning": 0, "note": 0, "ok": 63, "accepted": 1},
  "findings": [
    {
      "code": "login-owner",
      "group": "Logins",
      "severity": "bad",
      "checked": true,
      "object": "analyst",
      "found": "login analyst is to see masks of what it owns: public.accounts",
      "why": "An owner reads its tables whatever is revoked, and grants itself again what apply took.",
      "fix": "ALTER TABLE \\"public\\".\\"accounts\\" OWNER TO some_role_without_login;",
      "accepted": null
    }
  ]
}
```

A check that is well has one finding, with `severity: ok`. `checked: false`: it could not look, and `found` says why. `accepted` has `reason`, `by` and `until`.
Codes are stable: a check whose meaning changes gets a new one. A job that looks every day needs no more than the exit code.

"""
SAMPLES: Final = """\
## Two systems

Both are built by `tests/doctor/systems.py`, and what doctor says of them is compared with this page by a test. The bank of the demonstration, set up as this page says:

```text
$ pgveil doctor --database postgresql://postgres@localhost/bank; echo $?
{good}
0
```

The same bank, with what happens in a year when nobody looks:

```text
$ pgveil doctor --database postgresql://postgres@localhost/bank; echo $?
{bad}
1
```
"""


def codes() -> str:
    """A section for every code, by group."""
    parts = ["## Codes\n"]
    for group in Group:
        parts.append(f"### {group.value}\n")
        parts += [f"#### {c.code}\n\n{c.title}. {c.why}\n" for c in CHECKS if c.group is group]
    return "\n".join(parts) + "\n"


def sample(system: System, document: dict[str, Any]) -> str:
    """A report of doctor's as the page shows it: paths, ports and the machine's own findings taken out."""
    names = {
        str(system.home): "/srv/www/public_html" if system.process is None else "/etc/pgveil",
        f"localhost:{system.pg.port}": "localhost",
        f":{system.port}": ":6432",
        f":{system.metrics_port}": ":9632",
        f", {system.port})": ", 6432)",
    }

    def plain(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    findings = [
        Finding(
            f["code"],
            Group(f["group"]),
            Severity(f["severity"]),
            plain(f["object"]),
            plain(f["found"]),
            f["why"],
            plain(f["fix"]),
            f["checked"],
            None if f["accepted"] is None else Acceptance(f["code"], **f["accepted"]),
        )
        for f in document["findings"]
        if f["code"] not in MACHINE
    ]
    report = Report(tuple(findings), plain(document["database"]), "", "", reached=True)
    text = io.StringIO()
    show(report, console=Console(file=text, width=WIDTH, color_system=None))
    return re.sub(r" +$", "", text.getvalue().rstrip(), flags=re.MULTILINE)


def page(good: str, bad: str) -> str:
    """The whole page."""
    return HEAD + codes() + SAMPLES.format(good=good, bad=bad)


def main() -> None:
    """Write it."""
    samples = []
    for make in (good_system, bad_system):
        with tempfile.TemporaryDirectory(prefix="pgveil-doctor-") as home:
            Path(home).chmod(0o711)
            with make(Path(home)) as system:
                samples.append(sample(system, system.document("--database", system.url("postgres"))))
    PAGE.write_text(page(*samples))


if __name__ == "__main__":
    main()
