"""Two whole systems for doctor to look at: one that is set up well, and one with everything wrong that a system can have at once."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from doctor.host import swapped_to
from keys.backup import back_up, notes_of
from lifecycle.demo.bank import generate, rules_yaml
from lifecycle.demo.postgres import Postgres, free_port
from tests.e2e.world import prepare, stop_process, wait_ready, write_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE: Final = "bank"
PASSWORD: Final = "known-to-the-tests"
LOGINS: Final = ("app", "teller", "agent", "analyst", "dba", "pgveil_catalog", "postgres")
COLUMNS: Final = "100"
REPOSITORY: Final = Path(__file__).parents[2]

GOOD_SETTINGS: Final = {
    "ssl": "on",
    "log_statement": "ddl",
    "log_min_error_statement": "fatal",
    "log_error_verbosity": "terse",
    "password_encryption": "scram-sha-256",
}
GOOD_HBA: Final = """\
hostssl bank pgveil_catalog                     127.0.0.1/32 scram-sha-256
hostssl bank app,teller,agent,analyst,dba       127.0.0.1/32 scram-sha-256
hostssl all  postgres                           127.0.0.1/32 scram-sha-256
host    all  all                                all          reject
"""
BAD_SETTINGS: Final = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_parameter_max_length_on_error": "-1",
    "password_encryption": "md5",
    "session_preload_libraries": "auto_explain",
    "shared_preload_libraries": "pg_stat_statements",
    "auto_explain.log_min_duration": "0",
    "pg_stat_statements.track_utility": "on",
    "debug_print_parse": "on",
    "debug_pretty_print": "off",
    "logging_collector": "on",
    "log_directory": "log",
    "log_file_mode": "0644",
    "archive_mode": "on",
    "archive_command": "cp %p /tmp/archive/%f",
}
BAD_HBA: Final = """\
host    all         postgres  127.0.0.1/32   trust
host    all         all       10.0.0.0/8     md5
host    all         all       all            scram-sha-256
hostssl all         app       192.0.2.0/24   cert
host    replication all       10.0.0.0/8     scram-sha-256
"""
# What somebody does to a system in a year.
BAD_SQL: Final = """
CREATE ROLE trainee LOGIN;
GRANT USAGE ON SCHEMA public TO trainee;
GRANT SELECT (phone), UPDATE (phone) ON customers TO trainee;
GRANT INSERT ON customers TO PUBLIC;
CREATE VIEW phone_book AS SELECT name, phone FROM customers;
GRANT SELECT ON phone_book TO trainee;
CREATE FUNCTION phone_of(bigint) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT phone FROM customers WHERE id = $1';
CREATE MATERIALIZED VIEW by_branch AS SELECT branch, max(income) AS most FROM customers GROUP BY branch;
CREATE FUNCTION note_phone() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN NEW.body := (SELECT phone FROM customers WHERE id = NEW.customer_id); RETURN NEW; END';
CREATE TRIGGER note_phone BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION note_phone();
CREATE INDEX by_phone ON customers (lower(phone));
CREATE TABLE phones_before (customer bigint, phone_was text);
GRANT SELECT ON phones_before TO trainee;
CREATE FUNCTION keep_phone() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO phones_before VALUES (OLD.id, OLD.phone); RETURN NULL; END';
CREATE TRIGGER keep_phone AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION keep_phone();
CREATE TRIGGER watch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE customers ADD COLUMN passport_number text;
ALTER TABLE customers ADD COLUMN earns text GENERATED ALWAYS AS (income::text) STORED;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC;
ALTER ROLE dba SUPERUSER;
ALTER ROLE agent REPLICATION CREATEROLE BYPASSRLS;
GRANT pg_read_all_data, pg_monitor TO agent;
ALTER TABLE accounts OWNER TO analyst;
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER ROLE teller PASSWORD 'md5 is not what it was';
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE EXTENSION pageinspect;
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE mirror (id bigint, phone text) SERVER elsewhere;
GRANT SELECT ON mirror TO trainee;
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO agent;
GRANT SELECT ON pg_authid TO trainee;
GRANT SET ON PARAMETER log_statement TO agent;
GRANT CREATE ON SCHEMA public TO PUBLIC;
CREATE TABLE customers_of_last_year AS SELECT * FROM customers;
GRANT SELECT ON customers_of_last_year TO PUBLIC;
"""


@dataclass
class System:
    """One of them. `account`: whom pgveil and doctor run as; None: ourselves."""

    home: Path
    pg: Postgres
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    account: int | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.home / "pgveil.yaml"

    @property
    def rules(self) -> Path:
        """The rules file."""
        return self.home / "rules.yaml"

    def url(self, login: str, *, password: bool = True) -> str:
        """A connection URL, straight to the server."""
        secret = f":{PASSWORD}" if password else ""
        return f"postgresql://{login}{secret}@localhost:{self.pg.port}/{DATABASE}"

    def doctor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pgveil doctor` with this system's configuration, as a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", "doctor", "--config", str(self.config), *arguments],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": COLUMNS, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            **self._as_account(),
        )

    def document(self, *arguments: str) -> dict[str, Any]:
        """The same as values."""
        done = self.doctor("--json", *arguments)
        assert done.returncode in {0, 1, 3}, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def findings(self, *arguments: str) -> list[dict[str, Any]]:
        """What was found."""
        found: list[dict[str, Any]] = self.document(*arguments)["findings"]
        return found

    def sql(self, text: str, database: str = DATABASE) -> str:
        """Statements of a superuser's."""
        os.environ["PGPASSWORD"] = PASSWORD
        try:
            return self.pg.psql(text, database)
        finally:
            del os.environ["PGPASSWORD"]

    def apply(self) -> None:
        """`pgveil apply`."""
        subprocess.run(
            [sys.executable, "-m", "proxy", "apply", "--yes", "--rules", self.rules, "--keys", self.home / "keys"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PGVEIL_DATABASE": self.url("postgres")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=True,
        )

    def pg_values(self) -> set[str]:
        """What the bank's masked columns hold, long enough to be told from other words."""
        query = "SELECT v FROM customers, unnest(ARRAY[phone, email, name, address]) v WHERE length(v) > 6"
        return set(self.sql(query).splitlines())

    def start(self) -> None:
        """`pgveil run`, until it is ready."""
        log = self.home / "pgveil.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "--config", str(self.config)],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **self._as_account(),
            )
        wait_ready(self.metrics_port, self.process, log)

    def stop(self) -> None:
        """SIGTERM, and the end that follows."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            stop_process(process)

    def give(self) -> None:
        """Give the files to the account that pgveil runs as."""
        if self.account is not None:
            for path in (self.home, *self.home.rglob("*")):
                if "postgres" not in path.parts[len(self.home.parts) :]:
                    os.chown(path, self.account, -1)

    def _as_account(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {"user": self.account, "group": pwd.getpwuid(self.account).pw_gid, "extra_groups": [], "cwd": self.home}


def own_account() -> int | None:
    """An account without rights, where we are root and it can run this Python: pgveil that runs as root is one of the things that doctor finds."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    try:
        subprocess.run([sys.executable, "-c", "import proxy"], user=nobody.pw_uid, cwd=REPOSITORY, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return nobody.pw_uid


@contextmanager
def good_system(home: Path) -> Iterator[System]:
    """A bank behind a running pgveil, on PostgreSQL 15 with TLS, as docs/doctor.md wants it. PostgresUnavailableError where it is not."""
    tls = home / "tls"
    tls.mkdir(parents=True)
    write_certificate(tls)
    pg = Postgres.make("15", root=home / "postgres", durable=True, checksums=True)
    with pg:
        for name in ("server.crt", "server.key"):
            shutil.copy(tls / name, pg.data / name)
            os.chown(pg.data / name, pg.data.stat().st_uid, pg.data.stat().st_gid)
            (pg.data / name).chmod(0o600)
        system = System(home, pg, account=own_account())
        build(system)
        roles = "".join(f"ALTER ROLE {login} PASSWORD '{PASSWORD}';\n" for login in LOGINS if login != "pgveil_catalog")
        pg.psql(f"CREATE ROLE pgveil_catalog LOGIN PASSWORD '{PASSWORD}';\n{roles}")
        pg.stop()
        pg.settings, pg.hba = GOOD_SETTINGS, GOOD_HBA
        pg.start()
        configure_well(system)
        system.give()
        system.start()
        try:
            yield system
        finally:
            system.stop()


def configure_well(system: System) -> None:
    """The files of a system that is set up well."""
    # What the machine of the tests is, and not the system on it.
    machine = {"memory-on-disk": bool(swapped_to()), "account": os.geteuid() == 0 and system.account is None}
    accepted = "".join(
        f'  - {{code: {code}, reason: "the machine of these tests"}}\n' for code, is_so in machine.items() if is_so
    )
    system.home.chmod(0o711)
    (system.home / "accepted.yaml").write_text(
        'accepted:\n  - {code: key-backup, reason: "copy in the safe, tried in May", by: "j. doe", until: 2099-05-31}\n'
        '  - {code: key-place, reason: "one disk, two backups"}\n'
        '  - {code: login-superuser, object: postgres, reason: "break-glass only"}\n' + accepted
    )
    (system.home / "catalog.dsn").touch(mode=0o600)
    (system.home / "catalog.dsn").write_text(
        system.url("pgveil_catalog") + f"?sslmode=verify-full&sslrootcert={system.home}/tls/server.crt"
    )
    system.config.touch(mode=0o600)
    system.config.write_text(
        f"""\
workers: 2
listen: {{address: 127.0.0.1, port: {system.port}}}
tls: {{certificate: tls/server.crt, key: tls/server.key, required: true}}
server: {{hosts: "localhost:{system.pg.port}", sslmode: verify-full, root_certificate: tls/server.crt}}
catalog: {{dsn_file: catalog.dsn}}
metrics: {{port: {system.metrics_port}}}
limits: {{connections: 200}}
calculator: {{enabled: off}}
doctor: {{accepted: accepted.yaml, certificate_days: 10}}
"""
    )
    (system.home / "audit").mkdir(mode=0o700)
    back_up_keys(system)


def back_up_keys(system: System) -> None:
    """What is done after each `apply` that makes keys; cheap to guess, and so quick."""
    target = system.home / f"keys-{len(notes_of(system.home / 'keys'))}.backup"
    back_up(system.home / "keys", target, b"correct horse battery", random=os.urandom, cost=2)


@contextmanager
def bad_system(home: Path) -> Iterator[System]:
    """The same bank, a year later, with nobody looking. pgveil does not run."""
    pg = Postgres.make("15", root=home / "postgres", settings={"wal_level": "logical"})
    with pg:
        system = System(home / "public_html", pg)
        system.home.mkdir(parents=True)
        build(system)
        spoil_database(system)
        pg.stop()
        pg.settings, pg.hba = {"wal_level": "logical", **BAD_SETTINGS}, BAD_HBA
        pg.start()
        spoil_files(system)
        yield system


def spoil_database(system: System) -> None:
    """What is wrong in the database."""
    pg = system.pg
    pg.psql("SET password_encryption = 'md5';" + BAD_SQL, DATABASE)
    # A sealed value that was moved here from another column does not open.
    pg.psql(
        "UPDATE customers SET id_number = (SELECT pan FROM cards LIMIT 1)::text::pgveil.sealed WHERE id = 1", DATABASE
    )
    pg.psql("COMMENT ON VIEW pgveil.applied IS 'of last year'", DATABASE)
    pg.psql("SELECT pg_create_logical_replication_slot('tap', 'pgoutput')", DATABASE)
    pg.psql("CREATE DATABASE source", "postgres")
    pg.psql(
        "CREATE TABLE customers (id bigint PRIMARY KEY, phone text); CREATE PUBLICATION feed FOR TABLE customers",
        "source",
    )
    pg.psql(
        f"CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port={pg.port} dbname=source user=postgres' "
        "PUBLICATION feed WITH (create_slot = false, enabled = false, slot_name = NONE)",
        DATABASE,
    )


def spoil_files(system: System) -> None:
    """What is wrong with pgveil's files and settings."""
    home = system.home
    write_certificate(home)
    (home / "server.key").chmod(0o644)
    (home / ".git").mkdir()
    (home / "keys").chmod(0o755)
    (home / "sockets").mkdir()
    (home / "sockets").chmod(0o777)
    (home / "disk").mkdir()
    chain = home / "audit" / "w0"
    chain.mkdir(parents=True)
    (chain / "00000001.jsonl").write_text('{"seq": 1, "event": {"kind": "login"}}\n')
    (home / "audit").chmod(0o777)
    system.rules.write_text(
        system.rules.read_text().replace("logins: [app]", "logins: [app, app]").replace("[dba]", "[dba, ghost]")
    )
    system.rules.chmod(0o666)
    (home / "accepted.yaml").write_text(
        'accepted:\n  - {code: login-owner, object: analyst, reason: "until the move", until: 2026-01-31}\n'
    )
    system.config.write_text(
        f"""\
mode: observe
workers: 1
listen: {{address: 0.0.0.0, port: {system.port}, unix_directory: sockets}}
tls: {{certificate: server.crt, key: server.key}}
server: {{hosts: "db.invalid:5432", sslmode: prefer, certificate: server.crt, key: server.key}}
catalog: {{dsn: "postgresql://postgres:{PASSWORD}@localhost:{system.pg.port}/{DATABASE}"}}
metrics: {{address: 0.0.0.0, port: {system.metrics_port}}}
calculator: {{enabled: on, directory: disk, allow_disk: true}}
doctor: {{accepted: accepted.yaml, addresses: [10.1.2.3], certificate_days: 365}}
"""
    )
    system.config.chmod(0o644)


def build(system: System) -> None:
    """The bank in a database, keys made, rules applied."""
    system.pg.psql(f"CREATE DATABASE {DATABASE}")
    asyncio.run(prepare(system.pg, system.home, DATABASE, generate(customers=30), rules_text=rules_yaml()))
