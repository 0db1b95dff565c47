"""pgveil.yaml as frozen values. Every setting carries its form, default and explanation; docs/configuration.md is made from them.

Errors are strict and name file:line:column and the fix; one run reports all of them. Relative paths are taken from the file's directory.
"""

# ruff: noqa: RUF009 - `_setting` is dataclasses.field with its metadata filled in

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from proxy import limits
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION_ATTRS: Final = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_FILE: Final = limits.MIB
# What ruamel.yaml raises on broken input beside its own errors: a date that there is not, a number too long, nesting too deep.
_PARSER_SLIPS: Final = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    AssertionError,
    RecursionError,
)
_UNITS: Final = {"": 1, "KiB": limits.KIB, "MiB": limits.MIB}


class Address(NamedTuple):
    """A host and port; a host that starts with "/" is the directory of a Unix socket."""

    host: str
    port: int

    @property
    def unix_path(self) -> str | None:
        """The socket's path, for a Unix socket."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith("/") else None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Fault(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with one value, and what would be right."""


# -- forms: from a YAML value and the file's directory to a value of ours ------------------------------------------------------------


def _text(value: object, _: Path) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Fault("write a non-empty text")
    return value


def _path(value: object, base: Path) -> Path:
    path = Path(_text(value, base))
    try:
        return base / path.expanduser()
    except RuntimeError:
        raise _Fault("write a path; nobody's home directory is called so") from None


def _flag(value: object, _: Path) -> bool:
    if not isinstance(value, bool):
        raise _Fault("write true or false")
    return value


def _whole(low: int, high: int) -> Callable[[object, Path], int]:
    def form(value: object, _: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _Fault(f"write a whole number from {low} to {high}")
        return int(value)  # ruamel's 0 is of a class of its own, which `getaddrinfo` does not take

    return form


def _seconds(low: float, high: float) -> Callable[[object, Path], float]:
    def form(value: object, _: Path) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _Fault(f"write a number of seconds from {low:g} to {high:g}")
        return float(value)

    return form


def _size(low: int, high: int) -> Callable[[object, Path], int]:
    def form(value: object, _: Path) -> int:
        match = None if isinstance(value, bool) else re.fullmatch(r"(\d{1,12}) ?(|KiB|MiB)", str(value))
        number = int(match[1]) * _UNITS[match[2]] if match else -1
        if not low <= number <= high:
            raise _Fault(f"write a size from {low // limits.KIB} KiB to {high // limits.MIB} MiB, as in 256KiB or 4MiB")
        return number

    return form


def _one_of(*words: str) -> Callable[[object, Path], str]:
    def form(value: object, _: Path) -> str:
        if isinstance(value, bool):  # YAML 1.1 readers take a bare off for false; ruamel's 1.2 doesn't, people do
            value = "on" if value else "off"
        if value not in words:
            raise _Fault(f"write one of {', '.join(words)}")
        return str(value)

    return form


def _root(value: object, base: Path) -> Path | str:
    return "system" if value == "system" else _path(value, base)


def _addresses(value: object, base: Path) -> tuple[Address, ...]:
    entries = value if isinstance(value, list) else [value]
    if not 1 <= len(entries) <= 16:
        raise _Fault("write one to sixteen addresses, as in [db1.example:5432, db2.example:5432]")
    return tuple(_address(entry, base) for entry in entries)


def _address(value: object, _: Path) -> Address:
    fault = _Fault("write host:port, [IPv6]:port, or a directory with a Unix socket, as in /run/postgresql:5432")
    if not isinstance(value, str) or not value.isprintable():
        raise fault
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?", value)
    port = int(match[3] or 5432) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise fault
    return Address(match[1] or match[2], port)


def _networks(value: object, _: Path) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(str(entry)) for entry in (value if isinstance(value, list) else [value]))
    except ValueError:
        raise _Fault("write addresses or networks, as in [10.0.0.5, 10.0.1.0/28]") from None


def _setting(form: Callable[[object, Path], Any], doc: str, default: Any = None, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"form": form, "doc": doc})


