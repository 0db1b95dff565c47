"""The keys: whether they open, who can reach them, and whether what is stored opens with them."""

# ruff: noqa: S608 - statements for people to run; nothing here runs them

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from doctor.facts import Missing, known
from doctor.model import Check, Found, Group, NotChecked, Severity, listed
from lifecycle.apply.inspect import relation_sql
from rules.model import Protection, quote_ident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts

AS_PGVEIL: Final = "run doctor as pgveil's account: sudo -u pgveil pgveil doctor ..."
_PUBLISHED: Final = frozenset({"public_html", "htdocs", "wwwroot", "www", "webroot"})
_NAMED: Final = 5  # keys named in one finding
_WEB: Final = ("/usr/share/nginx", "/srv/http")


def _modes(facts: Facts) -> Iterator[Found]:
    host = facts.host
    for found, right in ((host.keys, "700"), (host.master, "600"), (host.ring, "600")):
        if found.hidden:
            raise NotChecked(f"{found.path}: {found.problem}", AS_PGVEIL)
        if not found.there:
            yield Found(Severity.BAD, str(found.path), f"{found.path}: {found.problem}", _init(facts))
        elif found.mode & 0o077:
            yield Found(
                Severity.BAD,
                str(found.path),
                f"{found.path} has mode {found.shown_mode}: others than its owner reach it",
                f"chmod {right} {found.path}",
            )
    owners = {f.uid for f in (host.keys, host.master, host.ring) if f.there}
    if len(owners) > 1:
        yield Found(
            Severity.WARNING,
            str(host.keys.path),
            f"{host.keys.path} and the files in it belong to {len(owners)} accounts",
            f"chown -R pgveil {host.keys.path}",
        )


def _init(facts: Facts) -> str:
    return f"pgveil keys init {facts.config.keys}, or put back the copy of it"


def _ring(facts: Facts) -> Iterator[Found]:
    host = facts.host
    if host.master.hidden or (host.master.there and host.master.uid != host.uid):
        # What the key ring says then ("chown") is meant for pgveil's own account.
        raise NotChecked(f"{host.keys.path} belongs to another account than doctor runs as", AS_PGVEIL)
    if isinstance(facts.ring_or, Missing):
        yield Found(Severity.BAD, str(facts.config.keys), facts.ring_or.reason, facts.ring_or.fix)


def _domains(facts: Facts) -> Iterator[Found]:
    sealed = [c for c in facts.rules.protected_columns() if c.protection is Protection.SEALED]
    without = [c for c in sealed if c.key_domain not in facts.ring.domains()]
    for column in without:
        domain = column.key_domain
        yield Found(
            Severity.BAD,
            str(column.name),
            f"{column.name} has no live key (domain {domain}): nothing can be written to it, and nothing stored opens",
            "pgveil apply makes the first one; a destroyed one comes back only from a copy of the key directory",
        )


def _opens(facts: Facts) -> Iterator[Found]:
    for sample in known(facts.database.samples):
        wrong = [
            f"{count} {what}"
            for count, what in (
                (sample.no_key, "under keys that are not this column's, or not in this ring"),
                (sample.damaged, "damaged"),
                (sample.plain, "not sealed"),
            )
            if count
        ]
        if wrong:
            yield Found(
                Severity.BAD,
                sample.column,
                f"of {sample.looked} values of {sample.column}, {sample.opened} open; {listed(wrong)}",
                "use the key directory that they were sealed with (pgveil keys list); damaged values come from a backup",
            )


def _repeated(facts: Facts) -> Iterator[Found]:
    for sample in known(facts.database.samples):
        if sample.repeated:
            many = (
                f"{sample.repeated} sealed texts of {sample.column} stand"
                if sample.repeated > 1
                else f"1 sealed text of {sample.column} stands"
            )
            name = next(c.name for c in facts.rules.protected_columns() if str(c.name) == sample.column)
            table, column = relation_sql(name.relation), quote_ident(name.column)
            yield Found(
                Severity.WARNING,
                sample.column,
                f"{many} in more than one row: the column is randomized, so one statement gave several rows one value, or somebody copied it past pgveil",
                f"look at these rows: SELECT {column}, count(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1 HAVING count(*) > 1; a copied value comes back from a backup, or is written again through pgveil",
            )


