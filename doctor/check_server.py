"""The server's settings: what its log gets to see, what survives a crash, what pgveil can work with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from doctor.model import Check, Found, Group, NotChecked, Severity, alter_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from doctor.facts import Facts

_OLDEST, _TESTED = 15, frozenset({15, 16, 18})
_CLOCK_SECONDS: Final = 5.0
_PUBLIC_PLACES: Final = (  # names to look for
    "/tmp/",  # noqa: S108
    "/var/tmp/",  # noqa: S108
    "public_html",
    "/var/www",
    "/srv/http",
    "http://",
    "ftp://",
    "chmod 644",
    "chmod 666",
    "chmod 777",
)
_AS_READER: Final = "GRANT pg_read_all_settings TO pgveil's login; or give doctor a superuser's URL (--database)"


def _version(facts: Facts) -> Iterator[Found]:
    major = facts.database.version // 10_000
    if major < _OLDEST:
        text = f"PostgreSQL {major} is too old: pgveil works with {_OLDEST} and newer"
        yield Found(Severity.BAD, f"PostgreSQL {major}", text, "pg_upgrade to 16")
    elif major not in _TESTED:
        text = (
            f"PostgreSQL {major} is not among those that pgveil is tested with ({', '.join(map(str, sorted(_TESTED)))})"
        )
        yield Found(Severity.NOTE, f"PostgreSQL {major}", text, "run pgveil's tests against it first")


def _encoding(facts: Facts) -> Iterator[Found]:
    encoding = facts.database.encoding
    if encoding != "UTF8":
        yield Found(
            Severity.BAD,
            facts.database.name,
            f"database {facts.database.name} has encoding {encoding}; pgveil serves no protected table in it",
            f"CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0; and move {facts.database.name} there by dump and restore",
        )


def _judge(
    facts: Facts, name: str, wrong: Callable[[str], bool], severity: Severity, says: str, right: str
) -> Iterator[Found]:
    """A setting's values that are wrong: the server's, and those of ALTER ROLE and ALTER DATABASE."""
    database = facts.database
    own = [s for s in database.own_settings if s.name == name]
    value = database.settings.get(name)
    if value is None and not own and "." not in name:
        raise NotChecked(f"login {database.user} may not see the setting {name}", _AS_READER)
    if value is not None and wrong(value):
        yield Found(severity, name, f"{name} = {value or 'empty'}: {says}", alter_system(name, right))
    for setting in own:
        if wrong(setting.value):
            place = f"{name} of {setting.whose}"
            yield Found(severity, place, f"{place} = {setting.value}: {says}", f"{setting.alter} RESET {name};")


def _on(value: str) -> bool:
    return value == "on"


def _off(value: str) -> bool:
    return value in {"off", "false", "no", "0"}


def _not_minus_one(value: str) -> bool:
    return not value.startswith("-")


def _log_statements(facts: Facts) -> Iterator[Found]:
    if not facts.masked:
        return
    written = "statements are logged with their constants, so clear values of masked columns are in the server's log"
    yield from _judge(facts, "log_statement", lambda v: v in {"mod", "all"}, Severity.WARNING, written, "'ddl'")
    for name in ("log_min_duration_statement", "log_min_duration_sample"):
        yield from _judge(facts, name, _not_minus_one, Severity.WARNING, f"slow {written}", "-1")
    yield from _judge(
        facts, "log_transaction_sample_rate", lambda v: float(v) > 0, Severity.WARNING, f"some {written}", "0"
    )


def _log_trees(facts: Facts) -> Iterator[Found]:
    for name in ("debug_print_parse", "debug_print_rewritten", "debug_print_plan"):
        yield from _judge(
            facts, name, _on, Severity.WARNING, "trees of statements are logged, with their constants", "off"
        )


def _log_files(facts: Facts) -> Iterator[Found]:
    collected = facts.database.settings.get("logging_collector") == "on"
    if collected:
        yield from _judge(
            facts,
            "log_file_mode",
            lambda v: int(v, 8) & 0o007 != 0,
            Severity.WARNING,
            "every account of the server's machine reads its log",
            "'0600'",
        )


def _archive(facts: Facts) -> Iterator[Found]:
    def public(value: str) -> bool:
        return any(word in value for word in _PUBLIC_PLACES)

    yield from _judge(
        facts,
        "archive_command",
        public,
        Severity.WARNING,
        "the write-ahead log, masked columns plain, is put where others read it",
        "'... to a directory of the server's account, or encrypted'",
    )


def _log_errors(facts: Facts) -> Iterator[Found]:
    if not facts.masked:
        return
    yield from _judge(
        facts,
        "log_min_error_statement",
        lambda v: v not in {"fatal", "panic"},
        Severity.WARNING,
        "statements that fail are logged with their constants",
        "'fatal'",
    )
    yield from _judge(
        facts,
        "log_error_verbosity",
        lambda v: v != "terse",
        Severity.WARNING,
        "errors are logged with their DETAIL, which quotes rows: Key (phone)=(...) already exists",
        "'terse'",
    )


def _log_parameters(facts: Facts) -> Iterator[Found]:
    if not facts.masked:
        return
    if any(True for _ in _log_statements(facts)):
        yield from _judge(
            facts,
            "log_parameter_max_length",
            lambda v: v != "0",
            Severity.WARNING,
            "statements that are logged are logged with their parameters",
            "0",
        )
    yield from _judge(
        facts,
        "log_parameter_max_length_on_error",
        lambda v: v != "0",
        Severity.WARNING,
        "statements that fail are logged with their parameters",
        "0",
    )


def _auto_explain(facts: Facts) -> Iterator[Found]:
    if facts.masked:
        yield from _judge(
            facts,
            "auto_explain.log_min_duration",
            _not_minus_one,
            Severity.WARNING,
            "auto_explain logs plans with their constants",
            "-1",
        )


def _statements(facts: Facts) -> Iterator[Found]:
    if facts.masked:
        yield from _judge(
            facts,
            "pg_stat_statements.track_utility",
            _on,
            Severity.WARNING,
            "texts of utility statements are kept with their constants",
            "off",
        )


def _passwords(facts: Facts) -> Iterator[Found]:
    yield from _judge(
        facts,
        "password_encryption",
        lambda v: v != "scram-sha-256",
        Severity.WARNING,
        "new passwords are stored so that whoever reads them logs in with them",
        "'scram-sha-256'",
    )


def _tls(facts: Facts) -> Iterator[Found]:
    remote = facts.server_remote
    yield from _judge(
        facts,
        "ssl",
        _off,
        Severity.BAD if remote else Severity.NOTE,
        "the server offers no TLS" + ("" if remote else "; pgveil reaches it without a network, others may not"),
        "on",
    )
    yield from _judge(
        facts,
        "ssl_min_protocol_version",
        lambda v: v not in {"TLSv1.2", "TLSv1.3"},
        Severity.WARNING,
        "the server speaks versions of TLS that are broken",
        "'TLSv1.2'",
    )


def _durability(facts: Facts) -> Iterator[Found]:
    for name in ("fsync", "full_page_writes"):
        yield from _judge(
            facts, name, _off, Severity.BAD, "after a power cut the data may be damaged, sealed values too", "on"
        )
    yield from _judge(
        facts,
        "synchronous_commit",
        _off,
        Severity.WARNING,
        "commits that were acknowledged can be lost in a crash, while the audit log tells of them",
        "on",
    )
    for found in _judge(
        facts, "data_checksums", _off, Severity.NOTE, "a page that the disk damages is not noticed", "on"
    ):
        yield found._replace(fix="stop the server; pg_checksums --enable --pgdata DIRECTORY; start it")


def _wal(facts: Facts) -> Iterator[Found]:
    database = facts.database
    if not database.publications and not database.slots:
        yield from _judge(
            facts,
            "wal_level",
            lambda v: v == "logical",
            Severity.NOTE,
            "the log has what logical replication needs, and nothing here uses it",
            "'replica'",
        )


def _clock(facts: Facts) -> Iterator[Found]:
    ahead = facts.database.clock_ahead
    if abs(ahead) > _CLOCK_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        yield Found(
            Severity.WARNING,
            "clock",
            f"the server's clock is {abs(ahead):.0f} seconds {way} this machine's",
            "run an NTP client on both: timedatectl set-ntp true",
        )


CHECKS: Final = (
    Check(
        "server-version",
        Group.SERVER,
        "The server is of a version that pgveil is tested with",
        "Each version has statements, messages and catalogs of its own; pgveil refuses what it does not know near protected tables.",
        _version,
    ),
    Check(
        "server-encoding",
        Group.SERVER,
        "The database has encoding UTF8",
        "Names are folded and cut by encoding; elsewhere two names could be one, so pgveil refuses such databases.",
        _encoding,
    ),
    Check(
        "log-statements",
        Group.SERVER,
        "The server's log gets no statements that read and write rows",
        "Logs are copied to places that no privilege fences. Sealed values are ciphertext there; masked ones are plain in the statements of those who see them.",
        _log_statements,
    ),
    Check(
        "log-trees",
        Group.SERVER,
        "The server's log gets no trees of statements",
        "debug_print_parse and its like write every constant of every statement.",
        _log_trees,
    ),
    Check(
        "log-files",
        Group.SERVER,
        "Only the server's account, and its group, read the server's log",
        "Whatever gets into the log is read by whoever may open its files.",
        _log_files,
    ),
    Check(
        "archive",
        Group.SERVER,
        "The write-ahead log is archived to no place that others read",
        "It has every row that was ever written, masked columns plain. Only places that are public by their name are known here.",
        _archive,
    ),
    Check(
        "log-errors",
        Group.SERVER,
        "The server's log gets neither statements that fail nor errors' details",
        "A unique violation is enough to put a phone number into the log, in the statement and in the detail.",
        _log_errors,
    ),
    Check(
        "log-parameters",
        Group.SERVER,
        "The server's log gets no parameters of statements",
        "Drivers send values as parameters: what is logged with them has the values of masked columns.",
        _log_parameters,
    ),
    Check(
        "auto-explain",
        Group.SERVER,
        "auto_explain logs no plans",
        "A plan shows the constants of its conditions.",
        _auto_explain,
    ),
    Check(
        "statement-statistics",
        Group.SERVER,
        "pg_stat_statements keeps no constants",
        "Constants of queries are replaced there; those of utility statements are not on every version, and members of pg_read_all_stats see them.",
        _statements,
    ),
    Check(
        "password-encryption",
        Group.SERVER,
        "New passwords are stored for SCRAM",
        "An md5 hash logs in as it is; a SCRAM verifier does not.",
        _passwords,
    ),
    Check(
        "server-tls-offered",
        Group.SERVER,
        "The server offers TLS 1.2 or newer",
        "Without it, nothing between pgveil and the server, or past pgveil, is encrypted.",
        _tls,
    ),
    Check(
        "durability",
        Group.SERVER,
        "What the server has acknowledged survives a crash",
        "pgveil's record of a write is durable before the write; a server that forgets the write makes the record a lie.",
        _durability,
    ),
    Check(
        "wal-level",
        Group.SERVER,
        "Logical replication is off where nothing uses it",
        "With wal_level = logical anybody who may replicate can begin to stream rows.",
        _wal,
    ),
    Check(
        "clock",
        Group.SERVER,
        "The server's clock and this machine's agree",
        "Audit records carry pgveil's clock, rows the server's: an incident is put together from both.",
        _clock,
    ),
)
