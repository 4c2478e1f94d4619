"""install-units and what it installs, on a host of the test's own.

No systemd is started: one that is would set up the machine that the tests run on, /tmp included. Its own checker reads
the unit, and the commands that are in it are run as it would run them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import GUEST, MNT, Host
from tests.mounts import PATIENCE
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a host of its own")

UNIT = Path("/etc/systemd/system/lazyfs@.service")
LINKS = [Path("/usr/sbin/mount.lazyfs"), Path("/usr/sbin/mount.fuse.lazyfs")]


@pytest.fixture
def host() -> Iterator[Host]:
    """A host without anything of lazyfs but its commands."""
    with Host() as host:
        yield host


def there(host: Host) -> list[str]:
    """Return which of what is installed there is there."""
    return host.run("ls", "-d", *LINKS, UNIT, "/etc/lazyfs").stdout.split()


def test_all_is_installed_once_and_removed_again(host: Host) -> None:
    said = host.did("lazyfs", "install-units", "--print")
    assert said.count("would make ") == 4
    assert "    ExecStart=/mnt/bin/lazyfs mount " in said
    assert there(host) == []

    assert host.did("lazyfs", "install-units").count("made ") == 4
    assert len(there(host)) == 4
    assert host.did("readlink", *LINKS).split() == ["/mnt/bin/mount.lazyfs"] * 2
    assert host.did("lazyfs", "install-units").count("there already: ") == 4

    host.did("sed", "-i", "s/RestartSec=.*/RestartSec=1/", UNIT)
    assert f"made {UNIT}" in host.did("lazyfs", "install-units"), "an older one of ours"
    host.write(Path("/etc/lazyfs/images.conf"), "")
    assert host.did("lazyfs", "install-units", "--remove", "--print").count("would remove ") == 3
    assert len(there(host)) == 4
    assert "left: /etc/lazyfs/" in host.did("lazyfs", "install-units", "--remove")
    assert there(host) == ["/etc/lazyfs"]
    host.did("rm", "/etc/lazyfs/images.conf")
    assert "removed /etc/lazyfs\n" in host.did("lazyfs", "install-units", "--remove")
    assert host.did("lazyfs", "install-units", "--remove") == "there is nothing to remove\n"


def test_what_is_not_ours_stays(host: Host) -> None:
    for path in (LINKS[0], UNIT):
        host.write(path, "somebody's")
        refused = host.run("lazyfs", "install-units")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == f"lazyfs: {path} is there, and not of lazyfs's making; move it away first\n"
        assert there(host) == [str(path)]
        assert host.did("lazyfs", "install-units", "--remove") == "there is nothing to remove\n"
        assert host.did("cat", path) == "somebody's"
        host.did("rm", path)


def test_elsewhere_and_without_rights(host: Host) -> None:
    host.did("mkdir", "-p", MNT / "home/image/sbin", user=GUEST)
    assert host.did("lazyfs", "install-units", "--root", MNT / "home/image", user=GUEST).count("made ") == 4
    assert host.did("readlink", MNT / "home/image/sbin/mount.lazyfs") == "/mnt/bin/mount.lazyfs\n"
    assert there(host) == []
    refused = host.run("lazyfs", "install-units", user=GUEST)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "it takes root, or --root DIR" in refused.stderr


def test_systemd_finds_nothing_wrong_with_the_unit(host: Host) -> None:
    host.did("lazyfs", "install-units")
    host.did("systemd-analyze", "verify", "--man=no", "lazyfs@images.service")


def test_the_commands_of_the_unit(host: Host, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    """Started with the rights that the unit leaves it, said to be ready, stopped; killed, cleaned up, and restarted.

    When only its daemon is killed, it goes on, and says so.
    """
    (docroot / "file").write_bytes(b"content")
    (docroot / "other").write_bytes(b"other")
    host.did("lazyfs", "install-units")
    host.did("mkdir", MNT / "at")
    settings = {
        "MOUNTPOINT": f"{MNT}/at",
        "SOURCES": f"{nginx.url}/file b={nginx.url}/other",
        "OPTIONS": f"--store {MNT}/store --allow-other",
    }
    lines = re.findall(r"(?m)^(\w+)=-?(.*)$", host.did("cat", UNIT))
    unit = dict(lines)
    rights = (
        " ".join(value for name, value in lines if name == "CapabilityBoundingSet")
        .lower()
        .replace("cap_", "+")
        .replace(" ", ",")
    )
    limited = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{rights}", "prlimit", "--core=0", "sh", "-c"]
    telling = [f"NOTIFY_SOCKET={tmp_path}/notify", *(f"{name}={value}" for name, value in settings.items())]
    start, clean_up = (f"umask {unit['UMask']}; exec {unit[line]}" for line in ("ExecStart", "ExecStopPost"))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        systemd.settimeout(PATIENCE)
        for signal, status in (("KILL", -9), ("TERM", 0)):
            words = host.entered("env", *telling, *limited, start)
            service = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert systemd.recv(1000) == f"READY=1\nSTATUS=mounted at {MNT}/at".encode(), shlex.join(map(str, words))
            assert host.did("cat", MNT / "at/file", MNT / "at/b", user=GUEST) == "contentother"
            (mount,) = json.loads(host.did("lazyfs", "status", MNT / "at", "--json"))["mounts"]
            main = host.did("cat", f"/proc/{mount['pid']}/stat").rpartition(")")[2].split()[1]  # its parent
            host.did("kill", "-KILL", str(mount["pid"]))
            assert systemd.recv(1000) == f"READY=1\nSTATUS=mounted at {MNT}/at".encode()
            assert host.did("cat", MNT / "at/file") == "content"
            (mount,) = json.loads(host.did("lazyfs", "status", MNT / "at", "--json"))["mounts"]
            host.did("kill", f"-{signal}", main, *([str(mount["pid"])] if signal == "KILL" else []))
            _, said = service.communicate(timeout=PATIENCE)
            assert service.returncode == status, said
            host.run("env", *telling, *limited, clean_up)
            assert host.mounted() == {}
        assert systemd.recv(1000) == f"STOPPING=1\nSTATUS=unmounting {MNT}/at".encode()


def test_a_mount_in_the_background_tells_nobody(host: Host, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    """It may have been made by a service of another kind, which is not ready because of that."""
    (docroot / "file").write_bytes(b"content")
    host.did("mkdir", MNT / "at")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        mount: list[str | Path] = ["lazyfs", "mount", "--store", MNT / "store", f"{nginx.url}/file", MNT / "at"]
        host.did("env", f"NOTIFY_SOCKET={tmp_path}/notify", *mount)
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)
