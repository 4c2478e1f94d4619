"""The configuration at work: real mounts of real origins, each asked in its own way; and on a host of its own, /etc."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import under
from tests.certificates import LOOPBACK, Authority
from tests.hosts import GUEST, MNT, Host
from tests.integration.test_takeover import next_daemon
from tests.mounts import Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx

SECRET = "pLaNtEd-S3cret"
BLOB = "random-1M-x"
MIB = 1 << 20


def written(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def manifest(path: Path, **places: str) -> Path:
    """Write a manifest that names files, none of whose origins the command line does."""
    path.write_text("".join(json.dumps({"path": name, "url": url}) + "\n" for name, url in places.items()))
    return path


@pytest.fixture
def other(tmp_path: Path, docroot: Path, nginx: Nginx) -> Iterator[Nginx]:
    """A second origin; its /away leads to the first."""
    with Nginx(tmp_path / "other", docroot, server=f"location /away {{ return 302 {nginx.url}/file; }}") as other:
        yield other


def test_headers_go_where_they_are_configured_for(
    mounts: Mounts, nginx: Nginx, other: Nginx, docroot: Path, tmp_path: Path
) -> None:
    """Named by nobody but a manifest, or reached by a redirect, an origin gets its own headers and no other's."""
    (docroot / "file").write_bytes(b"content")
    written(tmp_path / "headers", "Authorization: Bearer mine\n")
    config = written(
        tmp_path / "lazyfs.toml",
        f'[origin."{nginx.url}"]\nheader-file = "headers"\n'
        f'[origin."{other.url}"]\nheader = "Authorization: Bearer its"\n',
    )
    files = manifest(
        tmp_path / "files.jsonl", one=f"{nginx.url}/file", two=f"{other.url}/file", away=f"{other.url}/away"
    )
    mount = mounts(files, options=("--config", config))
    assert [on_mount(under.read, mount.path(name)) for name in ("one", "two", "away")] == [b"content"] * 3
    assert {request.authorization for request in nginx.requests()} == {"Bearer mine"}
    assert {(request.uri, request.authorization) for request in other.requests()} == {
        ("/file", "Bearer its"), ("/away", "Bearer its"),
    }  # fmt: skip
    written(tmp_path / "headers", "Authorization: Bearer renewed\n")
    os.utime(tmp_path / "headers", (1, 1))
    config.unlink()  # the daemon has what it said, and so has the next
    nginx.forget()
    os.kill(pid := mount.pid, 9)
    next_daemon(mount, pid)
    assert lazyfs("upgrade", mount.at).returncode == 0
    mount.pid = mount.status()["pid"]
    (docroot / "file").write_bytes(b"another")
    done = lazyfs("add", mount.at, f"late={nginx.url}/file?2")
    assert done.returncode == 0, done.stderr
    assert on_mount(under.read, mount.path("late")) == b"another"
    assert {request.authorization for request in nginx.requests()} == {"Bearer renewed"}


def test_each_origin_is_trusted_by_its_own_authority(mounts: Mounts, docroot: Path, tmp_path: Path) -> None:
    """Two of them in one mount; the other one's is not believed. One of them wants to see a certificate, too."""
    (docroot / "file").write_bytes(b"content" * 100_000)
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    mine = first.issue("me", "DNS:me.example")
    wants = f"ssl_client_certificate {first.pem}; ssl_verify_client on;"
    with (
        Nginx(tmp_path / "one", docroot, tls=first.issue("server", *LOOPBACK), server=wants) as one,
        Nginx(tmp_path / "two", docroot, tls=second.issue("server", *LOOPBACK)) as two,
    ):
        files = manifest(tmp_path / "files.jsonl", one=f"{one.url}/file", two=f"{two.url}/file")

        def configured(ca_of_one: Path, ca_of_two: Path) -> Path:
            return written(
                tmp_path / "lazyfs.toml",
                f'[origin."{one.url}"]\nca-file = "{ca_of_one}"\nclient-cert = "{mine}"\n'
                f'[origin."{two.url}"]\nca-file = "{ca_of_two}"\n',
            )

        mount = mounts(files, options=("--config", configured(first.pem, second.pem)))
        expected = (docroot / "file").read_bytes()
        assert [on_mount(under.read, mount.path(name)) for name in ("one", "two")] == [expected] * 2
        crossed = ("--config", configured(second.pem, first.pem), "--store", tmp_path / "crossed")
        for nginx in (one, two):
            done = lazyfs("fetch", *crossed, f"{nginx.url}/file")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
            assert "certificate not trusted" in done.stderr


