"""The packages: what is in the sdist, what is in the wheel that is built from it, and that it works where it is put."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

import pytest

from lazyfs import __version__
from lazyfs.cli import manual
from tests.mounts import ENVIRONMENT, ROOT, run

BUILD = "import sys; from setuptools import build_meta as build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


@dataclass(frozen=True)
class Built:
    """The packages, the sdist's content unpacked, and a prefix in which the wheel is installed."""

    sdist: Path
    source: Path
    wheel: Path
    prefix: Path

    def lazyfs(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that was installed."""
        places = {"base": str(self.prefix), "platbase": str(self.prefix)}
        code = sysconfig.get_path("purelib", "posix_prefix", places)
        words = (str(self.prefix / "bin" / command), *words)
        return subprocess.run(
            words, env={**ENVIRONMENT, "PYTHONPATH": code}, cwd="/", capture_output=True, text=True, check=False
        )


def build(what: str, source: Path, to: Path, **environment: str) -> Path:
    """Build a package as pip would, but with what is here; return its file."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{what}", str(to)],
        env={**os.environ, "PYTHONPATH": "", "CFLAGS": "-O0", **environment},
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return to / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All of it, from what a clean checkout has."""
    base = tmp_path_factory.mktemp("packages")
    checkout, dist = base / "checkout", base / "dist"
    unwanted = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("lazyfs", "tests", "tools"):
        shutil.copytree(ROOT / name, checkout / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    dist.mkdir()
    sdist = build("sdist", checkout, dist)
    with tarfile.open(sdist) as file:
        file.extractall(base, filter="data")
    source = base / sdist.name.removesuffix(".tar.gz")
    wheel = build("wheel", source, dist)
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--ignore-installed"]
    run([sys.executable, "-m", "pip", *words, "--prefix", base / "prefix", wheel])
    return Built(sdist, source, wheel, base / "prefix")


def test_the_sdist(built: Built) -> None:
    with tarfile.open(built.sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "lazyfs/py.typed"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "lazyfs/native").glob("*.[ch]")} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "."))]


def test_the_wheel(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as file:
        names = set(file.namelist())
        about = f"lazyfs-{__version__}.dist-info"
        metadata = message_from_string(file.read(f"{about}/METADATA").decode())
        entries = file.read(f"{about}/entry_points.txt").decode()
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "lazyfs").rglob("*.py*") if path.suffix in (".py", ".pyi")}
    assert ours | {"lazyfs/py.typed", f"{about}/licenses/LICENSE"} <= names
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    parts = {f"lazyfs/native/{name}{suffix}" for name in ("front", "receiver", "tls")}
    assert {name for name in names if name.endswith((".so", ".c", ".h"))} == parts
    shared = {name.partition("/data/share/")[2] for name in names if "/data/" in name}
    completions = {"bash-completion/completions/lazyfs", "zsh/site-functions/_lazyfs"}
    pages = {f"man/man{name[-1]}/{name}" for name, _ in manual.pages()}
    assert shared == pages | completions | {"fish/vendor_completions.d/lazyfs.fish"}
    assert {name.partition("/")[0] for name in names} == {"lazyfs", about, f"lazyfs-{__version__}.data"}
    assert "lazyfs = lazyfs.cli:main\n" in entries
    assert "mount.lazyfs = lazyfs.cli.helper:main\n" in entries
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "MIT"
    assert any(line.startswith("pyfuse3") for line in metadata.get_all("Requires-Dist", ()))


def test_what_is_installed_works(built: Built, tmp_path: Path) -> None:
    assert built.lazyfs("lazyfs", "--version").stdout == f"lazyfs {__version__}\n"
    assert built.lazyfs("mount.lazyfs").returncode == 1
    told = json.loads(built.lazyfs("lazyfs", "doctor", "--json", "--store", str(tmp_path / "store")).stdout)
    found = {each["subject"]: each for each in told["findings"]}
    assert str(built.prefix) in found["lazyfs"]["what"]
    assert found["C parts"]["what"] == "all were built"
    assert found["packages"]["state"] == "ok"
    pages = sorted((built.prefix / "share/man").rglob("*.[18]"))
    assert run(["mandoc", "-T", "lint", "-W", "warning", *pages], check=False).stdout == ""


def test_without_a_compiler_the_wheel_lacks_the_c_parts(built: Built, tmp_path: Path) -> None:
    shutil.rmtree(built.source / "build")
    wheel = build("wheel", built.source, tmp_path, CC="false")
    with zipfile.ZipFile(wheel) as file:
        assert not [name for name in file.namelist() if name.endswith(".so")]
