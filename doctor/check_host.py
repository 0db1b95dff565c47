"""pgveil's own files and processes on its machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from doctor.check_keys import AS_PGVEIL
from doctor.facts import known
from doctor.model import Check, Found, Group, NotChecked, Severity, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from doctor.facts import Facts
    from doctor.host import PathFacts

_GIB: Final = 1 << 30
_LOW, _EMPTY = _GIB, _GIB // 8
_LEAST_FILES: Final = 10_000
# Of one worker: listening sockets, logs, segments, keys, its own connections to the database and the calculator.
_OWN_FILES: Final = 64


def _config(facts: Facts) -> Iterator[Found]:
    host = facts.host
    secrets = [(host.config, facts.config.catalog.dsn is not None)]
    if host.dsn_file is not None:
        secrets.append((host.dsn_file, True))
    for found, secret in secrets:
        if not found.there:
            yield Found(Severity.BAD, str(found.path), f"{found.path}: {found.problem}", f"make {found.path}")
        elif secret and found.mode & 0o044:
            yield Found(
                Severity.BAD,
                str(found.path),
                f"{found.path} holds pgveil's connection URL and has mode {found.shown_mode}: others can read it",
                f"chmod 600 {found.path}",
            )
    for found in (host.config, host.rules, host.rules_directory):
        if found.there and _writable(found):
            yield Found(
                Severity.BAD,
                str(found.path),
                f"{found.path} has mode {found.shown_mode}: others can change it, and so what is protected",
                f"chmod go-w {found.path}",
            )


def _writable(found: PathFacts) -> bool:
    sticky = found.directory and bool(found.mode & 0o1000)
    return bool(found.mode & 0o022) and not sticky


def _audit(facts: Facts) -> Iterator[Found]:
    found = facts.host.audit
    if found.hidden:
        raise NotChecked(f"{found.path}: {found.problem}", AS_PGVEIL)
    if not found.there:
        yield Found(
            Severity.WARNING,
            str(found.path),
            f"there is no audit log yet: {found.path}: {found.problem}",
            f"mkdir -m 700 {found.path}",
        )
    elif found.mode & 0o022:
        text = f"{found.path} has mode {found.shown_mode}: others can remove or replace the audit log's files"
        yield Found(Severity.BAD, str(found.path), text, f"chmod 700 {found.path}")
    elif found.mode & 0o044:
        text = f"{found.path} has mode {found.shown_mode}: others can read who asked for what"
        yield Found(Severity.WARNING, str(found.path), text, f"chmod 700 {found.path}")


def _verifies(facts: Facts) -> Iterator[Found]:
    for problem in known(facts.audit_problems):
        yield Found(
            Severity.BAD,
            problem.file or str(facts.config.audit),
            f"{problem.file}: {problem.text}",
            f"pgveil audit verify {facts.config.audit}; keep what is there, and find out who can write it",
        )


def _space(facts: Facts) -> Iterator[Found]:
    for path, disk in facts.host.disks.items():
        if disk.free < _LOW:
            yield Found(
                Severity.BAD if disk.free < _EMPTY else Severity.WARNING,
                path,
                f"{disk.free / _GIB:.1f} GiB are left for {path}: when the audit log can't be written, nothing protected is released",
                "make room, or move old segments away (docs/audit-log.md)",
            )
        elif disk.files and disk.free_files < _LEAST_FILES:
            yield Found(Severity.WARNING, path, f"{disk.free_files} files can still be made for {path}", "make room")


def _account(facts: Facts) -> Iterator[Found]:
    workers = facts.host.workers
    if any(w.uid == 0 for w in workers):
        yield Found(
            Severity.WARNING,
            "account",
            "pgveil runs as root: a fault in it is a fault with every right",
            "give it an account of its own: User=pgveil in its systemd unit, chown pgveil its directories",
        )
    elif not workers and facts.host.audit.there and facts.host.audit.uid == 0:
        yield Found(
            Severity.WARNING,
            "account",
            f"{facts.host.audit.path} belongs to root, so pgveil has run as root",
            "give it an account of its own: User=pgveil in its systemd unit, chown pgveil its directories",
        )


def _memory(facts: Facts) -> Iterator[Found]:
    for worker in facts.host.workers:
        if worker.core != 0:
            yield Found(
                Severity.BAD,
                f"worker {worker.pid}",
                f"worker {worker.pid} may leave a core dump: keys and opened values would be in it",
                "LimitCORE=0 in pgveil's systemd unit",
            )
    if facts.host.swap:
        yield Found(
            Severity.WARNING,
            listed(facts.host.swap),
            f"the machine swaps to {listed(facts.host.swap)}, which is not encrypted: keys and opened values can get there",
            "swapoff -a, and take the line out of /etc/fstab; or put swap on dm-crypt with a random key (crypttab: swap)",
        )


def _calculator(facts: Facts) -> Iterator[Found]:
    settings = facts.config.calculator
    if settings.enabled == "off" or facts.host.calculator_in_memory:
        return
    if settings.allow_disk:
        yield Found(
            Severity.WARNING,
            str(settings.directory),
            f"the calculator's directory {settings.directory} is on a disk: opened values may be written to it",
            "calculator: {directory: /dev/shm, allow_disk: false}",
        )
    else:
        yield Found(
            Severity.WARNING if settings.enabled == "on" else Severity.NOTE,
            str(settings.directory),
            f"the calculator's directory {settings.directory} is not in memory, so it does not start: what the database can't compute is refused",
            "calculator: {directory: /dev/shm}, or {enabled: off}",
        )


def _limits(facts: Facts) -> Iterator[Found]:
    wanted = 2 * facts.config.limits.connections + _OWN_FILES
    for worker in facts.host.workers:
        if worker.open_files is not None and worker.open_files < wanted:
            yield Found(
                Severity.WARNING,
                "limits.connections",
                f"worker {worker.pid} may open {worker.open_files} files; {facts.config.limits.connections} connections need {wanted}",
                f"LimitNOFILE={wanted} in pgveil's systemd unit, or limits: {{connections: {(worker.open_files - _OWN_FILES) // 2}}}",
            )
            return


def _mode(facts: Facts) -> Iterator[Found]:
    if facts.config.mode == "observe":
        yield Found(
            Severity.BAD,
            "mode",
            "pgveil observes: where pgveil apply has not been, every statement runs as it came, and NOTHING IS PROTECTED",
            f"mode: enforce in {facts.config.file}; then start pgveil again",
        )


def _workers(facts: Facts) -> Iterator[Found]:
    workers, cpus = facts.config.workers, facts.host.cpus
    if workers == 1 and cpus > 1:
        yield Found(
            Severity.NOTE, "workers", f"one worker on {cpus} CPUs: while it starts again nobody is served", "workers: 0"
        )
    elif workers > 2 * cpus:
        yield Found(
            Severity.NOTE,
            "workers",
            f"{workers} workers on {cpus} CPUs: each costs memory and catalog queries",
            "workers: 0",
        )


CHECKS: Final = (
    Check(
        "config-mode",
        Group.HOST,
        "Others can neither read pgveil's connection URL nor change its rules",
        "Whoever changes the configuration or the rules decides what is protected.",
        _config,
    ),
    Check(
        "audit-mode",
        Group.HOST,
        "Only pgveil's account reaches the audit log",
        "Its chains show what was changed in the middle; what is removed at the end shows only to who noted a hash before.",
        _audit,
    ),
    Check(
        "audit-verifies",
        Group.HOST,
        "The newest segment of each audit chain is whole",
        "A broken chain means that somebody, or a disk, has changed the record.",
        _verifies,
    ),
    Check(
        "disk-space",
        Group.HOST,
        "There is room for the audit log and the keys",
        "pgveil releases nothing protected without a durable record: a full disk stops it.",
        _space,
    ),
    Check(
        "account",
        Group.HOST,
        "pgveil does not run as root",
        "What it needs is its files and a port above 1023.",
        _account,
    ),
    Check(
        "memory-on-disk",
        Group.HOST,
        "Neither core dumps nor swap write pgveil's memory to a disk",
        "Keys and opened values are in it.",
        _memory,
    ),
    Check(
        "calculator-directory",
        Group.HOST,
        "The calculator's directory is in memory",
        "The calculator computes on opened values (docs/calculator.md).",
        _calculator,
    ),
    Check(
        "open-files",
        Group.HOST,
        "Workers may open as many files as their connections need",
        "A client takes two sockets. Out of files, a worker can neither take clients nor begin a segment of the log.",
        _limits,
    ),
    Check(
        "mode-observe",
        Group.HOST,
        "pgveil enforces the rules",
        "`mode: observe` is for the time before anything is protected, and easily left on (docs/observe.md).",
        _mode,
    ),
    Check(
        "workers",
        Group.HOST,
        "There are as many workers as the machine can use",
        "Each worker is a process of its own; one alone is a moment without service when it ends.",
        _workers,
    ),
)
