"""Files that people and other programs write: pgveil's configuration, workloads, observations, the workers' metrics and look-ups."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict

from proxy.config import Config, load_config, parse_config, reference
from proxy.errors import ConfigError
from proxy.lookup_meter import SharedLookupMeter
from proxy.metric_files import MetricFiles
from proxy.observe.findings import Finding, Outcome
from proxy.observe.tally import Book, BookError, Kept, Seen, Tally, count_by_outcome, decode, merged
from proxy.workload.entry import Entry, Lines, is_text
from proxy.workload.formats import Format, detect, reader
from tests.fuzz.target import Cursor, Target, promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT: Final = Path(__file__).parent.parent.parent

# -- the configuration ---------------------------------------------------------------------------------------------------------------

_CONFIG_WORDS: Final = (
    b"\n  ", b": ", b"- ", b"&a ", b"*a", b"!!python/object ", b"!!int ", b"!!timestamp ", b"2001-99-99", b"0x", b"1_000", b".inf", b".nan", b"1e999",
    b"<<: *a", b"? ", b"[[", b"{{", b"KiB", b"MiB", b"[::1]:5432", b"127.0.0.1:5432", b"server:", b"hosts:", b"tls:", b"limits:", b"catalog:", b"true", b"~",
    b"999999999999999999999", b"%YAML 1.1\n---\n", b"---\n",
)  # fmt: skip


def _config() -> Callable[[bytes], int]:
    place = TemporaryDirectory(prefix="pgveil-fuzz-")
    path = Path(place.name) / "pgveil.yaml"

    def run(data: bytes) -> int:
        path.write_bytes(data)
        try:
            config = load_config(path)
        except ConfigError as error:
            promise(str(error).startswith(str(path)), "an error does not say where")
            promise(place.name, "the directory is gone")
            return 1
        promise(isinstance(config, Config) and config.server.hosts is not None, "a configuration without a server")
        promise(parse_config(data.decode(), path) == config, "the same text means something else")
        return 1

    return run


def _config_seeds() -> Iterator[bytes]:
    yield b""
    yield b"server: {hosts: [127.0.0.1:5432]}\n"
    yield b"listen: {addresses: [127.0.0.1:6432]}\nrules: rules.yaml\nlimits:\n  statement: 1MiB\n"
    yield reference().encode()
    for page in ("docs/configuration.md", "docs/quickstart.md", "docs/observe.md", "docs/calculator.md"):
        blocks = (_ROOT / page).read_text().split("```")
        for block in blocks[1::2]:
            if block.startswith("yaml"):
                yield block.partition("\n")[2].encode()


# -- workloads -----------------------------------------------------------------------------------------------------------------------

_FORMATS: Final = tuple(Format)
_MOST_ITEMS: Final = 5000
_LOG: Final = (
    b"2026-03-01 09:30:00.123 UTC [7] ann@shop LOG:  statement: select 1\n"
    b"2026-03-01 09:30:00.123 UTC [7] user=ann,db=shop LOG:  duration: 1.2 ms  execute s: select $1\n"
    b"\tfrom t\n"
    b"2026-03-01 09:30:00.123 UTC [7] ann@shop DETAIL:  parameters: $1 = '4000123412341234'\n"
    b"2026-03-01 09:30:00.123 UTC [7] ann@shop ERROR:  no\n"
)
_CSV: Final = (
    b'2026-03-01 09:30:00.123 UTC,"ann","shop",7,"[local]",65.7,1,"SELECT",2026-03-01 09:30:00 UTC,3/2,0,LOG,00000,'
    b'"statement: select ""a"",\n 1",,,,,,,,,"psql","client backend",,0\n'
)
_JSON: Final = (
    b'{"timestamp":"2026-03-01 09:30:00.123 UTC","user":"ann","dbname":"shop","pid":7,"error_severity":"LOG",'
    b'"message":"execute <unnamed>: select $1"}\n'
)
_STATISTICS: Final = b'rolname,query,calls\nann,"select $1 from ""t""",7\nbob,<insufficient privilege>,1\n'
_SQL: Final = b"\\set x 1\nselect 1; select 'a;b' -- ;\n;\ncopy t from stdin;\n1\t2\n\\.\ncreate function f() returns int language sql begin atomic select 1; end;\n"
_WORKLOAD_WORDS: Final = (
    b"LOG:  statement: ", b"LOG:  execute s: ", b"DETAIL:  ", b"\n\t", b'"\n', b'""', b"\r", b"\0", b"\xff", b"\\.", b"$$", b"'", b"/*", b"[[[[[[", b'{"a":',
    b"execute fetch from ", b"<insufficient privilege>", b"begin atomic", b"copy t from stdin;\n", b'"message":', b"\\ud800", b"calls", b"99999999999999999",
)  # fmt: skip


def _workload() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        cursor = Cursor(data)
        chosen = cursor.byte()
        content = cursor.rest()
        found = detect(BytesIO(content))
        form = found if chosen >= len(_FORMATS) else _FORMATS[chosen]
        lines = Lines(BytesIO(content))
        count = 0
        with suppress(ConfigError):
            for item in islice(reader(form)(lines), _MOST_ITEMS):
                count += 1
                promise(1 <= item.line <= content.count(b"\n") + content.count(b"\r") + 1, "a line that there is not")
                if isinstance(item, Entry):
                    promise(is_text(item.text) and item.calls >= 0, "a statement that can't be judged")
                else:
                    promise(item.why and item.why.isascii() and "4000123412341234" not in item.why, "a value is told")
        promise(count <= len(content) + 1, "more statements than there are bytes")
        return count or 1

    return run


