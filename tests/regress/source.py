"""PostgreSQL's regression suite as files: where they are, and how they come from Debian's source package.

    python -m tests.regress.source

`.regress/suite/` gets `regress/` (sql, expected, data, the schedule), a `lib-VERSION/` for each server (regress.so, compiled here, and the two
modules of contrib/spi that the suite loads beside it) and RELEASE. Where the mirror has not the source of the release that is installed, it
has that of another, whose server and psql come along as `root/`: a suite fits its own release only. Nothing of the system is changed: apt
works in a directory of our own, from the mirror that the system's apt uses, and packages are unpacked, not installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.demo.postgres import PostgresUnavailableError, find_bin_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

MAJOR: Final = "15"  # the version whose source Debian 12 has
HOME: Final = Path(__file__).parents[2] / ".regress"
_PARTS: Final = ("sql", "expected", "data")
_APT: Final = Path("/etc/apt")
_SECONDS: Final = 300  # for one download
_ROOT: Final = "root"
_SUITE: Final = "suite"
_CONTRIB: Final = ("refint.so", "autoinc.so")
# The library is of 15; what later versions' header files no longer bring along, or define (two sizes of an array, for one check).
_LATER: Final = ("-include", "postgres.h", "-include", "utils/array.h")
_SIZES: Final = ("-DNUM_SPINLOCK_SEMAPHORES=0", "-DNUM_ATOMICS_SEMAPHORES=0")


class SourceMissingError(RuntimeError):
    """The suite's files can't be had here. The text says why, and what would bring them."""


@dataclass(frozen=True, slots=True)
class Source:
    """The suite of one release, as in "15.18", and a server for it: its `version`, exact `server` release, programs, and library of the suite."""

    release: str
    directory: Path
    version: str
    server: str
    bin_dir: Path
    library: Path


def find(version: str = MAJOR, home: Path = HOME) -> Source:
    """What was fetched before, for a server of major `version`. Raises SourceMissingError, PostgresUnavailableError."""
    root = home / _SUITE
    try:
        release = (root / "RELEASE").read_text().strip()
    except OSError:
        raise SourceMissingError(
            "PostgreSQL's regression files are not here: python -m tests.regress.source fetches them"
        ) from None
    own = root / _ROOT / f"usr/lib/postgresql/{MAJOR}/bin"
    bin_dir = own if version == MAJOR and own.exists() else find_bin_dir(version)
    server = _output([str(bin_dir / "postgres"), "--version"]).split()[2]
    library = root / f"lib-{version}"
    if not library.exists():
        headers = Path(_output([str(bin_dir / "pg_config"), "--includedir-server"]).strip())
        _library(root, bin_dir, headers, library)
    return Source(release, root / "regress", version, server, bin_dir, library)


def fetch(home: Path = HOME) -> None:
    """Bring the suite here by apt and compile its library. Raises SourceMissingError, PostgresUnavailableError."""
    find_bin_dir(MAJOR)
    for program in ("apt-get", "gcc", "dpkg", "tar"):
        if shutil.which(program) is None:
            raise SourceMissingError(f"there is no {program} here to bring PostgreSQL's regression files with")
    work, root = home / "work", home / _SUITE
    for path in (work, root):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    try:
        release, archive = _source_package(f"postgresql-{MAJOR}", work)
        _binary_package(f"postgresql-server-dev-{MAJOR}={release}", work / "dev")
        if release != _output(["dpkg-query", "-W", "-f", "${Version}", f"postgresql-{MAJOR}"]):
            for name in ("postgresql", "postgresql-client"):
                _binary_package(f"{name}-{MAJOR}={release}", work / _ROOT)
            (work / _ROOT).rename(root / _ROOT)
        _suite(_unpacked(archive, work), root / "regress")
        own = root / _ROOT / f"usr/lib/postgresql/{MAJOR}/bin"
        bin_dir = own if own.exists() else find_bin_dir(MAJOR)
        _library(root, bin_dir, work / f"dev/usr/include/postgresql/{MAJOR}/server", root / f"lib-{MAJOR}")
        (root / "RELEASE").write_text(release.partition("-")[0] + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _suite(tree: Path, target: Path) -> None:
    """Take the suite's own files out of a source tree."""
    origin = tree / "src/test/regress"
    for part in _PARTS:
        shutil.copytree(origin / part, target / part)
    for name in ("parallel_schedule", "regress.c"):
        shutil.copy(origin / name, target)


