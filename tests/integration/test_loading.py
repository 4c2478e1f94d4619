"""What commands load: whoever runs them waits for it, so what is loaded without need is found here.

A list that has to grow is made longer on purpose; to load it later, or behind, is better.
"""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

from tests import mounts as running
from tests import under
from tests.mounts import ROOT, Mounts, lazyfs, on_mount
from tests.servers import Nginx

HOOK = """
import atexit, os, signal, sys

place = {place!r}
loaded = lambda: {{name for name, module in sys.modules.items() if module is not None}}
there = loaded()

def show(*_):
    with open(place, "w") as file:
        print(*sorted(loaded() - there), file=file)

atexit.register(show)
signal.signal(signal.SIGUSR2, show)
"""
"""A sitecustomize, which Python loads first of all: it writes down what was loaded since, at the end or when asked."""

LATER = {
    "anyio", "asyncio", "html", "html.parser", "http.server", "httpcore", "httpx._main", "idna.uts46data",
    "lazyfs.cli.demo", "lazyfs.cli.fetching", "lazyfs.configuration", "lazyfs.settings", "lazyfs.sources.index",
    "lazyfs.sources.manifest", "lazyfs.store.fsck",
    "lazyfs.store.gc", "pygments", "rich", "rich.console", "tomllib", "unittest", "xml",
}  # fmt: skip
"""What no mount of a single file needs for its first byte, though something on the way there may want it one day."""


HELP = {"cli", "cli.commands", "cli.streams", "cli.values", "errors", "options", "records", "sizes"} | {
    f"cli.commands.{name}" for name in ("blobs", "helping", "hosts", "mounts", "options", "stores")
}
"""What of ours `--help` loads, and all that other commands load before they begin."""


SHOWING = {
    "buffers", "cli.mounting", "cli.saying", "cli.showing", "configuration", "configuration.files",
    "configuration.keys", "control", "entries", "extents", "given", "link", "mountinfo", "origin", "origin.headerlines",
    "privileges", "replacement", "sources", "sources.reference", "sources.spec", "store", "urls", "versions",
} | {
    f"store.{name}"
    for name in (
        "behind", "blobfile", "catalogue", "checking", "database", "eviction", "files", "holes", "layout", "locks",
        "mapping", "quota", "room", "running", "schema", "trash", "trouble",
    )
}  # fmt: skip
"""What `status` loads besides: the configuration, the store, and how to ask a mount."""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have all that is run write down, in the file that this names, what it has loaded."""
    place, hook = tmp_path / "modules", tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK.format(place=str(place)))
    monkeypatch.setitem(running.ENVIRONMENT, "PYTHONPATH", f"{hook}:{ROOT}")
    return place


def read(place: Path) -> set[str]:
    """Return what was written down."""
    return set(place.read_text().split())


def foreign(modules: set[str]) -> set[str]:
    """Return the packages that are neither Python's own nor ours."""
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    return {name for name in packages if not name.startswith(("_", "cython_"))} - {"lazyfs"}


def ours(modules: set[str]) -> set[str]:
    """Return those of ours, without their common name."""
    return {name.removeprefix("lazyfs.") for name in modules if name.startswith("lazyfs.")}


def test_help_loads_next_to_nothing(modules: Path) -> None:
    """The commands and their options: no store, no HTTP, no FUSE."""
    assert lazyfs("--help").returncode == 0
    loaded = read(modules)
    assert ours(loaded) == HELP
    assert foreign(loaded) == {"click", "xxhash"}
    assert not loaded & {"asyncio", "email", "http", "json", "logging", "socket", "ssl", "subprocess"}


def test_status_loads_what_it_shows(modules: Path, mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    """The store and the control socket: nothing that asks an origin, serves a mount or draws."""
    (docroot / "file").write_bytes(b"content")
    mounts(f"{nginx.url}/file")
    done = lazyfs("status", "--store", mounts.store)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = read(modules)
    assert foreign(loaded) == {"click", "xxhash"}
    assert ours(loaded) == HELP | SHOWING
    assert not loaded & {"asyncio", "html", "http", "rich", "ssl", "trio", "urllib.request"}


def test_what_a_mount_loads_before_its_first_byte(modules: Path, mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    """The command leaves all to its daemon, which has nothing of the command's, and only what a read takes."""
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"{nginx.url}/file")
    command = read(modules)
    assert foreign(command) == {"click", "xxhash"}
    assert not ours(command) & {"mount", "session", "store", "vfs", "fuse"}

    assert on_mount(under.read, mount.path("file"), 0, 7) == b"content"
    modules.unlink()
    os.mkfifo(modules)
    os.kill(mount.pid, signal.SIGUSR2)
    daemon = read(modules)
    assert daemon & LATER == set()
    expected = {"attr", "attrs", "h11", "httpx", "idna", "outcome", "pyfuse3", "sniffio", "sortedcontainers", "trio"}
    assert foreign(daemon) == expected | {"xxhash"}


def test_a_daemon_has_the_page_once_somebody_asks_for_it(
    modules: Path, mounts: Mounts, nginx: Nginx, docroot: Path
) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"{nginx.url}/file", options=("--metrics", ":0"))
    base = f"http://{mount.status()['metrics']}"
    loaded = []
    for path in ("/metrics", "/"):
        with urllib.request.urlopen(base + path, timeout=running.PATIENCE) as answer:
            assert answer.status == 200
        modules.unlink()
        os.mkfifo(modules)
        os.kill(mount.pid, signal.SIGUSR2)
        loaded.append(read(modules))
    before, after = loaded
    assert not before & {"lazyfs.page", "lazyfs.blockmap", "lazyfs.store.survey"}
    assert ours(after - before) == {"page", "blockmap", "store.survey"}