def _workload_seeds() -> Iterator[bytes]:
    for content in (_LOG, _CSV * 2, _JSON * 2, _STATISTICS, _SQL):
        yield b"\xff" + content
    for number, content in enumerate((_LOG, _CSV, _JSON, _STATISTICS, _SQL)):
        yield bytes((number,)) + content


# -- observations --------------------------------------------------------------------------------------------------------------------


def _observations() -> Callable[[bytes], int]:
    def run(data: bytes) -> int:
        try:
            book = decode(data)
        except BookError as error:
            promise(len(str(error)) < 200, "an error quotes the file")
            return 1
        both = merged([book, book])
        promise(both.passed == 2 * book.passed, "observations get lost")
        promise(set(count_by_outcome(book)) == set(Outcome), "an outcome is missing")
        tally = Tally(3)
        tally.take_up(book)
        promise(len(tally.book().kept) <= 3, "more shapes than are to be kept")
        decode(tally.encoded())
        return len(book.kept) or 1

    return run


def _observation_seeds() -> Iterator[bytes]:
    found = Finding(
        Outcome.REFUSED,
        "select card from customers",
        "ann",
        ("clerk",),
        "p",
        "shop",
        "r",
        "verdict",
        "42501",
        "no",
        "do",
    )
    other = Finding(Outcome.CHANGED, "select 1", "bob", (), "p", "shop", "r", effects=("open",))
    seen = Seen(3, "2026-03-01T09:30:00Z", "2026-03-02T09:30:00Z", 7)
    yield msgspec.json.encode(Book(1, (Kept(found, seen), Kept(other, Seen(1, None, None))), 5, {"refused": 2}))
    yield msgspec.json.encode(Book(1, ()))


# -- files of metrics and look-ups ---------------------------------------------------------------------------------------------------


def _numbers(*values: tuple[str, float]) -> bytes:
    """A file of prometheus-client's, cut behind what is used of it."""
    with TemporaryDirectory() as place:
        path = Path(place) / "counter_1.db"
        numbers: Any = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        for key, value in values:
            numbers.write_value(key, value, 0.0)
        numbers.close()
        content = path.read_bytes()
    return content[: int.from_bytes(content[:4], "little")]


def _key(name: str) -> str:
    return msgspec.json.encode([name, name + "_total", {"reason": "verdict"}, "help"]).decode()


def _metrics() -> Callable[[bytes], int]:
    place = TemporaryDirectory(prefix="pgveil-fuzz-")
    directory = Path(place.name)
    good = _numbers((_key("pgveil_a"), 3.0))

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        flags = cursor.byte()
        content = cursor.rest()
        for old in directory.glob("*.db"):
            old.unlink()
        files = MetricFiles(directory)
        (directory / "counter_8.db").write_bytes(good)
        (directory / ("counter_7.db" if flags & 1 else "gauge_livesum_7.db")).write_bytes(content)
        if flags & 2:
            files.bury(7)
            promise(not list(directory.glob("*_7.db")), "an ended worker's files stay")
        found = [metric for metric in files.collect() if metric.name == "pgveil_a"]
        promise(found and found[0].samples, f"one damaged file in {place.name} hides the others")
        generate_latest(files.registry())
        return 1

    return run


def _metrics_seeds() -> Iterator[bytes]:
    for flags in range(4):
        yield bytes((flags,)) + _numbers((_key("pgveil_b"), 1.0), (_key("pgveil_c"), 2.0))
        yield bytes((flags,)) + bytes(64)
        yield bytes((flags,))


def _meter() -> Callable[[bytes], int]:
    place = TemporaryDirectory(prefix="pgveil-fuzz-")
    directory = Path(place.name)
    path = directory / hashlib.sha256(b"ann").hexdigest()[:32]

    def run(data: bytes) -> int:
        path.write_bytes(data)
        now = [1000.0]
        meter = SharedLookupMeter(directory, lambda: now[0])
        spent = sum(meter.spend("ann", 1, 5) for _ in range(20))
        promise(spent <= 5, "more look-ups than are allowed")
        now[0] += 61
        promise(meter.spend("ann", 1, 5), f"nobody may look up anything in {place.name} any longer")
        return 1

    return run


def _meter_seeds() -> Iterator[bytes]:
    yield b""
    yield pack("!dQ", 990.0, 3)
    yield pack("!dQ", float("nan"), 3)
    yield pack("!dQ", 1e300, 2**64 - 1)


TARGETS: Final = (
    Target("config", "pgveil's configuration file", _config, _config_seeds, longest=2048, dictionary=_CONFIG_WORDS),
    Target(
        "workload",
        "server logs, statistics and SQL files to be judged",
        _workload,
        _workload_seeds,
        dictionary=_WORKLOAD_WORDS,
    ),
    Target("observations", "files of observe mode", _observations, _observation_seeds, longest=2048),
    Target("metrics", "the workers' files of metrics", _metrics, _metrics_seeds, longest=512),
    Target("meter", "the workers' files of look-ups", _meter, _meter_seeds, longest=32),
)