def _library(root: Path, bin_dir: Path, headers: Path, target: Path) -> None:
    """Compile the suite's functions in C for one server."""
    if not (headers / "postgres.h").exists():
        raise SourceMissingError(f"the header files of the server are not in {headers}")
    making = target.with_suffix(".new")
    making.mkdir(exist_ok=True)
    config = (headers / "pg_config_manual.h").read_text()
    sizes = [option for option in _SIZES if option[2:].partition("=")[0] not in config]
    command = ["gcc", "-O1", "-w", "-shared", "-fPIC", *_LATER, *sizes, f"-I{headers}", "-o"]
    _output([*command, str(making / "regress.so"), str(root / "regress" / "regress.c")])
    for name in _CONTRIB:
        if (bin_dir.parent / "lib" / name).exists():
            shutil.copy(bin_dir.parent / "lib" / name, making)
    making.rename(target)


def _source_package(name: str, work: Path) -> tuple[str, Path]:
    """The newest release that the mirror has the source of, and its upstream archive."""
    options = _apt_options(work)
    _output(["apt-get", *options, "update"])
    listed = _output(["apt-cache", *options, "showsrc", name])
    releases = re.findall(r"^Version: (\S+)$", listed, re.MULTILINE)
    reason = "no source package of that name"
    for release in sorted(set(releases), key=lambda text: [int(n) for n in re.findall(r"\d+", text)], reverse=True):
        try:
            _output(["apt-get", *options, "source", "--download-only", f"{name}={release}"], cwd=work)
        except SourceMissingError as error:
            reason = str(error)
            continue
        return release, next(work.glob("*.orig.tar.*"))
    raise SourceMissingError(f"{name}: {reason}")


def _binary_package(name: str, target: Path) -> None:
    """A package unpacked and not installed. It is asked for by the system's own lists."""
    packages = target.parent / "packages"
    packages.mkdir(exist_ok=True)
    _output(["apt-get", "-o", "APT::Sandbox::User=root", "download", name], cwd=packages)
    (package,) = packages.glob("*.deb")
    _output(["dpkg", "-x", str(package), str(target)])
    package.unlink()


def _apt_options(work: Path) -> list[str]:
    """apt with state of its own, and with `deb-src` for what the system's Debian sources have as `deb`."""
    (work / "lists/partial").mkdir(parents=True)
    (work / "cache/archives/partial").mkdir(parents=True)
    parts = work / "parts"
    parts.mkdir()
    for path in _debian_sources():
        text = path.read_text()
        text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
        (parts / path.name).write_text(re.sub(r"^deb\b", "deb-src", text, flags=re.MULTILINE))
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _debian_sources() -> Iterator[Path]:
    for path in (_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("debian*"))):
        if path.is_file() and path.read_text().strip():
            yield path


def _unpacked(archive: Path, work: Path) -> Path:
    tree = work / "tree"
    tree.mkdir()
    _output(["tar", "-xf", str(archive), "-C", str(tree), "--wildcards", "*/src/test/regress/*"])
    return next(tree.iterdir())


def _output(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceMissingError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SourceMissingError(f"{command[0]} failed: {''.join(last)}")
    return done.stdout


def main() -> int:
    """Fetch the suite if it is not here yet."""
    try:
        try:
            source = find()
        except SourceMissingError:
            fetch()
            source = find()
    except (SourceMissingError, PostgresUnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the regression suite of PostgreSQL {source.release} is in {source.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
