"""Write the compose file's secrets from .env: `python make_secrets.py DIRECTORY`, once, before the first start. Nothing is overwritten.

A password may hold any characters: in a URL `@`, `:`, `/` and the like have to be written otherwise (RFC 3986, 2.1).
"""

# ruff: noqa: INP001, T201 - run as a script

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from urllib.parse import quote


def environment(file: Path) -> dict[str, str]:
    """The file's lines NAME=VALUE, as compose reads them: quotes around a value are no part of it."""
    found = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[name.strip()] = value[1:-1] if quoted else value.strip()
    return found


def url(password: str) -> str:
    """The catalog login's connection URL inside the compose file's network."""
    return f"postgresql://pgveil:{quote(password, safe='')}@postgres:5432/bank"


def main(directory: Path) -> int:
    """The exit code: 0 done, 2 where a password is missing or a secret is there already."""
    home = directory / "secrets"
    password = environment(directory / ".env").get("PGVEIL_CATALOG_PASSWORD", "")
    present = [name for name in ("postgres_password", "catalog_dsn") if (home / name).exists()]
    if present or not password:
        print(
            f"{home / present[0]} is there already" if present else "set PGVEIL_CATALOG_PASSWORD in .env",
            file=sys.stderr,
        )
        return 2
    home.mkdir(mode=0o700, exist_ok=True)
    # Compose mounts them as they are, for accounts with other numbers; the directory keeps others out.
    for name, content in (("postgres_password", secrets.token_hex(24)), ("catalog_dsn", url(password))):
        (home / name).write_text(content)
        (home / name).chmod(0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
