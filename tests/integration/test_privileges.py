"""What a mount's processes may still do, as the kernel says it, and that they do all that they should."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyfs import mountinfo
from lazyfs.privileges import Capability
from tests import mounts as real
from tests import under
from tests.hosts import GUEST, MNT, Host
from tests.integration.test_mount import MIB, made
from tests.integration.test_passthrough import is_on, make_whole, past
from tests.integration.test_takeover import next_daemon
from tests.mounts import Mount, Mounts, lazyfs, on_mount, run, wait_for_end
from tests.servers import Nginx

of_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has anything to give up")

NONE = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "NoNewPrivs": 1}

SUPERVISOR = Capability.SYS_ADMIN | Capability.SETPCAP

WAYS = [[], ["--no-takeover"], ["--no-passthrough"]]


def all_of(capabilities: int, **others: int) -> dict[str, int]:
    """What a process has that keeps these capabilities."""
    return NONE | {"CapPrm": capabilities, "CapEff": capabilities, "CapBnd": capabilities} | others


def read_status(text: str) -> list[dict[str, int]]:
    """Read /proc/PID/task/*/status: capabilities and no_new_privs of each thread."""
    found = re.findall(r"(?m)^(Cap\w+|NoNewPrivs):\s*(\w+)$", text)
    each = [dict(found[start : start + len(NONE)]) for start in range(0, len(found), len(NONE))]
    return [{name: int(value, 16) for name, value in thread.items()} for thread in each]


def threads(pid: int) -> list[dict[str, int]]:
    """What each thread of a process may do."""
    return read_status("".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def core_limit(pid: int) -> list[str]:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core" in line]
    return line.split()[4:6]


def busy(mount: Mount) -> None:
    """Have a daemon start the threads that it has use for."""
    for offset in (0, 8192, 16384, MIB):
        on_mount(under.direct_read, mount.path("blob"), offset, 4096)
        on_mount(under.read, mount.path("blob"), offset, 100)
    on_mount(under.sha256, mount.path("blob"))


@of_root
@pytest.mark.parametrize("options", WAYS)
def test_no_thread_of_a_daemon_has_any_right(nginx: Nginx, docroot: Path, mounts: Mounts, options: list[str]) -> None:
    made(docroot, "blob", 2 * MIB)
    mount = mounts(nginx.url + "/blob", options=options)
    busy(mount)
    assert len(threads(mount.pid)) > 1
    for thread in threads(mount.pid):
        assert thread == NONE
    assert threads(parent(mount.pid)) == [all_of(SUPERVISOR)]
    assert core_limit(mount.pid) == core_limit(parent(mount.pid)) == ["0", "0"]
    assert mount.status()["runs_as"] == {"user": "root", "capabilities": []}
    assert "runs as   root, without capabilities" in lazyfs("status", mount.at).stdout


@of_root
def test_what_takes_rights_is_done_all_the_same(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    source = made(docroot, "blob", 3 * MIB)
    mount = mounts(nginx.url + "/blob", options=["--passthrough"])
    mounted = mountinfo.mount_at(str(mount.at))
    assert mounted is not None
    assert Path(f"/sys/class/bdi/{mounted.device}/read_ahead_kb").read_text() == "1024\n"
    assert make_whole(mount, "blob") == is_on(mount)
    assert on_mount(under.sha256, mount.path("blob")) == under.sha256(str(source))
    opens, _ = past(mount)
    assert (opens > 0) == is_on(mount)

    os.kill(mount.pid, signal.SIGKILL)
    pid = next_daemon(mount, mount.pid)
    assert on_mount(under.sha256, mount.path("blob")) == under.sha256(str(source))
    assert (past(mount)[0] > 0) == is_on(mount)
    assert all(thread == NONE for thread in threads(pid))
    assert core_limit(pid) == ["0", "0"]
    limits = Path(f"/proc/{pid}/limits").read_text(), Path(f"/proc/{parent(pid)}/limits").read_text()
    assert limits[0] == limits[1]
    mount.umount()
    wait_for_end([pid])


@of_root
@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("how", ["lazyfs umount", "umount", "SIGTERM", "SIGTERM to the supervisor"])
def test_it_is_unmounted(nginx: Nginx, docroot: Path, mounts: Mounts, options: list[str], how: str) -> None:
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob", options=options)
    supervisor = parent(mount.pid)
    if how == "lazyfs umount":
        assert lazyfs("umount", mount.at).returncode == 0
    elif how == "umount":
        run(["umount", mount.at])
    else:
        os.kill(supervisor if "supervisor" in how else mount.pid, signal.SIGTERM)
    wait_for_end([mount.pid, supervisor])
    assert mountinfo.mount_at(str(mount.at)) is None


def test_what_fails_after_mounting_leaves_nothing(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    """The control socket cannot be made, which is seen when the mount is there."""
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob")
    mount.umount()
    (taken,) = (mounts.store / "run").glob("*.log")
    taken.with_suffix(".sock").mkdir()
    done = lazyfs("mount", "--store", mounts.store, nginx.url + "/blob", mount.at)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert mountinfo.mount_at(str(mount.at)) is None


@of_root
def test_an_option_that_only_libfuse_refuses_leaves_nothing(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 100)
    at = mounts.directory / "at"
    at.mkdir()
    done = lazyfs("mount", "--store", mounts.store, "-o", "nosymfollow", nginx.url + "/blob", at)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert mountinfo.mount_at(str(at)) is None


def test_without_its_supervisor_a_daemon_serves_and_ends(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """Then nobody can unmount for it: what it leaves is dead, and unmounted as such."""
    source = made(docroot, "blob", 3 * MIB)
    mount = mounts(nginx.url + "/blob")
    os.kill(parent(mount.pid), signal.SIGKILL)
    for _ in range(2):
        assert on_mount(under.sha256, mount.path("blob")) == under.sha256(str(source))
    os.kill(mount.pid, signal.SIGTERM)
    wait_for_end([mount.pid])
    assert lazyfs("umount", mount.at).returncode == 0


@of_root
def test_a_supervisor_hears_once_what_it_may_do(tmp_path: Path) -> None:
    """A daemon that is in other hands cannot have it mount elsewhere, nor start a daemon with more rights."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = run([sys.executable, "-c", _TURNED, str(tmp_path)])
    said = json.loads(done.stdout)
    assert said["mounted"] == [str(tmp_path / "one")]
    assert {"ro", "nosuid", "nodev"} <= set(said["options"])
    assert said["rights"] == ["nobody", 0]
    assert said["left"] == []


_TURNED = """
import json, os, signal, sys
from lazyfs import link, mountinfo
from lazyfs.successor import Successors
from lazyfs.supervisor import Supervisor
base = sys.argv[1]
ours, theirs = link.pair()
out, told = os.pipe()
def below(): return [each.mountpoint for each in mountinfo.mounts() if each.mountpoint.startswith(base + "/")]
def options(): return next(l.split()[5] for l in open("/proc/self/mountinfo") if base + "/one" in l).split(",")
daemon = os.fork()
if daemon == 0:
    ours.close()
    charge = {"op": "charge", "source": "lazyfs#x", "keep": 0, "own": 1 << 21 | 1 << 8}
    link.send(theirs, {**charge, "mountpoint": base + "/one", "options": ["noexec"], "user": "nobody"})
    other = {"mountpoint": base + "/two", "options": ["suid", "dev", "rw"], "user": None, "keep": 1}
    link.send(theirs, {**charge, **other})
    link.send(theirs, {"op": "mount", "log": base + "/log", "outlives": False})
    _, fds = link.receive(theirs)
    link.send(theirs, {"op": "mount", "log": base + "/log", "outlives": False, "mountpoint": base + "/two"})
    said = {"mounted": below(), "options": options()}
    link.send(theirs, {"op": "detach"})
    assert link.receive(theirs)[0] == {"detached": True}
    said["left"] = below()
    os.write(told, json.dumps(said).encode())
    link.send(theirs, {"op": "no backing", "id": 1 << 70})
    signal.pause()
theirs.close()
supervisor = Supervisor(ours, daemon, Successors(lambda: None))
assert supervisor.run() == 1, "a daemon that says what makes no sense is killed"
rights = supervisor._rights
print(json.dumps({**json.loads(os.read(out, 65536)), "rights": [rights.user, int(rights.keep)]}))
"""


@of_root
def test_a_daemon_in_other_hands_does_not_come_to_its_supervisors_rights(
    nginx: Nginx, docroot: Path, mounts: Mounts
) -> None:
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob")
    done = run([sys.executable, "-c", _ATTEMPTS, str(mount.supervisor), str(mounts.directory)])
    assert json.loads(done.stdout) == {"mount": "EPERM", "trace": "EPERM", "take": "EPERM", "memory": "EACCES"}


_ATTEMPTS = """
import ctypes, errno, json, os, sys
from lazyfs import privileges
supervisor, directory = int(sys.argv[1]), sys.argv[2].encode()
libc = ctypes.CDLL(None, use_errno=True)
privileges.take_on(privileges.Rights())
found = {}
def note(name, result):
    found[name] = result if result >= 0 else errno.errorcode[ctypes.get_errno()]
note("mount", libc.mount(b"none", directory, b"tmpfs", 0, None))
note("trace", libc.ptrace(16, supervisor, None, None))
note("take", libc.syscall(438, os.pidfd_open(supervisor), 0, 0))  # pidfd_getfd
try:
    found["memory"] = open(f"/proc/{supervisor}/mem", "rb").fileno()
except OSError as exc:
    found["memory"] = errno.errorcode[exc.errno]
print(json.dumps(found))
"""


@of_root
def test_metrics_at_a_port_for_the_privileged(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    made(docroot, "blob", 100)
    port = free_port_below(1024)
    mount = mounts(nginx.url + "/blob", options=["--metrics", str(port)])
    for pid in (mount.pid, 0):
        assert all(thread == NONE for thread in threads(pid or mount.status()["pid"]))
        assert mount.status()["metrics"] == f"127.0.0.1:{port}"
        if pid:
            os.kill(pid, signal.SIGKILL)
            next_daemon(mount, pid)


def free_port_below(bound: int) -> int:
    for port in range(bound - 1, 512, -1):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is none")


@of_root
def test_root_finds_its_files_in_the_homes_of_others(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """A store, a mountpoint, a manifest in a directory that only another user may enter: as ever for root."""
    made(docroot, "blob", 100)
    home = mounts.directory / "home"
    (home / "at").mkdir(parents=True)
    (home / "names.jsonl").write_text(json.dumps({"path": "blob", "url": f"{nginx.url}/blob"}) + "\n")
    for path in (home, home / "names.jsonl"):
        path.chmod(0o700)
        os.chown(path, GUEST, GUEST)
    mount = mounts(home / "names.jsonl", store=home / "new" / "store", at=home / "at")
    kept = all_of(Capability.DAC_READ_SEARCH)
    assert all(thread == kept for thread in threads(mount.pid))
    assert on_mount(under.names, mount.path()) == ["blob"]
    os.kill(mount.pid, signal.SIGKILL)
    pid = next_daemon(mount, mount.pid)
    assert all(thread == kept for thread in threads(pid))
    assert on_mount(under.names, mount.path()) == ["blob"]
    os.kill(pid, signal.SIGTERM)
    wait_for_end([pid])
    assert mountinfo.mount_at(str(mount.at)) is None


# Other users, on a host where our code is where all may read it.


@pytest.fixture
def host(nginx: Nginx, docroot: Path) -> Iterator[Host]:
    """A host with an empty directory for a mount of root's, one of the guest's, and one for nothing else."""
    with Host() as host:
        host.did("mkdir", MNT / "at")
        host.did("mkdir", MNT / "home/at", user=GUEST)
        yield host


def status_of(host: Host, at: Path, user: int = 0) -> dict[str, Any]:
    (mount,) = json.loads(host.did("lazyfs", "status", at, "--json", user=user))["mounts"]
    found: dict[str, Any] = mount
    return found


def threads_there(host: Host, pid: int) -> list[dict[str, int]]:
    return read_status(host.did("sh", "-c", f"cat /proc/{pid}/task/*/status"))


