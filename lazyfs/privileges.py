"""What a process of a mount may do, by the kernel's own rules: less than it began with, and never more again.

A daemon reads what strangers send. So before it starts a thread or hears from an origin, it gives up all that it does
not need (`take_on`); what takes more its supervisor does, which reads nothing but short words of the daemon's.

Capabilities, no_new_privs and the bounding set belong to a thread, and a new one inherits those of who starts it. User
and groups are set for all threads at once, and the process is aborted when one of them may not do that: what is done
here is done while there is one thread.

*Source*: capabilities(7), prctl(2), credentials(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Final

from lazyfs.errors import UsageError

_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_HEADER: Final = struct.Struct("=Ii")  # version, thread (0: the one that calls)
_SETS: Final = struct.Struct("=6I")  # effective, permitted, inheritable: the lower 32 bits of each, then the upper ones

_GET_DUMPABLE, _SET_DUMPABLE, _SET_KEEPCAPS = 3, 4, 8  # linux/prctl.h
_CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 24, 38, 47
_CLEAR_ALL: Final = 4  # of _CAP_AMBIENT


class Capability(IntFlag):
    """Those that any process of a mount has a use for. *Source*: linux/capability.h."""

    NONE = 0
    DAC_READ_SEARCH = 1 << 2
    KILL = 1 << 5
    SETGID = 1 << 6
    SETUID = 1 << 7
    SETPCAP = 1 << 8
    SYS_ADMIN = 1 << 21


@dataclass(frozen=True, slots=True)
class Rights:
    """What a daemon is left with: the user that it becomes, None to stay who it is, and its capabilities."""

    user: str | None = None
    keep: Capability = Capability.NONE


@dataclass(frozen=True, slots=True)
class User:
    """A user of this host, as the files of a process are to be theirs."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def user_called(name: str) -> User:
    """Look a user up. *Raises*: UsageError, when there is none of that name."""
    import pwd  # which most mounts do without

    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"there is no user {name!r} on this host; see: getent passwd") from None
    groups = os.getgrouplist(name, found.pw_gid)
    return User(name, found.pw_uid, found.pw_gid, tuple(groups), found.pw_dir)


def take_on(rights: Rights) -> None:
    """Have this thread, and all that come from it, be left with these rights. *Raises*: UsageError for the user."""
    user = user_called(rights.user) if rights.user is not None else None
    _bound(rights.keep)
    if user is not None:
        _become(user)
    confine(rights.keep)


def confine(keep: Capability) -> None:
    """Give up all capabilities of this thread but these, for programs that it runs, too, and close the memory.

    From then on setuid programs run as whoever runs them (no_new_privs).
    """
    _bound(keep)
    _prctl(_CAP_AMBIENT, _CLEAR_ALL)
    keep = Capability(_permitted() & keep)
    _set_capabilities(keep, keep)
    _prctl(_SET_NO_NEW_PRIVS, 1)
    close_memory()


def close_memory() -> None:
    """Leave this process's memory, which may hold credentials, to no core dump, and to no other process of its user.

    RLIMIT_CORE alone does not do that: the kernel does not look at it where core dumps go to a program. For others but
    root, /proc/PID/fd, maps and the like are closed with it. *Source*: core(5); PR_SET_DUMPABLE(2const).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_SET_DUMPABLE, 0)


def out_of_reach(paths: Iterable[Path]) -> list[Path]:
    """Return which of these cannot be read for what only their owners may; what is not there does not count.

    The capabilities that this thread has do not count either.
    """
    permitted = _permitted()
    _set_capabilities(permitted, Capability.NONE)
    try:
        return [path for path in paths if not _may_read(path)]
    finally:
        _set_capabilities(permitted, permitted)


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Have files be touched as another user does it, without our capabilities, while inside; for root, in one thread.

    Root's own groups are left behind. *Raises*: PermissionError.
    """
    groups, own, dumpable = os.getgroups(), (os.geteuid(), os.getegid()), _prctl(_GET_DUMPABLE, 0)
    os.setgroups([gid])
    os.setegid(gid)
    os.seteuid(uid)  # from root's, which takes the capabilities from use
    try:
        yield
    finally:
        os.seteuid(own[0])
        os.setegid(own[1])
        os.setgroups(groups)
        _prctl(_SET_DUMPABLE, dumpable)  # which each change of a user sets as the host has it for setuid programs


def names(capabilities: int) -> list[str]:
    """Return the names of capabilities, in order; a number for those that are none of ours."""
    numbers = (number for number in range(capabilities.bit_length()) if capabilities >> number & 1)
    known = {capability.value.bit_length() - 1: f"CAP_{capability.name}" for capability in Capability}
    return [known.get(number, str(number)) for number in numbers]


def held() -> Capability:
    """Return the capabilities that this thread has in use."""
    effective, _ = _capabilities()
    return Capability(effective)


def _become(user: User) -> None:
    """Be another user for good, in all threads; what is permitted stays so. *Raises*: UsageError."""
    try:
        _prctl(_SET_KEEPCAPS, 1)
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        _prctl(_SET_KEEPCAPS, 0)
    except OSError as exc:
        raise UsageError(f"the daemon cannot become the user {user.name}: {exc.strerror}; mount as root") from exc
    for name in [name for name in os.environ if name.startswith("XDG_")]:  # directories of who has called
        del os.environ[name]
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)


def _may_read(path: Path) -> bool:
    """Say whether a path, or the way to where it may come to be, is open to us as we are now."""
    try:
        wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    except PermissionError:
        return False
    if os.access(path, wanted, effective_ids=True):
        return True
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def _bound(keep: Capability) -> None:
    """Take all but these from the bounding set; without CAP_SETPCAP it stays, and no_new_privs does its work."""
    for number in range(64):
        if not keep >> number & 1:
            try:
                _prctl(_CAPBSET_DROP, number)
            except OSError:  # no right to it, or no such capability, nor any further one
                return


def _permitted() -> int:
    _, permitted = _capabilities()
    return permitted


def _capabilities() -> tuple[int, int]:
    """Return the effective and the permitted set."""
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(_libc().capget(_HEADER.pack(_VERSION, 0), sets))
    words = _SETS.unpack(sets.raw)
    return words[0] | words[3] << 32, words[1] | words[4] << 32


def _set_capabilities(permitted: int, effective: int) -> None:
    words = [each >> shift & 0xFFFFFFFF for shift in (0, 32) for each in (effective, permitted, 0)]
    _check(_libc().capset(_HEADER.pack(_VERSION, 0), _SETS.pack(*words)))


def _prctl(option: int, argument: int) -> int:
    none = ctypes.c_ulong(0)
    return _check(_libc().prctl(option, ctypes.c_ulong(argument), none, none, none))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
