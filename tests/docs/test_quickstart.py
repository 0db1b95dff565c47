"""docs/quickstart.md, word for word: every command run in its order against a real server, every output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle.demo.postgres import Postgres, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = "docs/quickstart.md"
MARK = "@@@ block"
# Passwords count: the logins of the page have them, and come in by SCRAM through pgveil.
HBA = "host all postgres all trust\nhost all all all scram-sha-256\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres.make("16", hba=HBA) as made:
        made.psql("CREATE DATABASE shop")
        yield made


def script(blocks: list[Any], ports: dict[str, str]) -> str:
    """The page's `sh` blocks as one script; a block whose fence says `exit=1` must end so."""
    parts = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, block in enumerate(blocks):
        if block.language != "sh":
            continue
        text = block.text
        for old, new in ports.items():
            text = text.replace(old, new)
        parts.append(f"echo '{MARK} {number}'")
        if wanted := block.info.removeprefix("exit="):
            text = f"set +e\n(\nset -e\n{text})\ncode=$?\nset -e\n[ $code = {wanted} ]\n"
        parts.append(text)
    return "\n".join(parts)


def pattern(line: str) -> str:
    """A line of the page as a regular expression over an output line: blanks are one blank, `...` is anything."""
    words = " ".join(line.split())
    return ".*".join(re.escape(part) for part in re.split(r" ?\.\.\. ?", words))


@pytest.mark.timeout(700)
def test_the_page(blocks_of: Callable[[str], list[Any]], server: Postgres, tmp_path: Path) -> None:
    blocks = blocks_of(PAGE)
    ports = {"127.0.0.1:5432": f"127.0.0.1:{server.port}", "6432": str(free_port()), "9632": str(free_port())}
    for block in blocks:
        if block.language == "yaml":
            text = block.text
            for old, new in ports.items():
                text = text.replace(old, new)
            (tmp_path / block.info).write_text(text)
    command = tmp_path / "bin" / "pgveil"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m proxy "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script(blocks, ports)],
        cwd=tmp_path,
        env={
            "PATH": os.pathsep.join([str(tmp_path / "bin"), str(server.bin_dir), os.environ["PATH"]]),
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "COLUMNS": "110",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,  # a limit, not a judgement
        check=False,
    )
    assert done.returncode == 0, done.stdout
    outputs = {
        int(number): text for number, text in re.findall(rf"{MARK} (\d+)\n(.*?)(?={MARK}|\Z)", done.stdout, re.DOTALL)
    }
    assert len(outputs) == sum(b.language == "sh" for b in blocks) > 10
    for number, block in enumerate(blocks):
        if block.language == "text":
            got = [" ".join(line.split()) for line in outputs[number - 1].splitlines()]
            for line in block.text.splitlines():
                assert any(re.search(pattern(line), each) for each in got), (
                    f"{line!r} is not in:\n{outputs[number - 1]}"
                )


def test_every_block_is_one_that_the_test_knows(blocks_of: Callable[[str], list[Any]]) -> None:
    blocks = blocks_of(PAGE)
    assert {b.language for b in blocks} == {"sh", "yaml", "text", "console"}
    assert [b.info for b in blocks if b.language == "yaml"] == ["rules.yaml", "pgveil.yaml"]
    assert all(blocks[n - 1].language == "sh" for n, b in enumerate(blocks) if b.language == "text")
    assert sum(b.language == "console" for b in blocks) == 1, "only the installation is not run"