# -- sections ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients connect."""

    address: str = _setting(_text, "Address or host name to listen on. `0.0.0.0` or `::` for all.", "127.0.0.1")
    port: int = _setting(
        _whole(0, 65535), "TCP port, and the number in the Unix socket's name. 0 takes a free one.", 6432
    )
    unix_directory: Path | None = _setting(
        _path, "Directory in which a Unix socket `.s.PGSQL.<port>` is made as well. Who may enter it may connect."
    )
    backlog: int = _setting(_whole(1, 65535), "Connections that wait to be taken, for each worker.", 1024)
    proxy_protocol: tuple[Network, ...] = _setting(
        _networks,
        "Addresses or networks of load balancers that begin each connection with a PROXY protocol header, version 1 or 2 (haproxy's `send-proxy`, an NLB's "
        "`proxy_protocol_v2`). The client's address in the log, the audit log and limits is then the one in the header. A connection from there without a "
        "header is refused; from anywhere else a header is an error.",
        (),
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards clients. It is offered as soon as there is a certificate; direct TLS (PostgreSQL 17's) too."""

    certificate: Path | None = _setting(
        _path, "PEM file with pgveil's certificate and its chain. None: no TLS towards clients."
    )
    key: Path | None = _setting(_path, "PEM file with the certificate's private key.")
    required: bool = _setting(
        _flag, "Refuse clients that do not use TLS. Unix sockets and cancel requests are exempt.", default=False
    )
    client_ca: Path | None = _setting(
        _path, "PEM file of authorities. Where given, clients must show a certificate of theirs, besides their login."
    )
    minimum_version: str = _setting(_one_of("TLSv1.2", "TLSv1.3"), "Oldest version of TLS that is spoken.", "TLSv1.2")


@dataclass(frozen=True, slots=True)
class Server:
    """The PostgreSQL server behind."""

    hosts: tuple[Address, ...] = _setting(
        _addresses,
        "Where the server is. Of several, the first that answers is taken; they are replicas of each other. A path is the directory of a "
        "Unix socket.",
        (Address("localhost", 5432),),
    )
    target_session_attrs: str = _setting(
        _one_of(*SESSION_ATTRS),
        "As libpq's: which of the hosts will do. Where there are several hosts or a kind is asked for, each worker keeps a connection of "
        "the catalog's login to each host and asks every second (docs/faults.md).",
        "any",
    )
    sslmode: str = _setting(
        _one_of(*SSLMODES),
        "As libpq's: what is encrypted, and what is verified. Unix sockets ignore it. It holds for clients' connections and for pgveil's own "
        "(the catalog's), unless `catalog.dsn` asks for more.",
        "prefer",
    )
    root_certificate: Path | str | None = _setting(
        _root,
        "PEM file of authorities that the server's certificate is verified with, or `system` (then with `verify-full` only).",
    )
    certificate: Path | None = _setting(
        _path,
        "PEM file with a certificate that pgveil shows to the server. Never let pg_hba.conf log anybody in by it alone (`cert`): "
        "every client would be that login.",
    )
    key: Path | None = _setting(_path, "PEM file with that certificate's private key.")
    connect_seconds: float = _setting(_seconds(0.1, 600), "Longest wait for one of the hosts to answer.", 10.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker gives at most."""

    connections: int = _setting(_whole(1, 100_000), "Client connections. More get SQLSTATE 53300.", 1000)
    connections_per_login: int = _setting(
        _whole(0, 100_000),
        "Client connections that are logged in under one name. More get SQLSTATE 53300. 0: as many as `connections` allows.",
        0,
    )
    authentication_seconds: float = _setting(_seconds(1, 600), "From the first byte to the end of the login.", 60.0)
    logins: int = _setting(
        _whole(1, 100_000),
        "Logins under way at the server: connections to it of clients that it has not let in yet. More wait, and get SQLSTATE 53300 if there is no "
        "place in `authentication_seconds`. `workers` times as many should be well below the server's max_connections.",
        32,
    )
    logins_per_address: int = _setting(
        _whole(0, 100_000),
        "Of these, for clients of one address. The newest of its own waits the shortest. 0: no limit.",
        16,
    )
    pressed_seconds: float = _setting(
        _seconds(0.1, 600), "How long a login at the server may take while others wait for its place.", 2.0
    )
    cancels_per_second: int = _setting(
        _whole(1, 10_000), "Cancel requests that are passed on. Twice as many in a burst; the rest is dropped.", 50
    )
    write_buffer: int = _setting(
        _size(16 * limits.KIB, 64 * limits.MIB),
        "Unsent bytes on one side of a connection above which the other is not read.",
        256 * limits.KIB,
    )
    close_seconds: float = _setting(
        _seconds(0.1, 600), "Longest wait for a peer to take the last bytes before its connection is cut.", 10.0
    )
    lame_duck_seconds: float = _setting(
        _seconds(0, 3600),
        "When pgveil stops (SIGTERM), how long it goes on taking connections while /readyz says not ready, so that load balancers have looked before the port "
        "closes. A second signal ends it at once. `pgveil restart` needs none: the port stays.",
        0.0,
    )
    drain_seconds: float = _setting(
        _seconds(0, 86_400),
        "When a worker stops (SIGTERM, `pgveil restart`), how long transactions may go on. All clients get SQLSTATE 57P01: as soon as nothing of "
        "theirs is under way, at the latest after this time.",
        30.0,
    )


@dataclass(frozen=True, slots=True)
class Keepalive:
    """How a peer that has vanished without a word (power, cable, firewall) is noticed, on both sides of a connection (TCP only)."""

    idle_seconds: int = _setting(_whole(1, 32_767), "Silence before the kernel asks whether the peer is there.", 60)
    interval_seconds: int = _setting(_whole(1, 32_767), "Between two such questions.", 15)
    count: int = _setting(_whole(1, 127), "Questions without an answer after which the connection is cut.", 4)
    unacknowledged_seconds: int = _setting(
        _whole(0, 86_400),
        "How long bytes that were sent may stay unacknowledged before the connection is cut (TCP_USER_TIMEOUT). 0: as long as the system says, "
        "which is about 15 minutes on Linux. A peer that is there and takes nothing for so long is cut as well.",
        0,
    )


@dataclass(frozen=True, slots=True)
class CatalogLogin:
    """The login with which pgveil itself reads the database's catalog."""

    dsn: str | None = _setting(
        _text,
        "Connection URL of that login. Without a host, or where `server.hosts` names several and it does not, it goes where clients are led.",
        secret=True,
    )
    dsn_file: Path | None = _setting(_path, "File that holds the URL, where it has a password. Give one of the two.")


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """Where `/metrics`, `/healthz` and `/readyz` are served."""

    address: str = _setting(_text, "Address to listen on.", "127.0.0.1")
    port: int | None = _setting(_whole(0, 65535), "TCP port. None: not served.")


@dataclass(frozen=True, slots=True)
class CalculatorSettings:
    """The calculator: a PostgreSQL of pgveil's own, without data, that computes on opened values (docs/calculator.md)."""

    enabled: str = _setting(
        _one_of("auto", "on", "off"),
        "`auto`: where PostgreSQL's programs are found and the directory is in memory. Without it, what the database can't compute is refused.",
        "auto",
    )
    bin_dir: Path | None = _setting(
        _path,
        "Directory of PostgreSQL's programs, 15 or newer. None: of those installed, the server's own major version, else the newest.",
    )
    directory: Path = _setting(
        _path,
        "Where the calculator's directory is made; on a tmpfs, with 48 MiB to spare.",
        Path("/dev/shm"),  # noqa: S108
    )
    allow_disk: bool = _setting(
        _flag, "Let that directory be on a disk. Opened values may then be written to it by the system.", default=False
    )
    connections: int = _setting(_whole(1, 64), "Statements that each worker lets it compute at a time.", 4)
    waiting: int = _setting(
        _whole(0, 100_000), "Statements of each worker that wait for that. More get SQLSTATE 53300.", 256
    )
    seconds: float = _setting(
        _seconds(0.1, 3600), "Longest time that one statement may wait, and may then compute.", 10.0
    )
    memory: int = _setting(
        _size(32 * limits.MIB, 16384 * limits.MIB),
        "Memory of one computation. Nothing goes to a file: what needs more is ended.",
        256 * limits.MIB,
    )
    rows: int = _setting(
        _whole(1, 100_000_000), "Rows that are fetched for one statement, and that it may give.", 100_000
    )
    size: int = _setting(
        _size(64 * limits.KIB, 512 * limits.MIB),
        "Bytes that are fetched for one statement, and that it may give.",
        64 * limits.MIB,
    )
    held: int = _setting(
        _size(64 * limits.KIB, 65536 * limits.MIB),
        "Bytes that are fetched for all statements of a worker together, at a time. More get SQLSTATE 53200.",
        512 * limits.MIB,
    )
    # Where the supervisor's engine is; not the operator's to say.
    engine: Path | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """pgveil's own log: JSON lines on the standard error output, without values."""

    level: str = _setting(_one_of("debug", "info", "warning", "error"), "Least severe event that is written.", "info")


@dataclass(frozen=True, slots=True)
class Observe:
    """What `mode: observe` keeps (docs/observe.md)."""

    directory: Path = _setting(_path, "Directory of the observations, one file a worker.", Path("observed"))
    seconds: float = _setting(
        _seconds(0.1, 3600), "How often they are written. A worker that is killed loses at most so much.", 10.0
    )
    shapes: int = _setting(
        _whole(1, 100_000),
        "Statement shapes, each for one login and outcome, that a worker keeps. More are only counted.",
        5000,
    )


@dataclass(frozen=True, slots=True)
class Doctor:
    """What `pgveil doctor` is told (docs/doctor.md)."""

    accepted: Path | None = _setting(_path, "File of findings that are accepted, each with its reason.")
    addresses: tuple[Network, ...] = _setting(
        _networks,
        "Where pgveil's machines come from, as the server sees them. None: where doctor itself comes from.",
        (),
    )
    certificate_days: int = _setting(
        _whole(0, 3650), "A certificate that expires within so many days is a warning.", 30
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. `file` is where it came from."""

    file: Path
    rules: Path = _setting(_path, "The rules file.", Path("rules.yaml"))
    keys: Path = _setting(_path, "Directory of the wrapped data keys.", Path("keys"))
    audit: Path = _setting(_path, "Directory of the audit log.", Path("audit"))
    mode: str = _setting(
        _one_of("enforce", "observe"),
        "`observe`: in databases that `pgveil apply` has not touched yet, every statement runs as it came, NOTHING IS PROTECTED, and what "
        "pgveil would have done is collected (docs/observe.md). Takes effect at the next start.",
        "enforce",
    )
    workers: int = _setting(_whole(0, 256), "Processes. 0 is one for each CPU.", 0)
    control: Path | None = _setting(
        _path,
        "Unix socket by which `pgveil reload` and `pgveil restart` reach the supervisor; for its own account only. None: `pgveil.sock` "
        "beside the audit directory.",
    )
    listen: Listen = field(default_factory=Listen)
    tls: Tls = field(default_factory=Tls)
    server: Server = field(default_factory=Server)
    limits: Limits = field(default_factory=Limits)
    keepalive: Keepalive = field(default_factory=Keepalive)
    catalog: CatalogLogin = field(default_factory=CatalogLogin)
    metrics: MetricsPage = field(default_factory=MetricsPage)
    calculator: CalculatorSettings = field(default_factory=CalculatorSettings)
    log: Log = field(default_factory=Log)
    observe: Observe = field(default_factory=Observe)
    doctor: Doctor = field(default_factory=Doctor)

    @property
    def control_socket(self) -> Path:
        """Where the supervisor is spoken to."""
        return self.audit.parent / "pgveil.sock" if self.control is None else self.control


_SECTIONS: Final[dict[str, type[Any]]] = {
    "listen": Listen,
    "tls": Tls,
    "server": Server,
    "limits": Limits,
    "keepalive": Keepalive,
    "catalog": CatalogLogin,
    "metrics": MetricsPage,
    "calculator": CalculatorSettings,
    "log": Log,
    "observe": Observe,
    "doctor": Doctor,
}
_Section = TypeVar("_Section")


# -- reading -------------------------------------------------------------------------------------------------------------------------


def load_config(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError with one line for each mistake: `file:line:column: what: the fix`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_FILE:
        raise ConfigError(f"{path}: longer than {_MAX_FILE} bytes: this is no configuration file")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8: save it as UTF-8") from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """The same from text; `path` names it in errors and is where relative paths start."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not YAML: {error.problem or error.context}") from None
    except (*_PARSER_SLIPS, YAMLError) as error:
        # Its words could quote anything, a password too, so only the kind is told.
        raise ConfigError(f"{path}: not YAML that can be read ({type(error).__name__})") from None
    if tree is None:
        tree = CommentedMap()
    return _Reader(path).config(tree)


class _Reader:
    """Collects mistakes while it reads, so that all are told at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = path.absolute().parent
        self._faults: list[tuple[int, int, str]] = []

    def config(self, tree: object) -> Config:
        if not isinstance(tree, CommentedMap):
            raise ConfigError(
                f"{self._path}:1:1: a configuration is a mapping of settings: write `setting: value` lines"
            )
        settings = self._settings(Config, tree, "", extra=frozenset(_SECTIONS))
        sections = {name: self._section(name, form, tree) for name, form in _SECTIONS.items()}
        config = Config(file=self._path, **settings, **sections)
        self._check(config, tree)
        if self._faults:
            lines = [f"{self._path}:{line + 1}:{column + 1}: {text}" for line, column, text in sorted(self._faults)]
            raise ConfigError("\n".join(lines))
        return config

    def _section(self, name: str, form: type[_Section], tree: CommentedMap) -> _Section:
        section = tree.get(name)
        if section is None:
            section = CommentedMap()
        if not isinstance(section, CommentedMap):
            self._fault(tree, name, f"{name}: write its settings below it, indented")
            section = CommentedMap()
        return form(**self._settings(form, section, f"{name}."))

    def _settings(
        self, form: type[Any], tree: CommentedMap, prefix: str, extra: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        known = {f.name: f for f in fields(form) if "form" in f.metadata}
        for key in tree:
            if key not in known and key not in extra:
                near = difflib.get_close_matches(str(key), [*known, *extra], 1)
                fix = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted({*known, *extra}))}"
                self._fault(tree, key, f"{prefix}{key}: no such setting: {fix}")
        return {name: self._value(setting, tree, prefix) for name, setting in known.items()}

    def _value(self, setting: Field[Any], tree: CommentedMap, prefix: str) -> Any:
        value = tree.get(setting.name)
        default = setting.default
        if value is None:
            return self._base / default if isinstance(default, Path) else default
        try:
            return setting.metadata["form"](value, self._base)
        except _Fault as fault:
            self._fault(tree, setting.name, f"{prefix}{setting.name}: {fault}")
            return default

    def _fault(self, tree: CommentedMap, key: object, text: str) -> None:
        line, column = tree.lc.key(key) if key in tree else (0, 0)
        self._faults.append((line, column, text))

    def _check(self, config: Config, tree: CommentedMap) -> None:
        """What is wrong between settings that are right one by one."""
        for name, pair in (("tls", config.tls), ("server", config.server)):
            if (pair.certificate is None) != (pair.key is None):
                self._fault(tree, name, f"{name}: certificate and key belong together: give both or neither")
        if config.tls.certificate is None and (config.tls.required or config.tls.client_ca is not None):
            self._fault(tree, "tls", "tls: required and client_ca need a certificate: give tls.certificate and tls.key")
        verifies = config.server.sslmode.startswith("verify")
        if verifies and config.server.root_certificate is None:
            self._fault(tree, "server", f"server.sslmode: {config.server.sslmode} needs server.root_certificate")
        if config.server.root_certificate == "system" and config.server.sslmode != "verify-full":
            self._fault(
                tree, "server", "server.root_certificate: system authorities certify anybody: use sslmode: verify-full"
            )
        if config.catalog.dsn is not None and config.catalog.dsn_file is not None:
            self._fault(tree, "catalog", "catalog: give dsn or dsn_file, not both")


# -- documentation -------------------------------------------------------------------------------------------------------------------


def reference() -> str:
    """docs/configuration.md: every setting with its default, from the same definitions that are read by."""
    parts = [
        "# Configuration\n",
        "`pgveil run --config pgveil.yaml`. Every setting has a default; an unknown one is an error. Relative paths start at the file's",
        "directory. Errors name line and column, all of them at once. This page is made from the code (`proxy/config.py`); a test",
        "keeps the two equal.\n",
    ]
    sections: dict[str, type[Any]] = {"": Config, **_SECTIONS}
    for name, form in sections.items():
        parts.append(f"## {name or 'Top level'}\n")
        if name:
            parts.append(f"{form.__doc__}\n")
        for setting in fields(form):
            if "form" in setting.metadata:
                parts.append(f"### {name}{'.' if name else ''}{setting.name}\n")
                parts.append(f"Default: `{_shown(setting.default)}`\n")
                parts.append(f"{setting.metadata['doc']}\n")
    return "\n".join(parts)


def _shown(value: object) -> str:
    if value is None or value is MISSING or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int) and value >= 16 * limits.KIB and value % limits.KIB == 0:
        return f"{value // limits.KIB}KiB"
    return f"{value:g}" if isinstance(value, float) else str(value)