def supervisor_there(host: Host, pid: int) -> int:
    return int(host.did("cat", f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def await_end(host: Host, *pids: int) -> None:
    """Wait until these have ended; nobody there takes note of their ends."""
    listed = " ".join(f"/proc/{pid}/status" for pid in pids)
    host.did("timeout", "20", "sh", "-c", f"while grep -qs 'State:.[^ZX]' {listed}; do sleep 0.1; done")


@of_root
@pytest.mark.parametrize("options", WAYS[:2])
@pytest.mark.parametrize("how", ["lazyfs umount", "fusermount3 -u", "kill", "kill the supervisor"])
def test_a_users_mount_is_unmounted(host: Host, nginx: Nginx, docroot: Path, options: list[str], how: str) -> None:
    """By fusermount3, a setuid program, which the daemon may not run, but its supervisor."""
    made(docroot, "blob", MIB)
    at = MNT / "home/at"
    host.did("lazyfs", "mount", *options, nginx.url + "/blob", at, user=GUEST)
    host.did("cksum", at / "blob", user=GUEST)
    pid = status_of(host, at, user=GUEST)["pid"]
    supervisor = supervisor_there(host, pid)
    for thread in threads_there(host, pid):
        assert (thread["CapPrm"], thread["CapEff"], thread["NoNewPrivs"]) == (0, 0, 1)
    (thread,) = threads_there(host, supervisor)
    assert (thread["CapPrm"], thread["NoNewPrivs"]) == (0, 0)
    for process in (pid, supervisor):
        assert host.did("stat", "-c", "%u", f"/proc/{process}/fd") == "0\n", "its memory is open to other processes"
    assert status_of(host, at, user=GUEST)["passthrough"]["reason"] == "it takes CAP_SYS_ADMIN: mount as root"
    if "kill" in how:
        host.did("kill", str(supervisor if "supervisor" in how else pid), user=GUEST)
    else:
        host.did(*how.split(), at, user=GUEST)
    await_end(host, pid, supervisor)
    assert host.mounted() == {}


@of_root
def test_a_daemon_runs_as_the_user_who_owns_the_store(host: Host, nginx: Nginx, docroot: Path) -> None:
    made(docroot, "blob", 2 * MIB)
    at, store = MNT / "at", MNT / "home/new/store"
    host.did("lazyfs", "mount", "--user", "guest", "--store", store, nginx.url + "/blob", at)
    first = status_of(host, at)["pid"]
    for number in range(2):
        pid = status_of(host, at)["pid"]
        assert (pid == first) == (number == 0)
        assert all(thread == NONE for thread in threads_there(host, pid))
        lines = host.did("sh", "-c", f"cat /proc/{pid}/task/*/status; tr '\\0' '\\n' </proc/{pid}/environ")
        assert set(re.findall(r"(?m)^(?:Uid|Gid):(.*)$", lines)) == {f"\t{GUEST}" * 4}
        assert set(re.findall(r"(?m)^Groups:\t(.*)$", lines)) == {f"{GUEST} "}
        assert host.did("stat", "-c", "%u", f"/proc/{pid}/fd") == "0\n"
        assert status_of(host, at)["runs_as"] == {"user": "guest", "capabilities": []}
        assert host.did("stat", "-c", "%u %g", at, at / "blob").split("\n")[:2] == ["0 0", "0 0"]
        host.did("cksum", at / "blob")
        assert f"{at}: 1 file" in host.did("lazyfs", "status", "--store", store, user=GUEST)
        assert host.run("cat", at / "blob", user=GUEST).returncode != 0, "as any mount of root's without --allow-other"
        assert status_of(host, at)["passthrough"]["reason"] is None
        if not number:
            host.did("kill", "-KILL", str(pid))
            host.did("cksum", at / "blob")  # waits for the next one
    host.did("lazyfs", "upgrade", at)
    upgraded = status_of(host, at)
    assert all(thread == NONE for thread in threads_there(host, upgraded["pid"]))
    assert (upgraded["runs_as"]["user"], upgraded["passthrough"]["reason"]) == ("guest", None)
    log = Path(upgraded["log"])
    assert "starting the next one" in host.did("cat", log)
    owners = host.did("find", MNT / "home/new", "-printf", "%u\n")
    assert set(owners.split()) == {"guest"}
    for command in ("ls", "fsck", "gc"):
        host.did("lazyfs", command, "--store", store)
    host.did("lazyfs", "pin", at / "blob")
    assert set(host.did("find", MNT / "home/new", "-printf", "%u\n").split()) == {"guest"}
    pid = status_of(host, at)["pid"]
    supervisor = supervisor_there(host, pid)
    own = SUPERVISOR | Capability.SETUID | Capability.SETGID | Capability.KILL
    assert threads_there(host, supervisor) == [all_of(own)]
    host.did("kill", str(supervisor))
    await_end(host, pid, supervisor)
    assert host.mounted() == {}


@of_root
def test_it_is_an_option_of_mounts_too(host: Host, nginx: Nginx, docroot: Path) -> None:
    """In /etc/fstab `user` says who may mount: there it is `run_as`."""
    made(docroot, "blob", 100)
    host.did("lazyfs", "install-units")
    store = MNT / "home/store"
    host.did("mount", "-t", "lazyfs", nginx.url + "/blob", MNT / "at", "-o", f"user,run_as=guest,store={store}")
    assert status_of(host, MNT / "at")["runs_as"]["user"] == "guest"
    host.did("umount", MNT / "at")


@of_root
def test_what_cannot_be_run_as_another_user(host: Host, nginx: Nginx, docroot: Path) -> None:
    made(docroot, "blob", 100)
    host.did(
        "sh", "-c", f"mkdir -m 700 {MNT}/closed {MNT}/closed/in; echo 'X: y' >{MNT}/header; chmod 600 {MNT}/header"
    )
    url, home = nginx.url + "/blob", MNT / "home/at"
    for user, name, store, header, status, said in (
        (0, "nosuch", "home/s", "", 2, "there is no user 'nosuch' on this host"),
        (GUEST, "guest", "home/s", "", 2, "only root can run a daemon as another user"),
        (0, "guest", "closed", "", 1, "guest does not own the store /mnt/closed; name another"),
        (0, "guest", "closed/in/a", "", 1, "guest may not enter the directory of the store"),
        (0, "guest", "a", "", 1, "guest cannot make the store /mnt/a; make it with: install"),
        (0, "guest", "home/s", "header", 1, "guest may not read /mnt/header; let that user"),
    ):
        options: list[str | Path] = ["--user", name, "--store", MNT / store]
        options += ["--header-file", MNT / header] if header else []
        done = host.run("lazyfs", "mount", *options, url, home, user=user)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done
        assert said in done.stderr
    host.did("install", "-d", "-o", "guest", "-m", "700", MNT / "a")
    host.did("lazyfs", "mount", "--user", "guest", "--store", MNT / "a", url, home)
    host.did("lazyfs", "umount", home)


@of_root
def test_code_that_another_user_may_not_read(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    made(docroot, "blob", 100)
    for directory in ("at", "code"):
        (tmp_path / directory).mkdir(mode=0o700)
    run(["cp", "-r", real.ROOT / "lazyfs", tmp_path / "code"])
    store, at = str(tmp_path / "store"), str(tmp_path / "at")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lazyfs", "mount", "--user", "nobody", "--store", store, nginx.url + "/blob", at],
        env={**real.ENVIRONMENT, "PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "nobody may not read lazyfs's own code in" in done.stderr
    assert done.stderr.count("\n") == 1
