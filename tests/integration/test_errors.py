"""Every error that a person may meet is one line, which names the thing and what to do: a table of them, each provoked.

The table is errors.txt. What is typed there is run by a shell, on real servers, stores and mounts, which nothing in the
table changes. No URL's user, password or query may be seen: a secret there is `s3cret`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

import pytest

from tests.certificates import Authority
from tests.mounts import ROOT, Leftovers, Mounts, lazyfs, run
from tests.servers import Nginx

OF_ROOT = "What only root can make"
"""The heading of the last rows."""

PLACES = {
    "LF": "\n",
    "AN_ID": "url-00000000000000",
    "UNPRIVILEGED": "setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -all",
    "NOBODY": "setpriv --reuid 12345 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search",
}
"""What some names in it stand for; those of servers, stores and mounts are added."""

SERVER = """
location = /denied { return 403; }
location = /gone { return 410; }
location = /busy { return 503; }
location = /loop { return 302 /loop; }
location = /strange { return 302 ftp://host/x; }
location = /packed { add_header Content-Encoding gzip; return 200 "x"; }
location = /page/ { default_type text/plain; return 200 "no index"; }
location = /refused { auth_basic x; auth_basic_user_file /dev/null; }
location = /v2/denied/manifests/1 { return 403; }
"""


class Row(NamedTuple):
    """A command as a person types it, what it ends with, and what its line must have: the thing, and the remedy."""

    does: str
    status: int
    names: str
    remedy: str
    of_root: bool


def rows() -> dict[str, Row]:
    """Read the table."""
    parts = (Path(__file__).parent / "errors.txt").read_text().split(f"\n# {OF_ROOT}\n")
    found: dict[str, Row] = {}
    for part, for_root in zip(parts, (False, True), strict=True):
        for block in part.split("\n\n"):
            if block.strip() and not block.strip().startswith("#"):
                name, does, says = block.strip().splitlines()
                status, names, remedy = says.strip().split(" | ")
                found[name] = Row(does.removeprefix("  $ "), int(status), names, remedy, for_root)
    return found


ROWS = rows()
assert len(ROWS) > 50, "the table is read as it was meant"


class World:
    """Servers, stores and mounts for the table; `places` are what `$NAME` in it stands for."""

    def __init__(self, base: Path, stack: contextlib.ExitStack) -> None:
        self.base = base
        for name in ("docroot", "at", "foreign", "open", "newer", "nonsense", "bin", "root/usr/sbin", "closed"):
            (base / name).mkdir(mode=0o700, parents=True)
        self._write_files()
        authority = Authority(base / "ca")
        plain = stack.enter_context(Nginx(base / "nginx", base / "docroot", server=SERVER))
        pem = authority.issue("server", "IP:127.0.0.1")
        secure = stack.enter_context(Nginx(base / "nginx-tls", base / "docroot", tls=pem))
        self.places = PLACES | {"BASE": str(base), "URL": plain.url, "HOST": plain.url[7:], "TLS": secure.url[8:]}
        self.places |= {"PORT": str(plain.port), "TLSPORT": str(secure.port)}
        self._make_stores(plain.url)
        mounts = Mounts(base)
        stack.callback(mounts.end)
        live = mounts(f"{plain.url}/disk.img", store=base / "mounted", options=["--no-takeover"])
        dead = mounts(f"{plain.url}/disk.img", store=base / "mounted")
        dead.kill()
        self.places |= {"MNT": str(live.at), "DEAD": str(dead.at)}
        stack.enter_context(held(live.path("disk.img")))

    def _write_files(self) -> None:
        base = self.base
        (base / "docroot" / "disk.img").write_bytes(bytes(range(256)) * 4096)
        (base / "docroot" / "large.img").write_bytes(bytes(24 << 20))
        (base / "docroot" / "a.txt").write_text("hello\n")
        (base / "foreign" / "letter").write_text("not a store, and too large for 4 KiB" * 1000)
        (base / "open" / "letter").write_text("not a store")
        (base / "open").chmod(0o755)
        (base / "closed").chmod(0o500)
        (base / "newer" / "FORMAT").write_text("lazyfs store 99\n")
        (base / "nonsense" / "FORMAT").write_text("nonsense\n")
        (base / "file").write_text("a file")
        (base / "not.toml").write_text("not toml [")
        (base / "other.toml").write_text("[other]\n")
        (base / "latin.toml").write_bytes(b"\xff\xfe")
        (base / "headers").write_text("Good: one\nbad s3cret\n")
        (base / "binary").write_bytes(b"\xff\xfe")
        (base / "root/usr/sbin/mount.lazyfs").write_text("somebody else's")
        for name, module in (("lazyfs", "lazyfs.cli"), ("mount.lazyfs", "lazyfs.cli.helper")):
            script = base / "bin" / name
            script.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                              f"from {module} import main\nmain()\n")  # fmt: skip
            script.chmod(0o755)

    def _make_stores(self, url: str) -> None:
        did("fetch", "--store", self.base / "kept", f"{url}/disk.img", f"{url}/a.txt")
        did("pin", "--store", self.base / "kept", f"{url}/disk.img")
        did("fetch", "--store", self.base / "pinned", f"{url}/large.img")
        did("pin", "--store", self.base / "pinned", f"{url}/large.img")
        did("fetch", "--store", self.base / "twins", f"{url}/a.txt")
        (blob,) = (self.base / "twins").glob("blobs/*/*")
        (blob.parent / f"{blob.name[:-1]}{'0' if blob.name[-1] != '0' else '1'}").mkdir(mode=0o700)
        (kept,) = (self.base / "kept").glob("blobs/*/*/pin")
        self.places |= {"START": blob.name[:16], "KEPT": kept.parent.name[:16]}

    def provoke(self, row: Row, at: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
        """Run a row in a shell, and return how it ended and what the names in it stood for."""
        places = {**self.places, "AT": str(at)}
        told = [f"{name}={shlex.quote(value)}" for name, value in places.items()]
        told += [f"PATH={self.base}/bin:$PATH", f"LAZYFS_STORE={self.base}/store"]
        return run(["sh", "-c", f"export {' '.join(told)}; {row.does}"], check=False), places


def did(*words: str | Path) -> None:
    """Run a command that must succeed."""
    done = lazyfs(*words)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Have a process that has a file open."""
    script = 'exec <"$0"; echo; exec sleep 1000'
    with subprocess.Popen(["sh", "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield
        process.kill()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Make the world, elsewhere than where a test may leave nothing: it stays for the next one."""
    base = Path(tempfile.mkdtemp(prefix="lazyfs-errors-"))
    try:
        with contextlib.ExitStack() as stack:
            yield World(base, stack)
        assert not Leftovers.settled(base)
    finally:
        Leftovers.below(base).remove()
        shutil.rmtree(base)


@pytest.mark.parametrize("name", ROWS)
def test_an_error_is_one_line_that_names_the_thing_and_the_remedy(name: str, world: World, tmp_path: Path) -> None:
    row = ROWS[name]
    if row.of_root and os.geteuid() != 0:
        pytest.skip("only root can make what it needs")
    done, places = world.provoke(row, tmp_path)
    line = done.stderr
    assert done.returncode == row.status, line
    assert done.stdout == ""
    assert line.startswith("mount.lazyfs: " if row.does.startswith("mount.lazyfs") else "lazyfs: "), line
    assert line.endswith("\n")
    assert line[:-1].isprintable(), "one line, without control characters"
    assert Template(row.names).substitute(places) in line, line
    assert Template(row.remedy).substitute(places) in line, line
    assert "s3cret" not in line
    assert "Traceback" not in line
    assert not line.endswith(".\n"), line
    assert ". " not in line.replace("... ", ""), "one sentence"
