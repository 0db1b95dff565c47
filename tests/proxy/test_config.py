"""The configuration file: what it gives, and how it says what is wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from proxy import config as module
from proxy.config import Address, Config, load_config, parse_config, reference
from proxy.errors import ConfigError

FILE = Path("/etc/pgveil/pgveil.yaml")
ROOT = Path(__file__).parents[2]


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, FILE)
    return str(caught.value).replace(f"{FILE}:", "").splitlines()


def test_an_empty_file_has_every_default() -> None:
    for text in ("", "# nothing\n", "listen:\n"):
        config = parse_config(text, FILE)
        assert config.listen.port == 6432
        assert config.server.hosts == (Address("localhost", 5432),)
        assert config.workers == 0
        assert config.rules == Path("/etc/pgveil/rules.yaml")


def test_everything_can_be_set() -> None:
    config = parse_config(
        """
rules: policy/rules.yaml
keys: /var/lib/pgveil/keys
workers: 3
listen: {address: "::", port: 0, unix_directory: run, backlog: 10}
tls: {certificate: a.crt, key: a.key, required: true, client_ca: ca.crt, minimum_version: TLSv1.3}
server:
  hosts: [db1, "db2:6000", "[::1]:77", /run/postgresql]
  sslmode: verify-full
  root_certificate: system
  connect_seconds: 2.5
limits: {connections: 5, authentication_seconds: 3, cancels_per_second: 1, write_buffer: 64KiB, close_seconds: 1, drain_seconds: 0}
catalog: {dsn: "postgresql://pgveil:s3cret@db1/shop"}
metrics: {port: 9464}
log: {level: debug}
""",
        FILE,
    )
    assert config.rules == Path("/etc/pgveil/policy/rules.yaml")
    assert config.keys == Path("/var/lib/pgveil/keys")
    assert config.tls.certificate == Path("/etc/pgveil/a.crt")
    assert config.server.hosts == (
        Address("db1", 5432),
        Address("db2", 6000),
        Address("::1", 77),
        Address("/run/postgresql", 5432),
    )
    assert [address.unix_path for address in config.server.hosts] == [None, None, None, "/run/postgresql/.s.PGSQL.5432"]
    assert config.limits.write_buffer == 65536
    assert config.server.root_certificate == "system"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listn: 3\n", ["1:1: listn: no such setting: did you mean listen?"]),
        ("listen:\n  prot: 3\n", ["2:3: listen.prot: no such setting: did you mean listen.port?"]),
        (
            "listen:\n  zzz: 3\n",
            ["2:3: listen.zzz: no such setting: known are address, backlog, port, proxy_protocol, unix_directory"],
        ),
        ("listen: 5\n", ["1:1: listen: write its settings below it, indented"]),
        ("listen:\n  port: true\n", ["2:3: listen.port: write a whole number from 0 to 65535"]),
        ("workers: -1\n", ["1:1: workers: write a whole number from 0 to 256"]),
        ("rules: ''\n", ["1:1: rules: write a non-empty text"]),
        ("tls: {required: 1, certificate: a, key: b}\n", ["1:7: tls.required: write true or false"]),
        (
            "tls:\n  required: true\n",
            ["1:1: tls: required and client_ca need a certificate: give tls.certificate and tls.key"],
        ),
        ("tls:\n  key: x\n", ["1:1: tls: certificate and key belong together: give both or neither"]),
        ("server:\n  sslmode: verify-ca\n", ["1:1: server.sslmode: verify-ca needs server.root_certificate"]),
        ("catalog: {dsn: a, dsn_file: b}\n", ["1:1: catalog: give dsn or dsn_file, not both"]),
        (
            "limits: {write_buffer: 1GiB}\n",
            ["1:10: limits.write_buffer: write a size from 16 KiB to 64 MiB, as in 256KiB or 4MiB"],
        ),
        ("keys: ~nobody_s/keys\n", ["1:1: keys: write a path; nobody's home directory is called so"]),
        ("limits: {close_seconds: soon}\n", ["1:10: limits.close_seconds: write a number of seconds from 0.1 to 600"]),
    ],
)
def test_mistakes_are_located_with_their_fix(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


@pytest.mark.parametrize("host", ["a b", "db:0", "db:99999", "[::1", "", "::1:5432", 5])
def test_addresses_are_strict(host: object) -> None:
    (fault,) = faults(f"server:\n  hosts: [{host!r}]\n")
    assert fault.startswith("2:3: server.hosts: write host:port")


def test_all_mistakes_are_told_at_once() -> None:
    assert len(faults("mode: x\nworkers: y\nlisten:\n  port: z\n")) == 3


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "- x", "workers: 1\nworkers: 2\n", "%", "a: !!python/object:x {}\n"]
)
def test_what_is_not_yaml_or_no_mapping(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, FILE)


@pytest.mark.parametrize(
    "text",
    [
        "drain_seconds: 2001-99-99\n",
        "listen: " + "[" * 3000,
        "drain_seconds: !!int x\n",
        "listen: !!set x",
        "? [a, [b]]\n: 1",
        "drain_seconds: " + "9" * 5000,
    ],
)
def test_what_the_parser_stumbles_over_is_a_mistake_like_others(text: str) -> None:
    with pytest.raises(ConfigError, match=r"pgveil\.yaml: not YAML that can be read") as caught:
        parse_config(text, FILE)
    assert len(str(caught.value)) < 100


def test_system_authorities_certify_anybody() -> None:
    (fault,) = faults("server: {sslmode: require, root_certificate: system}\n")
    assert "use sslmode: verify-full" in fault


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "pgveil.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(path)
    path.write_text("workers: 2\n")
    assert load_config(path).audit == tmp_path / "audit"


def test_the_documentation_is_the_codes() -> None:
    """Run `pgveil config-reference > docs/configuration.md` after a change."""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


def test_every_setting_has_a_form_and_an_explanation() -> None:
    sections: list[type[Any]] = [Config, *module._SECTIONS.values()]
    for section in sections:
        for setting in fields(section):
            assert setting.metadata.get("doc") or setting.name in {"file", "engine", *module._SECTIONS}


def test_zero_is_a_number_like_others() -> None:
    """ruamel reads it as a class of its own, and no socket could be made with that port."""
    port = parse_config("listen: {port: 0}", Path("pgveil.yaml")).listen.port
    assert (port, type(port)) == (0, int)
