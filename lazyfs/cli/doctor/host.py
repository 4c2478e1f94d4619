"""The host: its kernel, FUSE, rights, limits, and clock."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lazyfs import privileges, takeover
from lazyfs.cli.doctor.findings import Finding, note, ok, problem
from lazyfs.privileges import Capability
from lazyfs.sizes import format_size

DEVICE: Final = Path("/dev/fuse")

FOR_CONTAINERS: Final = "--device /dev/fuse --cap-add SYS_ADMIN"

OPEN_FILES: Final = 4096
"""Descriptors with which some hundred files can be read at a time."""

_PATIENCE: Final = 5.0
"""Seconds for a program to say its version."""


def kernel() -> Iterator[Finding]:
    """Whether it is Linux, and has what the last years brought."""
    system = os.uname()
    shown = f"{system.sysname} {system.release}"
    if system.sysname != "Linux":
        yield problem("kernel", f"{shown}: lazyfs needs Linux")
    elif takeover.kernel() < takeover.SINCE:
        yield note("kernel", f"{shown}: no takeover and no passthrough before 6.9", "upgrade the kernel if you can")
    else:
        yield ok("kernel", shown)


def device() -> Iterator[Finding]:
    """Whether FUSE's device can be opened; who opens it has not mounted anything."""
    name = str(DEVICE)
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield problem(name, "it is not there", _remedy_for_no_device())
    except PermissionError as exc:
        mode = stat.S_IMODE(DEVICE.stat().st_mode)
        if in_container():
            yield problem(name, f"{exc.strerror}", f"start the container with {FOR_CONTAINERS}")
        else:
            yield problem(name, f"{exc.strerror}: its mode is {mode:04o}", "as root: chmod 666 /dev/fuse")
    except OSError as exc:
        yield problem(name, f"{exc.strerror}: the kernel has no FUSE", "as root: modprobe fuse")
    else:
        yield ok(name, "it can be opened")


def _remedy_for_no_device() -> str:
    if in_container():
        return f"start the container with {FOR_CONTAINERS}"
    if any(line.split()[-1:] == ["fuse"] for line in Path("/proc/filesystems").read_text().splitlines()):
        return "as root: mknod -m 666 /dev/fuse c 10 229"
    return "as root: modprobe fuse"


def rights() -> Iterator[Finding]:
    """Whether we may mount: root by its capability, others through fusermount3, which is setuid."""
    profile = _text(Path("/proc/self/attr/current")).rstrip("\0\n")
    if profile.endswith("(enforce)") and in_container():
        remedy = "start the container with --security-opt apparmor=unconfined"
        yield note("rights", f"AppArmor's profile {profile.split()[0]} may forbid to mount", remedy)
    if os.geteuid() == 0:
        if Capability.SYS_ADMIN in privileges.held():
            yield ok("rights", "root, with CAP_SYS_ADMIN: mounts need no fusermount3")
        else:
            remedy = f"start the container with {FOR_CONTAINERS}" if in_container() else "see capsh --print"
            yield problem("rights", "root without CAP_SYS_ADMIN cannot mount", remedy)
    elif "NoNewPrivs:\t1" in _text(Path("/proc/self/status")):
        what = "this process may gain no rights (no_new_privs), so fusermount3 cannot mount for it"
        yield problem("rights", what, "run it without NoNewPrivileges=yes, allowPrivilegeEscalation: false or the like")
    else:
        yield ok("rights", "an ordinary user: fusermount3 mounts")


def mounter() -> Iterator[Finding]:
    """fusermount3, and whether users may let others in."""
    root, name = os.geteuid() == 0, "fusermount3"
    place = shutil.which(name)
    if place is None:
        if root:
            yield note(name, "it is not there: users other than root cannot mount", "apt-get install fuse3")
        else:
            yield problem(name, "it is not there", "as root: apt-get install fuse3")
    else:
        yield _as_it_is(place, root=root)
    if root and shutil.which("umount") is None:
        yield problem("umount", "it is not there", "apt-get install mount")
    if not root and not os.path.lexists("/etc/mtab"):
        remedy = "as root: ln -s /proc/self/mounts /etc/mtab"
        yield problem("/etc/mtab", "it is not there: fusermount3 cannot unmount without", remedy)
    if not root and "user_allow_other" not in map(str.strip, _text(Path("/etc/fuse.conf")).splitlines()):
        remedy = "as root: echo user_allow_other >>/etc/fuse.conf"
        yield note("allow_other", "users may not have others read their mounts (--allow-other)", remedy)


def _as_it_is(place: str, *, root: bool) -> Finding:
    status = Path(place).stat()
    words = subprocess.run([place, "--version"], capture_output=True, text=True, check=False, timeout=_PATIENCE)
    version = (words.stdout + words.stderr).strip().rpartition(" ")[2] or "of no version that it says"
    setuid = status.st_mode & stat.S_ISUID and status.st_uid == 0
    if not root and not setuid:
        return problem("fusermount3", f"{place} is not setuid root", f"as root: chown root {place}; chmod u+s {place}")
    if not root and os.statvfs(place).f_flag & os.ST_NOSUID:
        return problem("fusermount3", f"{place} is on a file system that is mounted nosuid", "remount it with suid")
    return ok("fusermount3", f"{place}, {version}")


def limits() -> Iterator[Finding]:
    """What a process may have: descriptors, and files as large as blobs are."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < OPEN_FILES and os.geteuid() != 0:
        remedy = f"raise it: ulimit -Hn 65536, or LimitNOFILE=65536 in a unit; {OPEN_FILES} will do"
        yield note("limits", f"{files} open files at the most: a file that is read takes up to five", remedy)
    else:
        yield ok("limits", f"{'any number of' if files < 0 else files} open files")
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size >= 0:
        what = f"files may have {format_size(size)} at the most: larger blobs cannot be kept"
        yield problem("limits", what, "lift it: ulimit -f unlimited, or LimitFSIZE=infinity in a unit")


def clock() -> Iterator[Finding]:
    """Whether it can be right: lazyfs cannot have been installed in the future."""
    made, now = Path(__file__).stat().st_mtime, time.time()
    if now < made - 86400:
        shown = [time.strftime("%Y-%m-%d", time.gmtime(each)) for each in (now, made)]
        what = f"it says {shown[0]}, and lazyfs was installed on {shown[1]}: certificates are not valid yet"
        yield problem("clock", what, "set it; as root: timedatectl set-ntp true")
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def in_container() -> bool:
    """Say whether this looks like a container, as engines mark them."""
    if Path("/run/.containerenv").exists() or Path("/.dockerenv").exists():
        return True
    return "KUBERNETES_SERVICE_HOST" in os.environ or "container" in os.environ


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


CHECKS: Final = (
    ("kernel", kernel), ("/dev/fuse", device), ("rights", rights), ("fusermount3", mounter), ("limits", limits),
    ("clock", clock),
)  # fmt: skip
