"""psql 15: what a person and a script do with it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from lifecycle.demo.postgres import find_bin_dir
from tests.drivers.checks import FAILING
from tests.drivers.ground import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.drivers.checks import Observe
    from tests.drivers.ground import Target

VERSION = "15"
LACKING: Mapping[str, str] = {
    "tls_direct": "`sslnegotiation` came with psql 17",
    "prepared": "`\\bind` came with psql 16",
    "binary": "psql shows text only",
    "describe": "see `introspection`",
}


def program(target: Target, *arguments: str, **options: str) -> list[str]:
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
    return [str(find_bin_dir("15") / "psql"), "-X", "-d", place, *arguments]


def environment(target: Target) -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": target.password, "LC_ALL": "C.UTF-8", "PGOPTIONS": ""}


def psql(target: Target, script: str, *arguments: str, **options: str) -> list[Any]:
    done = subprocess.run(
        program(target, *(arguments or ("-At",)), "-f", "-", **options),
        input=script.encode(),
        capture_output=True,
        timeout=60,
        check=False,
        env=environment(target),
    )
    errors = done.stderr.decode().replace(f"port {target.port} ", "port N ").splitlines()
    # Where in the server's own source an error was raised; pgveil's have no such place. Quoted lines are cut by the schema's length.
    errors = [line for line in errors if not line.startswith(("LOCATION:", "LINE ", "    "))]
    return [done.returncode, done.stdout.decode().splitlines(), errors]


def script(text: str, *arguments: str, **options: str) -> Observe:
    """A check that is one script. {s}: the schema; {columns}: those that the login sees."""

    def run(target: Target) -> Any:
        columns = ", ".join(c for c in COLUMNS if c != "essay" or target.user == "clerk")
        return psql(target, text.replace("{s}", target.schema).replace("{columns}", columns), *arguments, **options)

    return run


def each(*texts: str) -> Observe:
    """Several scripts, each by a psql of its own."""
    return lambda target: [script(text)(target) for text in texts]


def scram(target: Target) -> Any:
    done = subprocess.run(
        program(target, "-c", "select 1"),
        capture_output=True,
        timeout=60,
        check=False,
        env={**environment(target), "PGPASSWORD": "wrong"},
    )
    return [done.returncode, done.stderr.decode().rsplit("failed:", 1)[-1]]


def wrong_authority(target: Target) -> Any:
    found = psql(target, "select 1", sslrootcert=str(target.root_certificate.with_name("other.crt")))
    return [found[0], found[2][0].rsplit(":", 1)[-1]]


def cancel(target: Target) -> Any:
    """Ctrl-C."""
    process = subprocess.Popen(
        program(target, "-At", application_name="cancelled", options=""),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(target),
        start_new_session=True,
    )
    assert process.stdin is not None
    asked = f"select pg_sleep(60);\nselect name from {target.schema}.people where id = 1;\n"

    def when_running() -> None:
        look = "select count(*) from pg_stat_activity where application_name = 'cancelled' and wait_event = 'PgSleep'"
        while psql(target, look)[1] != ["1"]:
            pass
        process.send_signal(signal.SIGINT)

    thread = threading.Thread(target=when_running)
    thread.start()
    out, error = process.communicate(asked.encode(), timeout=60)
    thread.join()
    return [out.decode(), error.decode()]


def copy_out(target: Target) -> Any:
    names = "id, name, phone, card, credit, born, note"
    source = f"(select {names} from {target.schema}.people order by id)"
    return [
        psql(target, f"\\copy {source} to stdout {form}")
        for form in ("", "csv header", "(format csv, force_quote *, delimiter ';')")
    ]


def copy_in(target: Target) -> Any:
    s = target.schema
    return psql(
        target,
        f"begin;\n\\copy {s}.people (id, name, card, born) from stdin csv\n9300,One,7100000000000001,2001-02-03\n9301,Two,,\n\\.\n"
        f"copy {s}.people (id, name, level) from stdin;\n9302\tThree\t5\n\\.\n"
        f"select id, card, born, level from {s}.people where id >= 9300 order by id;\n"
        f"copy {s}.people (id, name, born) from stdin;\n9303\tbad\tnever\n\\.\nrollback;\n",
    )


def large_object(target: Target) -> Any:
    made = psql(
        target,
        f"\\lo_import {target.root_certificate} 'a comment'\n\\set oid :LASTOID\n"
        "select length(lo_get(:oid)) > 100, lo_get(:oid, 0, 10);\n\\lo_export :oid /dev/null\n\\lo_unlink :oid\n",
    )
    return [made[0], [line.split()[0] for line in made[1]], made[2]]


def big(target: Target) -> Any:
    text = "漢字 and some more, " * 20_000
    s = target.schema
    return psql(
        target,
        f"begin;\ninsert into {s}.people (id, name, essay) values (9500, '{text}', '{text}');\n"
        f"select name = repeat('漢字 and some more, ', 20000), length(name), essay from {s}.people where id = 9500;\nrollback;\n",
    )


READ = "from {s}.people where id in (1, 2, 3, 20) order by id"
OBSERVE: Mapping[str, Observe] = {
    "tls_off": script("select current_user;", sslmode="disable"),
    "tls_require": script("select current_user;", sslmode="require", sslrootcert=""),
    "tls_verify_full": script("select current_user;"),
    "tls_wrong_authority": wrong_authority,
    "scram": scram,
    "channel_binding": script("select current_user;", channel_binding="require"),
    "simple": each(
        "select 1\\; select name, card from {s}.people where id = 3\\; select 2;",
        "select id, name, card from {s}.people where id < 4 order by id \\gdesc\n",
        "select name, phone from {s}.people where id = 7 \\gx\n",
        "select id as i, name as n from {s}.people where id = 3 \\gset\n\\echo :i :n\n",
        "select format('select card from {s}.people where id = %s', i) from generate_series(1, 3) i \\gexec\n",
    ),
    "text": each(
        "select {columns} " + READ + ";",
        "\\pset format csv\nselect {columns} " + READ + ";",
        "\\x on\n\\pset null '(null)'\nselect {columns} " + READ + ";",
        "set datestyle = 'German'; set timezone = 'Asia/Shanghai'; set bytea_output = 'escape'; set extra_float_digits = -3;\n"
        "select {columns} " + READ + ";",
        "\\encoding GBK\nselect id, card, born, mood " + READ + ";",
    ),
    "write": script(
        "begin;\ninsert into {s}.people (id, name, card, credit, born, seen, score, level, active, ref, photo, prefs, tags, mood)"
        " values (9100, 'New', '6222020000000009', 12.345, '1999-12-31', '2024-05-06 07:08:09+02', 1e-3, 7, 'yes',"
        " '00000000-0000-4000-8000-00000000ffff', '\\x00ff', '{\"a\": 1}', '{x,NULL}', 'happy') returning credit, seen;\n"
        "update {s}.people set card = '1', level = -3 where card = '6222020000000009' returning card, level, photo, tags;\n"
        "delete from {s}.people where card = '1' returning name;\nrollback;\n"
    ),
    "cursor": each(
        "\\set FETCH_COUNT 7\nselect id, name, card from {s}.people order by id;",
        "begin;\ndeclare c scroll cursor for select id, card, level from {s}.people order by id;\nfetch 3 from c;\n"
        "fetch absolute 50 from c;\nfetch backward 2 from c;\nmove first in c;\nfetch next from c;\nclose c;\ncommit;\n",
    ),
    "copy_out": copy_out,
    "copy_in": copy_in,
    "notify": lambda target: [
        line.split(" received from")[0] for line in psql(target, "listen news;\nnotify news, 'é';\nselect 1;\n")[1]
    ],
    "notice": script("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$;"),
    "cancel": cancel,
    "large_object": large_object,
    "big": big,
    "errors": each(*(f"\\set VERBOSITY verbose\n{text};\n\\errverbose\n" for text in FAILING.values())),
    "transaction": each(
        "begin;\nselect card from {s}.people where id = 2;\nselect nosuch from {s}.people;\nselect name from {s}.people;\nrollback;\n"
        "select phone from {s}.people where id = 2;\n",
        "\\set ON_ERROR_ROLLBACK on\nbegin;\nselect nosuch from {s}.people;\nselect card from {s}.people where id = 2;\ncommit;\n",
        "\\set AUTOCOMMIT off\nselect card from {s}.people where id = 2;\nsavepoint a;\nselect 1/0;\nrollback to a;\n"
        "select name from {s}.people where id = 3;\ncommit;\n",
    ),
    "two_phase": script(
        "begin;\ninsert into {s}.people (id, name, card) values (9600, 'Two', '65');\nprepare transaction 'psql {s}';\n"
        "commit prepared 'psql {s}';\ndelete from {s}.people where card = '65' returning name;\n"
    ),
    "introspection": each(
        *(f"\\{c}\n" for c in ("dT {s}.*", "dt {s}.*", "di {s}.*", "ds {s}.*", "d {s}.orders", "d {s}.people"))
    ),
    "modes": each(
        "prepare p (int) as select card from {s}.people where id = $1;\nexecute p (4);\nexecute p (5);\ndeallocate p;\n",
        "\\set id 6\nselect name, card from {s}.people where id = :id and :'id' = '6';\n",
        "select name from {s}.people where id = 1 \\g (format=wrapped columns=20)\n\\crosstabview\n",
    ),
}
