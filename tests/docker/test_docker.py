"""The container files, as far as they can be judged without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from lifecycle.demo.bank import roles_sql, rules_yaml, schema_sql
from proxy.config import load_config
from proxy.metrics import Metrics, SupervisorMetrics
from proxy.probes import ProbeServer, Readiness, application
from rules.load import load_rules

if TYPE_CHECKING:
    from lifecycle.demo.postgres import Postgres

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROMETHEUS = DOCKER / "prometheus"
RULES = PROMETHEUS / "pgveil.rules.yml"


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml(DOCKER / "compose.yaml")


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, rest in lines]


def last_stage(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    start = max(at for at, (word, _) in enumerate(dockerfile) if word == "FROM")
    return dockerfile[start:]


def test_the_image_is_slim_pinned_and_built_in_two_stages(dockerfile: list[tuple[str, str]]) -> None:
    bases = [rest.split()[0] for word, rest in dockerfile if word == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)


def test_the_image_runs_as_a_fixed_number_that_is_not_root(dockerfile: list[tuple[str, str]]) -> None:
    users = [rest for word, rest in last_stage(dockerfile) if word == "USER"]
    assert users == ["10001:10001"]
    commands = [word for word, _ in last_stage(dockerfile)]
    assert commands.index("USER") > max(at for at, word in enumerate(commands) if word in {"RUN", "COPY"})


def test_what_the_image_copies_exists_and_every_package_is_in_it(dockerfile: list[tuple[str, str]]) -> None:
    sources = [s for word, rest in dockerfile if word == "COPY" and "--from" not in rest for s in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.findall(r'"(\w+)"', re.findall(r"^packages = \[(.+)\]$", project, re.MULTILINE)[0])
    assert set(packages) <= set(sources)
    allowed = [
        line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert sorted(allowed) == sorted(sources)


def test_the_image_has_a_health_check_and_no_secret(dockerfile: list[tuple[str, str]]) -> None:
    stage = last_stage(dockerfile)
    assert any(word == "HEALTHCHECK" and "/opt/pgveil/healthcheck.py" in rest for word, rest in stage)
    assert not any(word in {"ARG", "ADD"} for word, _ in dockerfile)
    assert not re.search(r"password|secret|token", " ".join(rest for _, rest in dockerfile), re.IGNORECASE)


def test_compose_pins_its_images(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"]), name


def test_compose_names_files_that_exist(compose: Any) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                assert source in compose["volumes"], source
        if "build" in service:
            assert ((DOCKER / service["build"]["context"]) / service["build"]["dockerfile"]).exists()
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", [])) <= set(compose["services"])


def test_pgveil_and_prometheus_run_without_rights(compose: Any) -> None:
    for name in ("pgveil", "prometheus"):
        service = compose["services"][name]
        assert int(service["user"].split(":")[0]) > 0
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_pgveil_and_prometheus_are_reached_from_the_host_and_from_it_alone(compose: Any) -> None:
    assert "ports" not in compose["services"]["postgres"]
    assert compose["services"]["postgres"]["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}
    ports = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert ports
    assert all(p.startswith("127.0.0.1:") for p in ports)


def test_no_password_is_written_down(compose: Any) -> None:
    environment = compose["services"]["postgres"]["environment"]
    for name, value in environment.items():
        if name.endswith("_PASSWORD"):
            assert re.fullmatch(rf"\$\{{{name}:\?[^}}]+\}}", value)
    assert all(line.endswith("=") for line in (DOCKER / ".env.example").read_text().splitlines() if "=" in line)
    ignored = (DOCKER / ".gitignore").read_text().splitlines()
    assert {".env", "secrets/"} <= set(ignored)


def test_the_sample_configuration_loads_and_fits_the_container(compose: Any, dockerfile: list[tuple[str, str]]) -> None:
    config = load_config(DOCKER / "pgveil.yaml")
    service = compose["services"]["pgveil"]
    assert str(config.server.hosts[0]) == "postgres:5432"
    assert service["ports"] == [f"127.0.0.1:{config.listen.port}:{config.listen.port}"]
    exposed = next(rest for word, rest in last_stage(dockerfile) if word == "EXPOSE")
    assert exposed.split() == [str(config.listen.port), str(config.metrics.port)]
    assert str(config.catalog.dsn_file).startswith("/run/secrets/")
    assert config.catalog.dsn_file is not None
    assert config.catalog.dsn_file.name in service["secrets"]
    volume = next(rest for word, rest in last_stage(dockerfile) if word == "VOLUME")
    for directory in (config.keys, config.audit):
        assert str(directory.parent) in volume
    scrape = yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"pgveil:{config.metrics.port}"]
    assert float(service["stop_grace_period"].rstrip("s")) >= (
        config.limits.lame_duck_seconds + config.limits.drain_seconds + config.limits.close_seconds
    )


def test_the_sample_rules_are_the_banks_and_load() -> None:
    assert (DOCKER / "rules.yaml").read_text() == rules_yaml()
    assert load_rules(DOCKER / "rules.yaml").protected_columns()


def test_the_database_scripts_run(pg: Postgres) -> None:
    database = pg.create_database()
    pg.psql(schema_sql(), database)
    pg.psql(roles_sql(), database)
    # Roles are the whole server's, which other tests use: everything this script does is undone.
    script = (DOCKER / "postgres" / "30-logins.sql").read_text()
    names = re.findall(r"^\\getenv \w+ (\w+)$", script, re.MULTILINE)
    assert names == ["PGVEIL_CATALOG_PASSWORD", "APP_PASSWORD", "STAFF_PASSWORD"]
    asked = "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256$%';"
    done = subprocess.run(
        [str(pg.bin_dir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", pg.dsn(database), "-f", "-"],
        input=f"BEGIN;\n{script}\n{asked}\nROLLBACK;\n",
        env={**os.environ, **dict.fromkeys(names, "it's \\ a secret")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "6"


def health(port: int) -> int:
    environ = {**os.environ, "PGVEIL_PROBES": f"127.0.0.1:{port}"}
    return subprocess.run(
        [sys.executable, str(DOCKER / "healthcheck.py")], env=environ, timeout=30, check=False
    ).returncode


def test_the_health_check_follows_readyz() -> None:
    state = {"ready": True}
    server = ProbeServer(
        "127.0.0.1", 0, application(CollectorRegistry(), Readiness({"catalog": lambda: state["ready"]}))
    )
    server.start()
    assert health(server.port) == 0
    state["ready"] = False
    assert health(server.port) == 1
    server.close()
    assert health(server.port) == 1


def metric_names() -> set[str]:
    registry = CollectorRegistry()
    Metrics(registry)
    SupervisorMetrics(registry, "1")
    names = {"up"}
    for metric in registry.collect():
        names |= {metric.name, *(s.name for s in metric.samples if not s.name.endswith("_created"))}
    return names


def alerts() -> list[Any]:
    return [rule for group in yaml(RULES)["groups"] for rule in group["rules"]]


def test_alerts_use_metrics_that_there_are() -> None:
    known = metric_names()
    for rule in alerts():
        used = set(re.findall(r"\b(?:pgveil_\w+|up(?=\{))", rule["expr"]))
        assert used, rule["alert"]
        assert used <= known, rule["alert"]


def test_alerts_use_labels_that_the_metrics_have() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    SupervisorMetrics(registry, "1")
    labels: dict[str, dict[str, set[str]]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            for name, value in sample.labels.items():
                labels.setdefault(sample.name, {}).setdefault(name, set()).add(value)
    for rule in alerts():
        for metric_name, selector in re.findall(r"(pgveil_\w+)\{([^}]*)\}", rule["expr"]):
            for name, values in re.findall(r'(\w+)=~?"([^"]*)"', selector):
                assert set(values.split("|")) <= labels[metric_name][name], rule["alert"]


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    rules = alerts()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]


def test_every_alert_has_a_test() -> None:
    tested = {
        t["alertname"]
        for case in yaml(PROMETHEUS / "pgveil.rules.test.yml")["tests"]
        for t in case.get("alert_rule_test", [])
    }
    assert tested == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("test", "rules", "pgveil.rules.test.yml"),
        ("check", "rules", "pgveil.rules.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_computed_fits_into_the_memory(compose: Any) -> None:
    config = load_config(DOCKER / "pgveil.yaml")
    calculator = config.calculator
    mib = 1 << 20
    most = (
        config.workers * (calculator.connections * calculator.memory + calculator.held)
        + (config.workers + 2) * 200 * mib
    )
    limit = compose["services"]["pgveil"]["mem_limit"]
    assert limit.endswith("g")
    assert most <= int(limit[:-1]) << 30


@pytest.mark.parametrize("password", ["plain", "p@ss:w/rd?#[%41]&x=1 ", "密码'\"$(x)"])
def test_secrets_of_any_passwords(password: str, tmp_path: Path) -> None:
    quoted = f"'{password}'" if "'" not in password else password
    (tmp_path / ".env").write_text(f"# made by hand\nPGVEIL_CATALOG_PASSWORD={quoted}\nAPP_PASSWORD=a\n")
    command = [sys.executable, str(DOCKER / "make_secrets.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    dsn = (tmp_path / "secrets" / "catalog_dsn").read_text()
    parsed = urlsplit(dsn)
    assert (unquote(parsed.password or ""), parsed.hostname, parsed.path) == (password, "postgres", "/bank")
    assert re.fullmatch(r"[0-9a-f]{48}", (tmp_path / "secrets" / "postgres_password").read_text())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert (tmp_path / "secrets" / "catalog_dsn").read_text() == dsn


def test_secrets_need_a_password(tmp_path: Path) -> None:
    shutil.copy(DOCKER / ".env.example", tmp_path / ".env")
    done = subprocess.run(
        [sys.executable, DOCKER / "make_secrets.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "set PGVEIL_CATALOG_PASSWORD in .env\n")


def test_the_first_start_applies_and_backs_up() -> None:
    page = (DOCKER / "README.md").read_text()
    start = page[page.index("## First start") : page.index("## What is where")]
    order = ["keys init", "up -d", "apply --reload", "keys backup", "psql"]
    assert [start.index(word) for word in order] == sorted(start.index(word) for word in order)