def test_logins_and_mirrors_of_an_origin(mounts: Mounts, origin: MisbehavingOrigin, tmp_path: Path) -> None:
    """The same host twice, with a password at each port; and a third that has gone, whose files a mirror has."""
    helper = written(
        tmp_path / "helper", f"cat >/dev/null\n[ $1 = get ] && printf 'username=user\\npassword={SECRET}\\n'\n"
    )
    host = urlsplit(origin.base).hostname
    written(tmp_path / "netrc", f"machine {host} login user password other\n")
    gone = "http://127.0.0.1:1"
    config = written(
        tmp_path / "lazyfs.toml",
        f'[origin."{origin.base}"]\ncredential-command = "sh {helper}"\n'
        f'[origin."{origin.other}"]\nnetrc-file = "netrc"\n'
        f'[origin."{gone}"]\nmirrors = ["{gone}/nothing", "{origin.base}/plain/"]\n',
    )
    mine = origin.url(f"basic=user:{SECRET}", BLOB)
    its = origin.url("basic=user:other", BLOB).replace(origin.base, origin.other)
    files = manifest(tmp_path / "files.jsonl", mine=mine, its=its, gone=f"{gone}/{BLOB}")
    mount = mounts(files, options=("--config", config, "--netrc-file", "/dev/null"))
    for name in ("mine", "its", "gone"):
        assert on_mount(under.read, mount.path(name)) == origin.expected(BLOB), name


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_requests_at_a_time_than_are_allowed(
    mounts: Mounts, origin: MisbehavingOrigin, tmp_path: Path, connections: int
) -> None:
    config = written(tmp_path / "lazyfs.toml", f'hedge = 0\n[origin."{origin.base}"]\nconnections = {connections}\n')
    places = {f"file{n}": origin.url("delay=50ms", f"random-1M-{n}") for n in range(6)}
    mount = mounts(manifest(tmp_path / "files.jsonl", **places), options=("--config", config))
    readers = [start(under.sha256, mount.path(name)) for name in places]
    assert all(reader.result() for reader in readers)
    stats = origin.stats()
    assert stats["connections"]["peak"] == connections
    assert mount.counters()["errors"] == 0


