"""`lazyfs upgrade`: what is installed now takes over a running mount, or the mount goes on as it was."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import lazyfs as package
from lazyfs import mountinfo
from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, made
from tests.integration.test_takeover import daemon, end
from tests.mounts import Mount, Mounts, lazyfs, on_mount, run, start, wait_for_end
from tests.servers import Nginx


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An installation of its own, which a test may change."""
    place = tmp_path / "installed"
    shutil.copytree(Path(package.__file__).parent, place / "lazyfs", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def command(installed: Path, *words: str | Path) -> list[str]:
    call = f"import sys; sys.path.insert(0, {str(installed)!r}); from lazyfs.cli import main; main()"
    return [sys.executable, "-P", "-c", call, *map(str, words)]


def mounted(installed: Path, tmp_path: Path, *words: str) -> Mount:
    at = tmp_path / "mount"
    at.mkdir()
    run(command(installed, "mount", "--store", tmp_path / "store", *words, at))
    mount = Mount(at, tmp_path / "store", 0)
    mount.pid = daemon(mount)
    return mount


def change(installed: Path, name: str, old: str, new: str) -> None:
    path = installed / "lazyfs" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_new_code_takes_over_while_it_is_read(nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path) -> None:
    source = made(docroot, "blob", 20 * BLOCK + 5)
    mount = mounted(installed, tmp_path, nginx.url + "/blob", "--metrics", ":0")
    before = mount.status()
    reader = start(under.read_through_takeovers, mount.path("blob"), str(source), 4.0)
    reader.wait_until_open()
    change(installed, "__init__.py", f'"{package.__version__}"', '"9.9.9"')
    done = run(command(installed, "upgrade", mount.at))
    after = mount.status()
    assert done.stdout == f"{mount.at}: lazyfs 9.9.9 has taken over, daemon {after['pid']}\n"
    assert after["version"] == "9.9.9"
    assert after["pid"] != before["pid"]
    assert after["metrics"] == before["metrics"], "who scrapes it goes on"
    assert after["counters"]["daemon_restarts"] == 0
    assert after["takeover"] == {"on": True, "reason": None}
    assert reader.result() > 0
    end(mount)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("mount.py", "async def run(", "this is no Python"),  # it does not even start
        ("fuse.py", "    native.LIBRARY.go_on(", "    os._exit(9)  # "),  # when the old one has been stopped
    ],
)
def test_a_new_one_that_fails_leaves_the_old_one_at_work(
    nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path, name: str, old: str, new: str
) -> None:
    source = made(docroot, "blob", 20 * BLOCK + 5)
    mount = mounted(installed, tmp_path, nginx.url + "/blob", "--no-passthrough")
    reader = start(under.read_through_takeovers, mount.path("blob"), str(source), 4.0)
    reader.wait_until_open()
    change(installed, name, old, new)
    done = run(command(installed, "upgrade", mount.at), check=False)
    assert done.returncode == 1
    why = "the new daemon has died; the mount's log may say why"
    assert done.stderr == f"lazyfs: {mount.at} is not upgraded: {why}\n"
    assert daemon(mount) == mount.pid
    assert reader.result() > 0
    assert f"not upgraded: {why}" in mount.log()
    mount.umount()


def test_a_mount_that_cannot_be_upgraded_says_why(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob", options=["--no-takeover"])
    done = lazyfs("upgrade", mount.at)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"lazyfs: {mount.at} is not upgraded: --no-takeover was given; "
        f"unmount it with: lazyfs umount {mount.at}, and mount it again\n"
    )
    assert lazyfs("upgrade").stderr == "lazyfs: name the mounts to upgrade, or say --all\n"


class Gate:
    """Where the new daemon waits, once it is prepared."""

    def __init__(self, installed: Path, tmp_path: Path) -> None:
        self._reached, self._open = tmp_path / "reached", tmp_path / "open"
        wait = f"open({str(self._reached)!r}, 'w').close()\n            while not os.path.exists({str(self._open)!r}): "
        turn = "await supervised.turn()"
        change(installed, "mount.py", turn, f"{wait}await trio.sleep(0.01)\n            {turn}")

    def wait_until_reached(self) -> None:
        deadline = time.monotonic() + real.PATIENCE
        while not self._reached.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def open(self) -> None:
        self._open.touch()


def test_names_that_come_meanwhile(nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path) -> None:
    """The new daemon has read what there was before; what comes until its turn, it hears of then."""
    for name in ("one", "two", "three"):
        made(docroot, name, 100)
    mount = mounted(installed, tmp_path, nginx.url + "/one")
    gate = Gate(installed, tmp_path)
    assert lazyfs("add", mount.at, nginx.url + "/three").returncode == 0
    under_way = start(under.output_of, command(installed, "upgrade", mount.at))
    gate.wait_until_reached()
    assert on_mount(os.listdir, mount.path()) == ["one", "three"], "the old one answers"
    assert lazyfs("add", mount.at, nginx.url + "/two").returncode == 0
    assert lazyfs("remove", mount.at, "one").returncode == 0
    gate.open()
    assert "has taken over" in under_way.result()
    assert daemon(mount) != mount.pid
    assert sorted(on_mount(os.listdir, mount.path())) == ["three", "two"]
    end(mount)


def test_the_old_one_dies_meanwhile(nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path) -> None:
    made(docroot, "one", 100)
    mount = mounted(installed, tmp_path, nginx.url + "/one")
    gate = Gate(installed, tmp_path)
    under_way = start(under.output_of, command(installed, "upgrade", mount.at))
    gate.wait_until_reached()
    os.kill(mount.pid, signal.SIGKILL)
    assert on_mount(os.listdir, mount.path()) == ["one"]
    assert "has taken over" in under_way.result(), "it is of the new code, too"
    assert mount.status()["counters"]["daemon_restarts"] == 1
    end(mount)


def test_the_mount_is_to_end_meanwhile(nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path) -> None:
    made(docroot, "one", 100)
    mount = mounted(installed, tmp_path, nginx.url + "/one")
    supervisor, gate = mount.supervisor, Gate(installed, tmp_path)
    under_way = start(under.output_of, command(installed, "upgrade", mount.at))
    gate.wait_until_reached()
    os.kill(supervisor, signal.SIGTERM)
    wait_for_end([supervisor, mount.pid])
    assert f"{mount.at} is not upgraded" in under_way.result()
    assert mountinfo.mount_at(str(mount.at)) is None


def test_all_mounts_there_are(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    """In a mount namespace of their own: other mounts of this host are none of our business."""
    made(docroot, "one", 100)
    ours = " ".join([sys.executable, "-m", "lazyfs"])
    script = f"""
        umount -l -a -t fuse.lazyfs
        {ours} upgrade --all
        for at in a b; do
            mkdir $1/$at
            {ours} mount --store $1/store {nginx.url}/one $1/$at
        done
        {ours} upgrade --all
        {ours} umount $1/a && {ours} umount $1/b
    """
    done = run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", tmp_path])
    said = re.sub(r"daemon \d+", "daemon PID", done.stdout).splitlines()
    after = f"lazyfs {package.__version__} has taken over, daemon PID"
    assert said == ["no mounts", f"{tmp_path}/a: {after}", f"{tmp_path}/b: {after}"]
