"""Two live keys of a deterministic domain: equal values would differ in the database, so pgveil does not start."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from keys.providers.file import FileMasterKey
from keys.ring import KeyRing
from lifecycle.demo.postgres import free_port
from tests.e2e.world import start_pgveil, write_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.world import World


def test_it_says_so_and_ends(world: World, tmp_path: Path) -> None:
    home = tmp_path / "two"
    home.mkdir()
    shutil.copy(world.home / "rules.yaml", home / "rules.yaml")
    shutil.copytree(world.home / "keys", home / "keys")
    KeyRing.open(home / "keys", FileMasterKey.load(home / "keys" / "master.key")).create("pan", os.urandom)
    log = home / "pgveil.log"
    process = start_pgveil(write_config(home, world.pg, world.database, free_port(), free_port()), log)
    assert process.wait(30) == 2
    assert "several live keys" in log.read_text()
