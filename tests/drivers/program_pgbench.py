"""pgbench 15: a script of reads and writes, by each of its protocols, and pipelined."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.demo.postgres import find_bin_dir
from tests.drivers.program_psql import environment, psql

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

VERSION = "15"
LACKING: Mapping[str, str] = dict.fromkeys(("tls_off", "tls_require", "tls_verify_full"), "it is libpq, as psql")
READS = r"""
\set id random(1, 19)
select name, phone, card, born from {s}.people where id = :id \gset
\if :id > 100
select nosuch;
\endif
select count(*) as n from {s}.people where id <= :id \gset
"""
WRITES = r"""
\set id 20000 + :client_id
begin;
insert into {s}.people (id, name, card, level) values (:id, 'Bench', :id, 1);
update {s}.people set level = :client_id where id = :id;
select level as was from {s}.people where id = :id \gset
delete from {s}.people where id = :id and level = :was;
end;
"""
PIPELINED = r"""
\set id random(1, 19)
\startpipeline
select name, card from {s}.people where id = :id;
select card from {s}.people where id = :id + 1;
select 1;
\endpipeline
"""


def pgbench(target: Target, script: str, protocol: str, **options: str) -> Any:
    words = {
        "host": target.host,
        "port": str(target.port),
        "dbname": target.database,
        "user": target.user,
        "sslmode": "verify-full",
        "sslrootcert": str(target.root_certificate),
        **options,
    }
    place = " ".join(f"{k}={v}" for k, v in words.items() if v)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "script.sql"
        file.write_text(script.replace("{s}", target.schema))
        done = subprocess.run(
            [
                str(find_bin_dir("15") / "pgbench"),
                "-n",
                "-M",
                protocol,
                "-c",
                "2",
                "-j",
                "1",
                "-t",
                "5",
                "-f",
                str(file),
                place,
            ],
            capture_output=True,
            timeout=100,
            check=False,
            env=environment(target),
        )
    kept = ("number of", "query mode", "transaction type")
    shown = [line for line in done.stdout.decode().splitlines() if line.startswith(kept) and ": /" not in line]
    errors = sorted({re.sub(r"client \d+", "client N", line) for line in done.stderr.decode().splitlines()[1:]})
    return [done.returncode, shown, errors]


def by(protocol: str, *, pipelined: bool = False, **options: str) -> Observe:
    def run(target: Target) -> Any:
        seen = [pgbench(target, READS, protocol, **options)]
        if target.user == "clerk":
            seen.append(pgbench(target, WRITES, protocol, **options))
            seen.append(psql(target, f"select count(*) from {target.schema}.people where id >= 20000;"))
        if pipelined:
            seen.append(pgbench(target, PIPELINED, protocol, **options))
        return seen

    return run


OBSERVE: Mapping[str, Observe] = {
    "simple": by("simple"),
    "prepared": by("prepared"),
    "pipeline": by("prepared", pipelined=True),
    "modes": by("extended", pipelined=True),
}
