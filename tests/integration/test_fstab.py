"""mount(8) and /etc/fstab: real ones, on a host of the test's own where lazyfs is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import GUEST, MNT, Host
from tests.servers import Nginx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a host of its own")

STORE = MNT / "store"


@pytest.fixture
def host(nginx: Nginx, docroot: Path) -> Iterator[Host]:
    """A host on which `lazyfs install-units` was run; the origin has the files `file` and `a,b c`."""
    (docroot / "file").write_bytes(b"content")
    (docroot / "a,b c").write_bytes(b"other")
    with Host() as host:
        assert "systemctl daemon-reload" in host.did("lazyfs", "install-units")
        host.did("mkdir", MNT / "one", MNT / "two words", MNT / "three")
        yield host


def test_lines_of_fstab_are_mounted_once(host: Host, nginx: Nginx) -> None:
    of_others = "_netdev,nofail,noatime,user,x-systemd.automount,x-systemd.mount-timeout=30,comment=ours"
    ours = rf"store={STORE},max_cache=10M,allow_other,no-passthrough,header=\"X-Said:\040b,c\",header=X-Too:\040d\,e"
    ours = ours.replace('\\"', '"')
    lines = [
        f"{nginx.url}/file {MNT}/one lazyfs {of_others},{ours},source={nginx.url}/a\\,b%20c 0 0",
        f"name\\040here={nginx.url}/a,b%20c {MNT}/two\\040words fuse.lazyfs defaults,store={STORE} 0 0",
        f"{nginx.url}/file {MNT}/three lazyfs noauto,store={STORE},offline 0 0",
    ]
    host.write(MNT / "fstab", "\n".join(lines) + "\n")
    for _ in range(2):
        host.did("mount", "-a", "-T", MNT / "fstab")
        mounted = host.mounted()
        assert set(mounted) == {f"{MNT}/one", f"{MNT}/two\\040words"}
    options = set(mounted[f"{MNT}/one"][1].split(","))
    assert options >= {"ro", "nosuid", "nodev", "noexec", "noatime", "allow_other"}
    assert host.did("ls", MNT / "one", MNT / "two words").split("\n") == [
        f"{MNT}/one:", "a,b c", "file", "", f"{MNT}/two words:", "name here", "",
    ]  # fmt: skip
    assert host.did("cat", MNT / "one/a,b c", user=GUEST) == "other"
    assert host.did("cat", MNT / "two words/name here") == "other"
    assert host.did("findmnt", "-n", "-o", "FSTYPE,SOURCE", MNT / "one").split() == ["fuse.lazyfs", f"lazyfs#{STORE}"]
    assert f"lazyfs#{STORE} on {MNT}/one type fuse.lazyfs (ro," in host.did("mount", "-t", "fuse.lazyfs")
    assert "--no-passthrough" in host.did("lazyfs", "status", MNT / "one")

    host.did("mount", "-T", MNT / "fstab", MNT / "three")
    host.did("umount", MNT / "one")
    assert set(host.mounted()) == {f"{MNT}/two\\040words", f"{MNT}/three"}
    host.did("umount", "-a", "-t", "fuse.lazyfs")
    assert host.mounted() == {}


def test_what_fails_is_one_line_and_a_status_of_mounts(host: Host, nginx: Nginx) -> None:
    one, url = MNT / "one", f"{nginx.url}/file"
    host.did("mount", "-t", "lazyfs", url, one, "-o", f"store={STORE}")
    for status, place, source, options, said in (
        (32, "one", f"{nginx.url}/a,b%20c", "", "has a mount already; unmount it with"),
        (32, "three", f"{nginx.url}/missing", "", "HTTP 404"),
        (1, "three", url, "max_cash=1G", "there is no option 'max_cash'"),
        (1, "three", url, "max_cache=much", "'much' is not a size"),
        (1, "three", url, "max_cache", "takes a value: max_cache=VALUE"),
        (1, "three", url, "offline=yes", "takes no value"),
        (1, "three", url, "fsname=x", "lazyfs's own to set"),
        (32, "three", "nonsense", "", "is no source"),
    ):
        done = host.run("mount", "-t", "lazyfs", source, MNT / place, "-o", f"store={STORE},{options}")
        assert (done.returncode, done.stdout) == (status, ""), (options, done)
        assert done.stderr.startswith("mount.lazyfs: "), done.stderr
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
    assert set(host.mounted()) == {str(one)}


def test_words_of_mounts_own(host: Host, nginx: Nginx) -> None:
    words: list[str | Path] = [
        "mount",
        "-t",
        "lazyfs",
        "-o",
        f"store={STORE},max_cash=1G",
        f"{nginx.url}/file",
        MNT / "one",
    ]
    host.did(*words, "-f", "-s")
    assert host.mounted() == {}, "-f only looks at the words"
    host.did(*words, "-s", "-n", "-v", "-r")
    assert set(host.mounted()) == {f"{MNT}/one"}, "-s leaves out what is not known"


def test_a_dead_mount_is_made_anew(host: Host, nginx: Nginx) -> None:
    words: list[str | Path] = ["mount", "-t", "lazyfs", f"{nginx.url}/file", MNT / "one", "-o", f"store={STORE}"]
    host.did(*words)
    (status,) = json.loads(host.did("lazyfs", "status", MNT / "one", "--json"))["mounts"]
    host.did("kill", "-KILL", str(status["pid"]))
    host.did("sh", "-c", "while ls /mnt/one >&- 2>&-; do sleep 0.01; done")
    host.did(*words)
    assert host.did("cat", MNT / "one/file") == "content"


def test_a_user_mounts_a_line_that_lets_users(host: Host, nginx: Nginx) -> None:
    host.did("mkdir", MNT / "home/at", user=GUEST)
    host.write(Path("/etc/fstab"), f"{nginx.url}/file {MNT}/home/at lazyfs user,noauto 0 0\n")
    host.did("mount", MNT / "home/at", user=GUEST)
    assert host.did("cat", MNT / "home/at/file", user=GUEST) == "content"
    assert host.run("ls", MNT / "home/at").returncode != 0, "not even root may, without allow_other"
    source, options = host.mounted()[f"{MNT}/home/at"]
    assert source == f"lazyfs\\043{MNT}/home/.cache/lazyfs", "the user's own store"
    assert f"user_id={GUEST}" in options
    host.did("umount", MNT / "home/at", user=GUEST)
    assert host.mounted() == {}


def test_allow_other_is_for_root_to_allow(host: Host, nginx: Nginx) -> None:
    host.did("mkdir", MNT / "home/at", user=GUEST)
    words: list[str | Path] = ["lazyfs", "mount", "--allow-other", f"{nginx.url}/file", MNT / "home/at"]
    host.write(Path("/etc/fuse.conf"), "")
    refused = host.run(*words, user=GUEST)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
    assert "user_allow_other" in refused.stderr
    assert host.mounted() == {}
    host.write(Path("/etc/fuse.conf"), "user_allow_other\n")
    host.did(*words, user=GUEST)
    assert host.did("cat", MNT / "home/at/file") == "content"
    host.did("lazyfs", "umount", MNT / "home/at", user=GUEST)
    assert host.mounted() == {}


def test_containers_see_a_mount_that_propagates_to_them(host: Host, nginx: Nginx) -> None:
    """What a container runtime does: a namespace of its own, in which the host's mounts are slaves, or private."""
    host.did("sh", "-c", "mkdir /mnt/shared && mount --bind /mnt/shared /mnt/shared && mount --make-shared /mnt/shared")
    host.did("mkdir", MNT / "shared/at")
    containers = {}
    for kind in ("slave", "private"):
        hold = 'echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 1000'
        host.did("sh", "-c", 'unshare -m --propagation "$1" sh -c "$2" sh "/mnt/$1" >&- 2>&- &', "sh", kind, hold)
        host.did("sh", "-c", 'until [ -e "/mnt/$1" ]; do sleep 0.01; done', "sh", kind)
        containers[kind] = ["nsenter", "-m", "-t", host.did("cat", MNT / kind).strip()]
    host.did("lazyfs", "mount", "--store", STORE, f"{nginx.url}/file", MNT / "shared/at")
    assert host.did(*containers["slave"], "cat", MNT / "shared/at/file") == "content"
    assert host.run(*containers["private"], "cat", MNT / "shared/at/file").returncode == 1
    host.did("lazyfs", "umount", MNT / "shared/at")
    assert host.run(*containers["slave"], "cat", MNT / "shared/at/file").returncode == 1, "it has gone there, too"

    inside = f"/proc/{containers['private'][-1]}/ns/mnt"
    host.did("mount", "-N", inside, "-t", "lazyfs", f"{nginx.url}/file", MNT / "shared/at", "-o", f"store={STORE}")
    assert host.mounted() == {}
    assert host.did(*containers["private"], "cat", MNT / "shared/at/file") == "content"
