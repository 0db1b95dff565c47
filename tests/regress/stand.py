"""A cluster as pg_regress would make it, with protected tables in the same database; pgveil in front where it is wanted.

Both sides of a comparison are made alike, `pgveil apply` included, so that the only difference is who psql talks to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import asyncpg
import psycopg

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.apply import execute, make_plan
from lifecycle.demo.postgres import Postgres, free_port
from rules.load import load_rules
from tests.e2e.world import start_pgveil, stop_process, wait_ready

if TYPE_CHECKING:
    from tests.regress.source import Source

DATABASE: Final = "regression"
FILE_SECONDS: Final = 600
_CUT: Final = b"\n(psql was ended: it had run for too long)\n"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is protected in the database beside the suite's own tables. `probe` selects a sealed value that is `clear`."""

    sql: str
    rules: str
    probe: str
    clear: str


_ROLES: Final = """roles:
  suite: {logins: [postgres], levels: {core: clear, important: clear}}
  reader: {logins: [vault_reader], levels: {core: masked, important: masked}}
"""
_READER: Final = """
CREATE ROLE vault_reader LOGIN;
GRANT USAGE ON SCHEMA vault TO vault_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA vault TO vault_reader;
"""
# With column names that the suite uses everywhere, and table names that it doesn't.
_ELSEWHERE: Final = Setup(
    """
CREATE SCHEMA vault;
CREATE TABLE vault.customers (id int8 PRIMARY KEY, name text NOT NULL, phone text, number text UNIQUE);
CREATE TABLE vault.cards (id int8 PRIMARY KEY, customer_id int8 REFERENCES vault.customers, pan varchar(19) NOT NULL, b text);
CREATE VIEW vault.phone_book AS SELECT id, name, phone FROM vault.customers;
CREATE FUNCTION vault.phone_of(int8) RETURNS text STABLE LANGUAGE sql AS 'SELECT phone FROM vault.customers WHERE id = $1';
INSERT INTO vault.customers SELECT n, 'Ann No. ' || n, '138' || n + 10000000, 'N-' || n FROM generate_series(1, 200) n;
INSERT INTO vault.cards SELECT n, n, '62' || n + 1000000000000000, 'b' FROM generate_series(1, 200) n;
"""
    + _READER,
    """version: 1
tables:
  vault.customers:
    subject: id
    columns:
      name: {level: important, protection: masked, mask: name}
      phone: {level: important, protection: masked, mask: phone}
      number: {level: core, protection: sealed, mode: deterministic, type: text, mask: id_number}
  vault.cards:
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), mask: bank_card}
      b: {level: core, protection: sealed, mode: randomized, type: text}
"""
    + _ROLES,
    "SELECT number FROM vault.customers WHERE id = 7",
    "N-7",
)
# Tables that bear the names of the suite's own, in another schema: every statement that uses one of these is analysed.
_NAMES: Final = (
    "tenk1",
    "onek",
    "int4_tbl",
    "int8_tbl",
    "text_tbl",
    "emp",
    "person",
    "foo",
    "bar",
    "t1",
    "t2",
    "t",
    "test",
)
_NAMESAKES: Final = Setup(
    "CREATE SCHEMA vault;\n"
    + "".join(
        f"CREATE TABLE vault.{name} (id int8 PRIMARY KEY, name text, f1 text, a text, unique1 text);\n"
        f"INSERT INTO vault.{name} VALUES (1, 'Ann', 'f', 'a', 'u');\n"
        for name in _NAMES
    )
    + _READER,
    "version: 1\ntables:\n"
    + "".join(
        f"""  vault.{name}:
    columns:
      name: {{level: important, protection: masked, mask: name}}
      f1: {{level: core, protection: sealed, mode: deterministic, type: text, domain: f}}
      a: {{level: core, protection: sealed, mode: randomized, type: text}}
      unique1: {{level: core, protection: sealed, mode: deterministic, type: text}}
"""
        for name in _NAMES
    )
    + _ROLES,
    "SELECT f1 FROM vault.tenk1",
    "f",
)
SETUPS: Final = MappingProxyType({"elsewhere": _ELSEWHERE, "namesakes": _NAMESAKES})

# What pg_regress itself sets for a database and a cluster of its own (pg_regress.c).
_DATABASE_SQL: Final = "".join(
    f"ALTER DATABASE {DATABASE} SET {name} TO '{value}';"
    for name, value in (
        *((f"lc_{what}", "C") for what in ("messages", "monetary", "numeric", "time")),
        ("bytea_output", "hex"),
        ("timezone_abbreviations", "Default"),
    )
)
_SETTINGS: Final = {"max_prepared_transactions": "2", "shared_buffers": "128MB"}
_ENVIRONMENT: Final = {
    "PGTZ": "America/Los_Angeles",
    "PGDATESTYLE": "Postgres, MDY",
    "PGOPTIONS": "-c intervalstyle=postgres_verbose",
    "LC_MESSAGES": "C",
    "PGSSLMODE": "disable",
    "PG_DLSUFFIX": ".so",
}


