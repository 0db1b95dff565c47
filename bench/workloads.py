"""What is run against the targets: pgbench's own select-only script, and point reads of two protected columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.targets import LOGIN, BenchError, Target, run
from lifecycle.demo.bank import generate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifecycle.demo.postgres import Postgres

ROWS: Final = 1000
SCALE: Final = 5
CLIENTS: Final = (1, 16)
# Raw decryption under a fixed key: pgp_sym_decrypt derives one from a passphrase for each value, slowly on purpose.
_KEY: Final = "'\\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f'"

DOMAINS: Final = ("bench_pan", "bench_id")
RULES: Final = """\
version: 1
tables:
  public.bench_sealed:
    subject: id
    columns:
      pan: {level: core, protection: sealed, mode: deterministic, type: varchar(19), domain: bench_pan, mask: bank_card}
      id_number: {level: core, protection: sealed, mode: deterministic, type: varchar(18), domain: bench_id, mask: id_number}
roles:
  bench:
    logins: [bench]
    levels: {core: clear, important: clear, general: clear}
"""

_READ: Final = "\\set id random(1, {rows})\nSELECT {columns} FROM {table} WHERE id = :id;\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """One thing to do. `scripts`: pgbench script by target, None for select-only. Ratios are to target `direct`."""

    name: str
    mode: str
    clients: int
    scripts: dict[str, str | None]

    def command(self, server: Postgres, target: Target, seconds: int, home: Path) -> list[str]:
        """The pgbench command for one cell."""
        script = self.scripts[target.name]
        if script is None:
            what = ["-S"]
        else:
            path = home / f"{self.name}.{target.name}.sql"
            path.write_text(script)
            what = ["-f", str(path)]
        size = ["-c", str(self.clients), "-j", "1", "-T", str(seconds)]
        return [str(server.bin_dir / "pgbench"), "-n", "-M", self.mode, *size, *what, target.url]


def workloads(only: str, *, pgcrypto: bool) -> list[Workload]:
    """All of them whose name has `only` in it. Raises BenchError when none has."""
    found = [w for w in _all(pgcrypto=pgcrypto) if only in w.name]
    if not found:
        names = ", ".join(w.name for w in _all(pgcrypto=pgcrypto))
        raise BenchError(f"no workload has {only!r} in its name; there are: {names}")
    return found


def _all(*, pgcrypto: bool) -> Iterator[Workload]:
    select: dict[str, str | None] = dict.fromkeys(("direct", "pgbouncer", "forwarder", "pgveil"))
    for mode in ("prepared", "simple"):
        for clients in CLIENTS:
            yield Workload(f"select-only-{mode}-{clients}", mode, clients, select)
    plain = _READ.format(rows=ROWS, columns="pan, id_number", table="bench_plain")
    sealed: dict[str, str | None] = {
        "direct": plain,
        "pgbouncer": plain,
        "forwarder": plain,
        "pgveil": _READ.format(rows=ROWS, columns="pan, id_number", table="bench_sealed"),
    }
    if pgcrypto:
        opened = ", ".join(f"convert_from(decrypt({c}, {_KEY}, 'aes'), 'UTF8')" for c in ("pan", "id_number"))
        sealed["pgcrypto"] = _READ.format(rows=ROWS, columns=opened, table="bench_pgcrypto")
    for clients in CLIENTS:
        yield Workload(f"sealed-read-prepared-{clients}", "prepared", clients, sealed)


def prepare(server: Postgres, database: str) -> bool:
    """pgbench's tables, the plain twin, the table to be sealed (empty); whether pgcrypto is there to compare with."""
    server.psql(
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{LOGIN}') THEN CREATE ROLE {LOGIN} LOGIN; END IF; END $$;"
    )
    run([str(server.bin_dir / "pgbench"), "-i", "-q", "-s", str(SCALE), server.dsn(database)])
    server.psql(
        "CREATE TABLE bench_plain (id bigint PRIMARY KEY, pan varchar(19), id_number varchar(18));"
        f"INSERT INTO bench_plain VALUES {_values()}; CREATE TABLE bench_sealed (LIKE bench_plain INCLUDING ALL);"
        f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {LOGIN}; ANALYZE;",
        database,
    )
    there = server.psql("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'", database).strip() == "1"
    if there:
        server.psql(
            "CREATE EXTENSION pgcrypto; CREATE TABLE bench_pgcrypto (id bigint PRIMARY KEY, pan bytea, id_number bytea);"
            f"INSERT INTO bench_pgcrypto SELECT id, encrypt(pan::bytea, {_KEY}, 'aes'), encrypt(id_number::bytea, {_KEY}, 'aes') FROM bench_plain;"
            f"GRANT SELECT ON bench_pgcrypto TO {LOGIN}; ANALYZE bench_pgcrypto;",
            database,
        )
    return there


def seal(server: Postgres, target: Target) -> None:
    """Fill the sealed table through pgveil, and see that the server holds ciphertext and pgveil gives the plain values back."""
    psql = [str(server.bin_dir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d"]
    run([*psql, target.url, "-f", "-"], f"INSERT INTO bench_sealed (id, pan, id_number) VALUES {_values()};\n")
    server.psql("ANALYZE bench_sealed", target.database)
    ask = "SELECT id, pan, id_number FROM {} ORDER BY id"
    plain = run([*psql, server.dsn(target.database), "-c", ask.format("bench_plain")])
    stored = run([*psql, server.dsn(target.database), "-c", ask.format("bench_sealed")])
    shown = run([*psql, target.url, "-c", ask.format("bench_sealed")])
    if shown != plain or any(line.split("|")[1] in stored for line in plain.splitlines()):
        raise BenchError("the sealed table is not what it should be: nothing was measured")


def _values() -> str:
    bank = generate(1, ROWS)
    pans, numbers = bank.tables["cards"].column("pan"), bank.tables["customers"].column("id_number")
    rows = enumerate(zip((pans * 2)[:ROWS], numbers, strict=True), start=1)
    return ", ".join(f"({i}, '{pan}', '{number}')" for i, (pan, number) in rows)