def test_bytes_come_at_the_rate_that_is_allowed(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    (docroot / "file").write_bytes(content)
    config = written(tmp_path / "lazyfs.toml", f'[origin."{nginx.url}"]\nrate = "1M"\n')
    began = time.monotonic()
    words = ("fetch", "--config", config, "--store", tmp_path / "store", "-o", tmp_path / "copy", f"{nginx.url}/file")
    assert lazyfs(*words).returncode == 0
    assert (tmp_path / "copy").read_bytes() == content
    assert time.monotonic() - began > 0.7, "a second, but for the first piece of it"


def test_a_proxy_of_one_origin_and_none_of_another(nginx: Nginx, other: Nginx, docroot: Path, tmp_path: Path) -> None:
    """Nobody listens where the general one would be."""
    (docroot / "file").write_bytes(b"content")
    config = written(
        tmp_path / "lazyfs.toml",
        f'proxy = "http://127.0.0.1:1"\n[origin."{nginx.url}"]\nproxy = "none"\n'
        f'[origin."{other.url}"]\nproxy = "{nginx.url}"\n',
    )
    words = ("fetch", "--config", config, "--store", tmp_path / "store", "--read-timeout", "2")
    assert lazyfs(*words, f"{nginx.url}/file").returncode == 0
    nginx.forget()
    lazyfs(*words, f"{other.url}/file")
    assert nginx.requests()[0].uri.startswith(("/file", f"{other.url}/file")), (
        "which is no proxy, but was taken for one"
    )
    assert other.requests() == []


def test_no_secret_of_it_is_seen_anywhere(mounts: Mounts, origin: MisbehavingOrigin, tmp_path: Path) -> None:
    scheme, rest = origin.base.split("://")
    config = written(
        tmp_path / "lazyfs.toml",
        f'credential-command = "false {SECRET}"\nmirror = "http://a/={scheme}://u:{SECRET}@{rest}/"\n'
        f'[origin."{origin.base}"]\nheader = ["X-Token: {SECRET}", "Authorization: Basic {SECRET}"]\n'
        f'credential-command = "false {SECRET}"\nmirrors = "{scheme}://u:{SECRET}@{rest}/plain/"\n'
        f'[origin."http://127.0.0.1:1"]\nproxy = "http://user:{SECRET}@127.0.0.1:1"\n',
    )
    places = {"blob": origin.plain(BLOB), "denied": origin.url("basic=user:x", BLOB), "gone": "http://127.0.0.1:1/file"}
    mount = mounts(manifest(tmp_path / "files.jsonl", **places), options=("--config", config, "--read-timeout", "2"))
    assert on_mount(under.read, mount.path("blob")) == origin.expected(BLOB)
    for name in ("denied", "gone"):
        assert on_mount(under.errno_of_stat, mount.path(name)) != 0
    seen = {
        "status": json.dumps(mount.status()) + lazyfs("status", "--store", mount.store).stdout,
        "why": lazyfs("status", "--why", mount.at).stdout,
        "log": mount.log(),
        "mounts": Path("/proc/self/mounts").read_text(),
    }
    for pid in (mount.pid, mount.supervisor):
        for name in ("cmdline", "environ", "comm"):
            seen[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1")
    for words in (
        (),
        ("--json",),
        ("--header", f"X: {SECRET}", "--json"),
        ("--proxy", f"http://u:{SECRET}@p"),
        ("--help",),
    ):
        shown = lazyfs("config", "--config", config, *words)
        assert shown.returncode == 0, shown
        seen[f"config {words}"] = shown.stdout + shown.stderr
    text = config.read_text()
    for old, new in (("header =", "haeder ="), ('"X-Token:', '"X Token:'), ("http://user:", "socks://user:")):
        written(config, text.replace(old, new))
        refused = lazyfs("fetch", "--config", config, "--store", mount.store, origin.plain(BLOB))
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused
        seen[new] = refused.stderr
    for file in mount.store.rglob("*"):
        if file.is_file():
            seen[str(file)] = file.read_bytes().decode("latin-1")
    assert [place for place, what in seen.items() if SECRET in what] == []


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a host of its own")

FREE = ("env", "-u", "LAZYFS_CONFIG")
"""As commands are run outside of tests."""


@pytest.fixture
def host(nginx: Nginx, docroot: Path) -> Iterator[Host]:
    """A host on which mount(8) knows lazyfs."""
    (docroot / "file").write_bytes(b"content")
    with Host() as host:
        host.did("lazyfs", "install-units")
        host.did("mkdir", "-p", MNT / "at", MNT / "mine/lazyfs", MNT / "home/.config/lazyfs", MNT / "home/at")
        host.did("chown", "-R", str(GUEST), MNT / "home")
        yield host


@needs_root
def test_files_then_the_environment_then_options(host: Host, nginx: Nginx) -> None:
    """And mount(8), which hands the options of a line in /etc/fstab on."""
    system, users = Path("/etc/lazyfs.toml"), MNT / "mine/lazyfs/lazyfs.toml"
    host.write(system, f'store = "{MNT}/store"\nhedge = 1\nscrub = 1\nmax-cache = 1\nmin-free = 1\nuser = "guest"\n')
    host.write(users, "hedge = 2\nscrub = 2\nmax-cache = 2\n")
    mine = (*FREE, f"XDG_CONFIG_HOME={MNT}/mine", "LAZYFS_HEDGE=3", "LAZYFS_SCRUB=3")
    shown = json.loads(host.did(*mine, "lazyfs", "config", "--hedge", "4", "--json"))
    values = {name: (value["value"], value["from"]) for name, value in shown["values"].items()}
    assert {name: values[name] for name in ("hedge", "scrub", "max-cache", "min-free", "block-size", "user")} == {
        "hedge": (4, "--hedge"),
        "scrub": (3, "LAZYFS_SCRUB"),
        "max-cache": (2, f"{users}, line 3"),
        "min-free": (1, f"{system}, line 5"),
        "block-size": (1 << 18, "default"),
        "user": ("guest", f"{system}, line 6"),
    }
    assert shown["files"] == [{"path": str(path), "state": "read"} for path in (system, users)]
    assert shown["errors"] == []
    of_guest = json.loads(host.did(*FREE, "lazyfs", "config", "--json", user=GUEST))
    assert of_guest["values"]["user"]["value"] is None, "which is for root's mounts"
    host.did("install", "-d", "-m", "700", MNT / "closed-home")
    assert host.did(*FREE, f"XDG_CONFIG_HOME={MNT}/closed-home", "lazyfs", "config", user=GUEST)
    assert of_guest["files"][1] == {"path": f"{MNT}/home/.config/lazyfs/lazyfs.toml", "state": "not there"}

    host.did("rm", "-r", MNT / "mine")
    store = MNT / "home/store"
    host.write(
        system,
        f'store = "{store}"\nuser = "guest"\n[origin."{nginx.url}"]\nheader-file = "/mnt/headers"\n'
        '[origin."https://example.org"]\nheader-file = "/mnt/closed"\n',
    )
    host.write(MNT / "headers", "Authorization: Bearer mine\n")
    host.write(MNT / "closed", "Authorization: Bearer roots\n", mode=0o600)
    host.write(Path("/etc/fstab"), f"{nginx.url}/file {MNT}/at lazyfs defaults 0 0\n")
    for _ in range(2):
        host.did(*FREE, "mount", "-a", "-t", "lazyfs")
        assert {at: source for at, (source, _) in host.mounted().items()} == {f"{MNT}/at": rf"lazyfs\043{store}"}
    assert host.did("cat", MNT / "at/file") == "content"
    assert {request.authorization for request in nginx.requests()} == {"Bearer mine"}
    (mounted,) = json.loads(host.did(*FREE, "lazyfs", "status", "--json"))["mounts"]
    assert (mounted["mountpoint"], mounted["runs_as"]["user"]) == (f"{MNT}/at", "guest")
    host.did("umount", MNT / "at")


@needs_root
def test_a_broken_one_stops_only_what_goes_by_it(host: Host, nginx: Nginx) -> None:
    at, url = MNT / "at", f"{nginx.url}/file"
    host.did("lazyfs", "mount", "--store", MNT / "store", url, at)
    line = "/etc/lazyfs.toml, line 2: max-cahce: there is no such key; did you mean max-cache?\n"
    host.write(Path("/etc/lazyfs.toml"), '\nmax-cahce = "20G"\n')
    assert host.did("lazyfs", "mount", "--help")
    assert host.did("lazyfs", "--help")
    assert host.did("lazyfs", "--version")
    status = host.run("lazyfs", "status", at)
    assert (status.returncode, status.stderr) == (0, f"lazyfs: {line}")
    assert f"{at}: 1 file" in status.stdout
    shown = host.run("lazyfs", "config", "--json")
    assert (shown.returncode, shown.stderr) == (2, f"lazyfs: {line}")
    assert json.loads(shown.stdout)["errors"] == [line.strip()]
    for words in (("mount", url, MNT / "home/at"), ("fetch", url), ("ls",), ("gc",), ("rm", url), ("pin", url)):
        refused = host.run("lazyfs", *words)
        assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", f"lazyfs: {line}"), words
    refused = host.run("mount", "-t", "lazyfs", url, MNT / "home/at")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"mount.lazyfs: {line}")
    host.did("lazyfs", "umount", at)
    assert host.mounted() == {}

    host.write(Path("/etc/lazyfs.toml"), "", mode=0o666)
    assert "may be written by others" in host.run("lazyfs", "ls").stderr
    host.did("chown", str(GUEST), "/etc/lazyfs.toml")
    assert f"belongs to another user ({GUEST})" in host.run("lazyfs", "ls").stderr
    host.did("chmod", "600", "/etc/lazyfs.toml")
    host.did("chown", "0", "/etc/lazyfs.toml")
    assert "/etc/lazyfs.toml cannot be read: Permission denied" in host.run("lazyfs", "ls", user=GUEST).stderr