@dataclass
class Stand:
    """One cluster. `port` is where psql connects: the server itself, or pgveil."""

    pg: Postgres
    home: Path
    port: int
    setup: Setup
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, source: Source, *, through: bool, setup: str = "elsewhere") -> Self:
        """Start everything. `through`: with pgveil in front."""
        # Names of one length, for tables in which a path is printed.
        home = Path(tempfile.mkdtemp(prefix="pgveil-regress-"))
        (home / "pg").mkdir()
        pg = Postgres(source.version, home / "pg", free_port(), source.bin_dir, _SETTINGS)
        stand = cls(pg, home, pg.port, SETUPS[setup])
        try:
            stand._build(source)
            if through:
                stand._put_in_front()
        except BaseException:
            stand.close()
            raise
        return stand

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, and leave nothing."""
        try:
            if self.process is not None:
                stop_process(self.process)
        finally:
            self.pg.destroy()
            shutil.rmtree(self.home, ignore_errors=True)

    def run(self, script: Path) -> bytes:
        """What `psql -a -q` prints of a script, with the stand's own paths and ports taken out."""
        name = script.stem
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_")) and k != "LANGUAGE"}
        environment |= _ENVIRONMENT | {
            "PGHOST": self.pg.host,
            "PGPORT": str(self.port),
            "PGUSER": self.pg.superuser,
            "PGAPPNAME": f"pg_regress/{name}",
            "PG_ABS_SRCDIR": str(self.home / "source"),
            "PG_ABS_BUILDDIR": str(self.home / "build"),
            "PG_LIBDIR": str(self.home / "lib"),
        }
        command = [str(self.pg.bin_dir / "psql"), "-X", "-a", "-q", "-d", DATABASE]
        command += ["-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
        with script.open("rb") as text:
            try:
                done = subprocess.run(
                    command,
                    stdin=text,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=self.home / "build",
                    timeout=FILE_SECONDS,
                    check=False,
                )
                output = done.stdout
            except subprocess.TimeoutExpired as late:
                output = (late.stdout or b"") + _CUT
        return output.replace(str(self.home).encode(), b"HOME").replace(f"port {self.port} ".encode(), b"port PORT ")

    def opens(self) -> bool:
        """Whether whoever answers at `port` opens sealed values."""
        url = f"postgresql://{self.pg.superuser}@{self.pg.host}:{self.port}/{DATABASE}?sslmode=disable"
        with psycopg.connect(url) as connection:
            row = connection.execute(self.setup.probe.encode()).fetchone()
        assert row is not None
        return bool(row[0] == self.setup.clear)

    def _build(self, source: Source) -> None:
        self.pg.start()
        self.home.chmod(0o755)
        shutil.copytree(source.library, self.home / "lib")
        shutil.copytree(source.directory / "data", self.home / "source" / "data")
        results = self.home / "build" / "results"
        results.mkdir(parents=True)
        results.chmod(0o777)
        self.pg.psql(f"CREATE DATABASE {DATABASE} TEMPLATE = template0")
        self.pg.psql(_DATABASE_SQL)
        self.pg.psql(self.setup.sql, DATABASE)
        (self.home / "rules.yaml").write_text(self.setup.rules)
        asyncio.run(self._apply())

    async def _apply(self) -> None:
        keys = self.home / "keys"
        keys.mkdir(mode=0o700)
        ring = KeyRing.initialise(keys, FileMasterKey.generate(keys / "master.key", os.urandom))
        rules = load_rules(self.home / "rules.yaml")
        connection = await asyncpg.connect(self.pg.dsn(DATABASE))
        try:
            plan = await make_plan(connection, rules, ring)
            await execute(connection, plan, rules, ring, random=os.urandom, progress=lambda *_: None)
        finally:
            await connection.close()

    def _put_in_front(self) -> None:
        self.port, metrics = free_port(), free_port()
        config, log = self.home / "pgveil.yaml", self.home / "pgveil.log"
        config.write_text(
            "workers: 1\n"
            f"listen: {{address: 127.0.0.1, port: {self.port}}}\n"
            f"server: {{hosts: '127.0.0.1:{self.pg.port}', sslmode: disable}}\n"
            f"catalog: {{dsn: '{self.pg.dsn(DATABASE)}'}}\n"
            f"metrics: {{port: {metrics}}}\n"
        )
        self.process = start_pgveil(config, log)
        wait_ready(metrics, self.process, log)
