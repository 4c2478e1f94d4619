"""doctor: what it finds on hosts, in stores and at origins that have something wrong with them, and that it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyfs.cli.doctor import host as host_checks
from lazyfs.cli.doctor import storage
from lazyfs.cli.doctor.findings import STUCK, Finding, State, under_way
from lazyfs.errors import StoreError
from tests.hosts import GUEST, MNT, Host
from tests.mounts import ENVIRONMENT, Mounts, lazyfs, run
from tests.servers import MisbehavingOrigin

NAME = "random-1M-x"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a host of its own, or hide a device")

Findings = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def one_host() -> Iterator[Host]:
    """A host for all tests here: none leaves anything on it."""
    with Host() as host:
        yield host


@pytest.fixture(scope="module")
def served() -> Iterator[MisbehavingOrigin]:
    """An origin for all tests here."""
    with MisbehavingOrigin() as origin:
        yield origin


def by_subject(told: str) -> Findings:
    """Return what `--json` tells, by what it is about."""
    found: Findings = {}
    for finding in json.loads(told)["findings"]:
        assert (finding["state"] == "ok") <= (finding["remedy"] is None)
        found.setdefault(finding["subject"], []).append(finding)
    return found


def looked(*words: str | Path, wrapper: tuple[str, ...] = ()) -> Findings:
    """Run the command, whose exit status says whether there is a problem, which may be a mount that is not ours."""
    done = run([*wrapper, sys.executable, "-m", "lazyfs", "doctor", "--json", *words], check=False)
    assert done.stderr == ""
    problems = done.stdout.count('"state": "problem"')
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (int(problems > 0), problems)
    return by_subject(done.stdout)


def only(findings: Findings, subject: str) -> tuple[str, str, str]:
    """Return state, what was found, and what to do of the one finding about something."""
    (finding,) = findings[subject]
    return finding["state"], finding["what"], finding["remedy"] or ""


def test_a_host_that_is_well(tmp_path: Path) -> None:
    store = tmp_path / "not" / "there"
    found = looked("--store", store)
    assert {"kernel", "/dev/fuse", "rights", "fusermount3", "limits", "clock", "lazyfs", "takeover"} <= found.keys()
    assert {each["state"] for subject in found if subject[0] != "/" for each in found[subject]} <= {"ok", "note"}
    assert only(found, "store")[:2] == ("ok", f"{store} is not there yet: the first mount makes it")
    assert not store.parent.exists(), "it changes nothing"

    done = lazyfs("doctor", "--store", store)
    assert f"\nok       store: {store} is not there yet" in done.stdout
    assert re.search(r"\n\n(Nothing keeps|\d+ problems? keeps?) lazyfs from working\.\n$", done.stdout)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_on_a_terminal(more: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | more
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lazyfs", "doctor", "--store", str(tmp_path / "store")]
    pid = os.posix_spawn(sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)])
    os.close(theirs)
    told = b""
    try:
        while piece := os.read(ours, 4096):
            told += piece
    except OSError:  # what a terminal says at its end
        pass
    os.close(ours)
    os.waitpid(pid, 0)
    assert b"kernel: " in told
    assert (b"\x1b[32mok" in told) == (not more)


@as_root
def test_no_fuse_at_all(tmp_path: Path) -> None:
    """Nothing to mount with, no right to, and files that may not be large: each has a problem of its own."""
    hidden = 'mount -t tmpfs tmpfs /dev; mknod -m 666 /dev/null c 1 3; mknod -m 444 /dev/urandom c 1 9; exec "$0" "$@"'
    bare = ("unshare", "-m", "sh", "-ec", hidden)
    robbed = ["setpriv", "--bounding-set", "-sys_admin", "env", f"PATH={tmp_path}", "container=podman"]
    poor = ("prlimit", "--fsize=1048576", *bare, *robbed)
    found = looked("--store", tmp_path / "store", wrapper=poor)
    started_so = "start the container with --device /dev/fuse --cap-add SYS_ADMIN"
    assert only(found, "/dev/fuse") == ("problem", "it is not there", started_so)
    assert only(found, "rights") == ("problem", "root without CAP_SYS_ADMIN cannot mount", started_so)
    assert only(found, "fusermount3")[0] == "note", "root does without"
    assert only(found, "umount") == ("problem", "it is not there", "apt-get install mount")
    assert [each["state"] for each in found["limits"]] == ["ok", "problem"]
    assert only(found, "passthrough")[0] == "note"


@as_root
def test_an_ordinary_user(one_host: Host) -> None:
    def said(*wrapper: str) -> Findings:
        done = one_host.run(*wrapper, "lazyfs", "doctor", "--json", user=GUEST)
        assert done.stderr == ""
        return by_subject(done.stdout)

    one_host.did("sh", "-c", "sed -i /^user_allow_other/d /etc/fuse.conf")
    found = said()
    assert only(found, "fusermount3")[0] == "ok"
    assert only(found, "allow_other")[2] == "as root: echo user_allow_other >>/etc/fuse.conf"
    assert only(found, "store")[:2] == ("ok", f"{MNT}/home/.cache/lazyfs is not there yet: the first mount makes it")
    assert only(found, "passthrough")[1].endswith("it takes CAP_SYS_ADMIN: mount as root")
    one_host.did("sh", "-c", "echo user_allow_other >>/etc/fuse.conf")

    one_host.did("mv", "/etc/mtab", "/etc/mtab.away")
    found = said("setpriv", "--no-new-privs")
    one_host.did("mv", "/etc/mtab.away", "/etc/mtab")
    assert only(found, "/etc/mtab")[2] == "as root: ln -s /proc/self/mounts /etc/mtab"
    assert "allow_other" not in found
    assert only(found, "rights")[:1] == ("problem",)

    one_host.did("sh", "-c", f"mkdir -p {MNT}/plain; cp /usr/bin/fusermount3 {MNT}/plain; chmod 755 {MNT}/plain/*")
    place = f"{MNT}/plain/fusermount3"
    found = said("env", f"PATH={MNT}/plain:{MNT}/bin:/usr/bin")
    remedy = f"as root: chown root {place}; chmod u+s {place}"
    assert only(found, "fusermount3") == ("problem", f"{place} is not setuid root", remedy)


def test_stores_that_are_refused(tmp_path: Path, mounts: Mounts, served: MisbehavingOrigin) -> None:
    def refused(store: Path) -> tuple[str, str]:
        (finding,) = storage.store(store)
        assert finding.state is State.PROBLEM
        return finding.what, finding.remedy

    mounts(served.plain(NAME))
    found = looked("--store", mounts.store)
    assert only(found, "store")[1] == f"{mounts.store}, of format 1, without a bound"
    found = looked("--store", mounts.directory / "mount1" / "inside")
    state, what, remedy = only(found, "file system")
    assert (state, remedy) == ("problem", "name a local directory with --store")
    assert what.startswith("fuse.lazyfs at ")

    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"{tmp_path}/file cannot be used: Not a directory; name another"):
        refused(tmp_path / "file")
    full = tmp_path / "full"
    full.mkdir(mode=0o700)
    (full / "something").write_text("")
    with pytest.raises(StoreError, match=f"{full} is not empty and not a store; name another"):
        refused(full)
    full.chmod(0o755)
    with pytest.raises(StoreError, match=f"open to others; if it is yours: chmod 700 {full}"):
        refused(full)
    newer = tmp_path / "newer"
    newer.mkdir(mode=0o700)
    (newer / "FORMAT").write_text("lazyfs store 99\n")
    with pytest.raises(StoreError, match="upgrade lazyfs or "):
        refused(newer)
    inside = tmp_path / "file" / "store"
    shown = f"{inside} is not there, and cannot be made in {tmp_path}/file"
    assert refused(inside) == (shown, "name another with --store")


@as_root
def test_stores_on_other_file_systems(one_host: Host) -> None:
    """A store in memory, on an overlay, and of another user: all can be used, and lack something."""

    def said(store: Path, user: int = 0) -> Findings:
        done = one_host.run("lazyfs", "doctor", "--json", "--store", store, user=user)
        assert done.stderr == ""
        return by_subject(done.stdout)

    found = said(MNT / "store")
    assert only(found, "file system")[0] == "note"
    assert only(found, "file system")[1].endswith("in memory: gone at the next boot")
    assert only(found, "passthrough")[0] == "ok"
    found = said(Path("/etc/store"))
    assert only(found, "file system")[1].startswith("overlay, ")
    assert "as overlayfs does" in only(found, "passthrough")[1]
    assert only(found, "passthrough")[2] == "name a store on a disk with --store"

    one_host.did("mkdir", "-m", "700", MNT / "home/store", user=GUEST)
    belongs, itself = said(MNT / "home/store")["store"]
    assert belongs["remedy"] == "mount with --user guest, or name another with --store"
    assert itself["state"] == "ok", "root looks at it as its owner"
    one_host.did("install", "-d", "-m", "755", "-o", "4001", MNT / "others")
    state, what, _ = only(said(MNT / "others", GUEST), "store")
    assert (state, what) == ("problem", f"the store {MNT}/others belongs to another user (uid 4001)")


def test_mounts_that_are_dead_or_stuck(mounts: Mounts, served: MisbehavingOrigin, tmp_path: Path) -> None:
    """Nobody touches them: a look at one that is stuck would take for ever."""
    dead, stuck, well = (mounts(served.plain(NAME)) for _ in range(3))
    dead.kill()
    for pid in (stuck.supervisor, stuck.pid):
        os.kill(pid, signal.SIGSTOP)
    try:
        found = looked("--store", tmp_path / "store")
    finally:
        for pid in (stuck.pid, stuck.supervisor):
            os.kill(pid, signal.SIGCONT)
    assert only(found, str(well.at)) == ("ok", f"1 file, daemon {well.pid} answers", "")
    state, what, remedy = only(found, str(dead.at))
    assert (state, remedy) == ("problem", f"lazyfs umount {dead.at}; or mount it again")
    assert what == "its daemon is dead: whoever looks there has an error"
    state, what, remedy = only(found, str(stuck.at))
    assert (state, remedy) == ("problem", f"lazyfs umount {stuck.at} --lazy")
    assert what.startswith("its daemon is there, and does not answer (")


def test_origins(served: MisbehavingOrigin, tmp_path: Path) -> None:
    """One command, several URLs, each with findings of its own; nothing secret is shown, and two bytes are asked."""
    urls = {
        "good": served.plain(NAME), "redirects": served.url("redirect=2", NAME),
        "no ranges": served.url("no-range", NAME), "no validators": served.url("no-validators", NAME),
        "wrong clock": served.url("date=7200", NAME),
        "not there": served.url("status=404", NAME), "secret": served.url("basic", NAME),
        "wrong range": served.url("elsewhere@2-", NAME), "nobody": "http://me:hidden@127.0.0.1:9/x?key=hidden",
    }  # fmt: skip
    found = looked("--store", tmp_path / "store", *urls.values())
    told = json.dumps(found)
    assert "hidden" not in told

    def of(name: str) -> list[tuple[str, str]]:
        subject = "http://127.0.0.1:9/x" if name == "nobody" else urls[name]
        return [(each["state"], each["what"]) for each in found[subject]]

    (first, first_words), (validator, _), (ranges, range_words) = of("good")
    assert (first, validator, ranges) == ("ok", "ok", "ok")
    assert first_words.startswith("it answers, in 0.")
    assert first_words.endswith("; 1.0 MiB")
    assert range_words.startswith("ranges are honoured, in ")
    assert ", where it redirects, in" in of("redirects")[0][1]
    assert of("no ranges")[2] == ("note", "ranges are not honoured: the first read fetches all of it")
    assert of("no validators")[1][0] == "note"
    assert re.fullmatch("the clock here is (7200|719.) s behind the origin's", of("wrong clock")[1][1])
    assert of("not there") == [("problem", "HTTP 404: nothing is there")]
    ((state, words),) = of("secret")
    assert (state, words.startswith("it wants a username and password for ")) == ("problem", True)
    assert found[urls["secret"]][0]["remedy"]
    assert of("wrong range")[2][0] == "problem"
    assert of("nobody") == [("problem", "cannot connect: Connection refused")]


def test_credentials_and_proxies(served: MisbehavingOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = served.url("basic", NAME)
    (tmp_path / "headers").write_text("Authorization: Basic dXNlcjpzZWNyZXQ=\n")  # user:secret
    options = ("--store", tmp_path / "store", "--header-file", tmp_path / "headers")
    monkeypatch.setitem(ENVIRONMENT, "http_proxy", "http://me:hidden@127.0.0.1:9")
    first, *rest = looked(*options, url)[url]
    assert first["what"] == "the environment names a proxy for http, which is not used"
    assert [each["state"] for each in rest] == ["ok", "ok", "ok"]
    through = looked(*options, "--proxy", "env", url)[url]
    assert through[0]["what"] == "asked through the proxy http://127.0.0.1:9"
    assert through[1]["state"] == "problem"


def test_a_wrong_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "LAZYFS_MAX_CACHE", "much")
    monkeypatch.setitem(ENVIRONMENT, "LAZYFS_MAX_CACH", "1G")
    wrong, strange = looked("--store", tmp_path / "store")["configuration"]
    assert (wrong["state"], strange["state"]) == ("problem", "note")
    assert wrong["what"].startswith("LAZYFS_MAX_CACHE: 'much' is not a size")
    assert "did you mean LAZYFS_MAX_CACHE?" in strange["what"]


def test_what_is_no_url() -> None:
    done = lazyfs("doctor", "oci://host/image")
    assert done.returncode == 1
    assert done.stderr == "lazyfs: 'oci://host/image' is no http or https URL: doctor asks for files by their URLs\n"


def test_a_check_that_is_stuck_is_given_up() -> None:
    """What it has found by then counts."""

    def stuck() -> Iterator[Finding]:
        yield Finding("one", State.OK, "found")
        signal.pause()

    def broken() -> Iterator[Finding]:
        yield Finding("one", State.OK, "found")
        raise FileNotFoundError(2, "No such file or directory", "/some/file")

    (first, last), (_, failure) = (list(under_way("it", 0.3, check).findings()) for check in (stuck, broken))
    assert first == Finding("one", State.OK, "found")
    assert last == Finding("it", State.PROBLEM, STUCK)
    assert failure == Finding("it", State.PROBLEM, "/some/file: No such file or directory")


def test_a_clock_before_lazyfs_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    (finding,) = host_checks.clock()
    assert finding.state is State.PROBLEM
    assert finding.what.startswith("it says 1970-01-01")