def _place(facts: Facts) -> Iterator[Found]:
    keys = facts.config.keys.absolute()
    if _PUBLISHED & set(keys.parts) or str(keys).startswith(_WEB):
        yield Found(
            Severity.BAD,
            str(keys),
            f"{keys} lies where web servers publish from",
            f"mv {keys} /etc/pgveil/keys, and set `keys:` in {facts.config.file}",
        )
    if facts.host.worktree is not None:
        yield Found(
            Severity.WARNING,
            str(keys),
            f"{keys} lies in the git working tree {facts.host.worktree}: one commit, and the keys are in its history",
            f"mv {keys} /etc/pgveil/keys, and set `keys:` in {facts.config.file}",
        )
    if facts.host.keys.there and facts.host.audit.there and facts.host.keys.device == facts.host.audit.device:
        yield Found(
            Severity.NOTE,
            str(keys),
            "the keys and the audit log are on one volume: a full or lost disk takes both, and copies of one can hold the other",
            "put the audit log on a volume of its own (`audit:`)",
        )


def _backup(facts: Facts) -> Iterator[Found]:
    keys = facts.config.keys
    notes = facts.host.backups
    command = f"pgveil keys backup {keys} FILE, after each apply that makes keys; keep FILE and its passphrase apart"
    if not notes:
        yield Found(
            Severity.WARNING, str(keys), f"no backup of {keys} was ever made: with it lost, all is lost", command
        )
        return
    without = [e.label for e in facts.ring.entries() if e.live and e.id not in notes[-1].keys]
    if without:
        told = (
            f"{listed(without[:_NAMED])} and {len(without) - _NAMED} more" if len(without) > _NAMED else listed(without)
        )
        yield Found(
            Severity.WARNING,
            str(keys),
            f"not in the last backup ({notes[-1].file}, {notes[-1].created}): {told}",
            command,
        )
        return
    yield Found(
        Severity.NOTE,
        str(keys),
        f"nobody can see from here whether the backup of {notes[-1].created} is still in a safe place",
        f"try it with `pgveil keys check-backup {notes[-1].file}`, and accept this note with where it is (docs/doctor.md)",
    )


CHECKS: Final = (
    Check(
        "key-modes",
        Group.KEYS,
        "Only pgveil's account reaches the key directory",
        "Whoever reads the master key and the database has everything that is sealed.",
        _modes,
    ),
    Check(
        "key-ring",
        Group.KEYS,
        "The key ring opens, with every live version in it",
        "Without it pgveil does not start, and sealed values stay sealed.",
        _ring,
    ),
    Check(
        "key-missing",
        Group.KEYS,
        "Every sealed column has a live key",
        "Without one the column can be neither read nor written.",
        _domains,
    ),
    Check(
        "sealed-opens",
        Group.KEYS,
        "Stored values of sealed columns open (a sample of each)",
        "A value that does not open is lost, unless another copy of the keys opens it. Better to know before the old keys are gone.",
        _opens,
    ),
    Check(
        "sealed-repeated",
        Group.KEYS,
        "No randomized value stands in two rows (tables of up to 100,000 rows; larger ones with --deep)",
        "Each one is sealed with a nonce of its own, so equal texts are copies. A value opens in any row of its column: copied past pgveil, it shows one person's as another's.",
        _repeated,
    ),
    Check(
        "key-place",
        Group.KEYS,
        "The keys lie where nothing publishes or copies them",
        "Keys that a web server, a repository or the log's backup carries away are given away.",
        _place,
    ),
    Check(
        "key-backup",
        Group.KEYS,
        "Every key is in a backup",
        "With master key or key ring lost, nothing that is sealed can ever be read again, from no backup of the database.",
        _backup,
    ),
)
