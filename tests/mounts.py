"""Real mounts for tests: the command, its daemons, processes that look at them, and the end of all of it.

pytest's own process never touches a mount, whose daemon may be stuck: `on_mount` and `run` do so from processes of
their own, with a time-out. `Leftovers` finds and removes whatever a test has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

from lazyfs import mountinfo
from lazyfs.link import SUPERVISOR

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}

WITHOUT_PASSTHROUGH = "LAZYFS_TEST_NO_PASSTHROUGH" in os.environ
"""Whether mounts are made with --no-passthrough: all tests must pass either way, but for those of passthrough itself,
which ask for it."""

PATIENCE = 30.0
"""Units: seconds.  How long a process may take that looks at a mount, or a daemon to end."""

GRACE = 15.0
"""Units: seconds.  How long a daemon may take to end after SIGTERM; it serves open files for 5 of them."""

P = ParamSpec("P")
R = TypeVar("R")
Words = Sequence[str | Path]

_under_way: list[subprocess.Popen[bytes]] = []
"""Processes that have not been waited for; one that was killed may be stuck in the kernel until its mount is gone."""


def run(words: Words, timeout: float = PATIENCE, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. *Raises*: TimeoutError; AssertionError with its output when it fails, with `check`."""
    process = _start(words)
    out, err = (text.decode("utf-8", "surrogateescape") for text in _finish(process, timeout))
    assert not check or process.returncode == 0, f"{_shown(words)}: exit status {process.returncode}\n{out}{err}"
    return subprocess.CompletedProcess(list(map(str, words)), process.returncode, out, err)


def lazyfs(*words: str | Path, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run the `lazyfs` command of this checkout; whether it failed is for the caller to see."""
    if WITHOUT_PASSTHROUGH and words[:1] == ("mount",):
        words = ("mount", "--no-passthrough", *words[1:])
    return run([sys.executable, "-m", "lazyfs", *words], timeout, check=False)


class Task(Generic[R]):
    """A call under way in a process of its own."""

    def __init__(self, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = pickle.dumps((function, args, kwargs)).hex()
        self._process = _start([sys.executable, "-S", "-m", "tests.under", call])

    def result(self, timeout: float = PATIENCE) -> R:
        """Wait for the call and return or raise what it returned or raised. *Raises*: TimeoutError."""
        out, err = _finish(self._process, timeout)
        assert self._process.returncode == 0, err.decode()
        how, outcome = pickle.loads(out.lstrip(b"!"))
        if how == "raised":
            raise outcome
        return cast("R", outcome)

    def wait_until_open(self) -> None:
        """Wait for the byte with which a call says that it has the file open, or is ready."""
        assert self._process.stdout is not None
        assert os.read(self._process.stdout.fileno(), 1) == b"!", "it could not open the file"

    def go(self) -> None:
        """Let a call go on that waits for standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"!")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid


def start(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Task[R]:
    """Start a call of a function of tests.under, or of another module that imports only the standard library."""
    return Task(function, args, kwargs)


def on_mount(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call such a function in a process of its own. *Raises*: what it raises; TimeoutError."""
    return start(function, *args, **kwargs).result()


def _start(words: Words) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(list(words), cwd=ROOT, env=ENVIRONMENT, stdin=pipe, stdout=pipe, stderr=pipe)
    _under_way.append(process)
    return process


def _finish(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bytes]:
    try:
        output = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise TimeoutError(f"not within {timeout} s: {_shown(cast('Words', process.args))}") from None
    _under_way.remove(process)
    return output


def _shown(words: Words) -> str:
    return " ".join(str(word)[:200] for word in words)


def reap() -> None:
    """End the processes that nobody has waited for; the mounts that they may hang in must be gone."""
    while _under_way:
        process = _under_way.pop()
        process.kill()
        process.communicate(timeout=PATIENCE)


@dataclass
class Mount:
    """A mount of ours; `at` is its mountpoint and `store` its store."""

    at: Path
    store: Path
    pid: int

    def path(self, name: str = "") -> str:
        """Return the path of a name under the mount; nothing looks at it."""
        return os.path.join(self.at, name)

    def status(self) -> dict[str, Any]:
        """Return what `status --json` says of this mount."""
        done = lazyfs("status", self.at, "--json")
        assert done.returncode == 0, done.stderr
        (mount,) = json.loads(done.stdout)["mounts"]
        return cast("dict[str, Any]", mount)

    def counters(self) -> dict[str, int]:
        """Return its counters."""
        return cast("dict[str, int]", self.status()["counters"])

    def log(self) -> str:
        """Return its daemon's log."""
        return Path(self.status()["log"]).read_text()

    @property
    def supervisor(self) -> int:
        """The process that would start the next daemon."""
        (pid,) = _processes(self.at, SUPERVISOR)
        return pid

    def kill(self) -> None:
        """Kill its daemon, as nobody can refuse, and who would start the next one; wait until both are gone."""
        killed = [*_processes(self.at, SUPERVISOR), self.pid]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_for_end(killed)

    def umount(self, *options: str) -> None:
        """Unmount it and wait until its daemon has ended."""
        done = lazyfs("umount", *options, self.at)
        assert done.returncode == 0, done.stderr
        wait_for_end([self.pid])


class Mounts:
    """Makes mounts below one directory, all on one store unless another is named."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self._made: list[Mount] = []

    def __call__(
        self, *sources: str | Path, options: Words = (), store: Path | None = None, at: Path | None = None
    ) -> Mount:
        """Mount sources. *Raises*: AssertionError with what the command says when it fails."""
        if at is None:
            at = self.directory / f"mount{len(self._made) + 1}"
            at.mkdir()
        store = store or self.store
        done = lazyfs("mount", "--store", store, *options, *sources, at)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        (pid,) = _processes(at, "lazyfs")
        self._made.append(Mount(at, store, pid))
        return self._made[-1]

    def end(self) -> None:
        """End all daemons with the signal that they should obey, and take away the mounts of those that were killed.

        *Raises*: TimeoutError.
        """
        daemons = [pid for mount in self._made for pid in _processes(mount.at, "lazyfs")]
        supervisors = [pid for mount in self._made for pid in _processes(mount.at, SUPERVISOR)]
        for pid in daemons:
            with contextlib.suppress(ProcessLookupError):  # it was about to end
                os.kill(pid, signal.SIGTERM)
        wait_for_end(daemons + supervisors, GRACE)
        for mounted in Leftovers.below(self.directory).mounts:
            run(_unmount(mounted))


def alive(pid: int) -> bool:
    """Say whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_daemon(pid: int) -> bool:
    """Say whether a supervisor's child is a daemon: `import trio` has ldconfig run, which is its child, too."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return alive(pid) and (words[0] == b"lazyfs" or b"lazyfs.daemon" in words)
    return False


def wait_for_end(pids: Sequence[int], timeout: float = PATIENCE) -> None:
    """Wait until processes, which need not be our children, have ended. *Raises*: TimeoutError."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                while alive(pid):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"process {pid} has not ended within {timeout} s")
                    select.select([fd], [], [], 0.1)
            finally:
                os.close(fd)


def _processes(below: Path, name: str) -> list[int]:
    """Return the processes that run a command of ours with a path below one directory among their words."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            mentions = any(word == os.fsencode(below) or word.startswith(os.fsencode(below) + b"/") for word in words)
            if name.encode() in words and mentions and alive(int(process.name)):
                found.append(int(process.name))
    return found


@dataclass(frozen=True)
class Leftovers:
    """What is left below a directory: daemons, mounts (the last made first), loop devices."""

    daemons: list[int]
    mounts: list[mountinfo.Mounted]
    loops: list[str]

    @classmethod
    def below(cls, directory: Path) -> Leftovers:
        """Look for what is left, without a look at any mount."""
        base = str(directory) + "/"
        mounts = [mounted for mounted in mountinfo.mounts() if mounted.mountpoint.startswith(base)]
        daemons = _processes(directory, SUPERVISOR) + _processes(directory, "lazyfs")
        return cls(daemons, mounts[::-1], list(_loops(base)))

    @classmethod
    def settled(cls, directory: Path) -> Leftovers:
        """The same, once what is on its way out has gone.

        The kernel lets go of loop devices after umount, and a command that fails does not wait for its daemon's end.
        """
        for _ in range(50):
            left = cls.below(directory)
            if left.mounts or not (left.loops or left.daemons):
                break
            time.sleep(0.05)
        return left

    def __bool__(self) -> bool:
        return bool(self.daemons or self.mounts or self.loops)

    def __str__(self) -> str:
        places = [f"{mounted.fstype} at {mounted.mountpoint}" for mounted in self.mounts]
        return f"daemons {self.daemons}, mounts {places}, loop devices {self.loops}"

    def remove(self) -> None:
        """End and unmount all of it. What waits for a daemon is freed by its death, or by aborting its connection."""
        for pid in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            wait_for_end(self.daemons, 3)
        except TimeoutError:
            self._abort()
        for mounted in self.mounts:
            run(_unmount(mounted), check=False)
        for loop in self.loops:
            run(["losetup", "-d", loop], check=False)
        wait_for_end(self.daemons)

    def _abort(self) -> None:
        """Abort the FUSE connections of these mounts: a daemon that touches its own mount cannot even be killed."""
        connections = Path("/sys/fs/fuse/connections")
        with _mounted_fusectl(connections):
            for mounted in self.mounts:
                if mounted.fstype == mountinfo.FSTYPE:
                    with contextlib.suppress(FileNotFoundError):
                        (connections / str(mounted.minor) / "abort").write_text("1")


@contextlib.contextmanager
def _mounted_fusectl(connections: Path) -> Iterator[None]:
    if mountinfo.mount_at(str(connections)) is not None:
        yield
        return
    run(["mount", "-t", "fusectl", "none", connections])
    try:
        yield
    finally:
        run(["umount", connections], check=False)


def _unmount(mounted: mountinfo.Mounted) -> list[str]:
    command = ["fusermount3", "-u", "-z"] if os.geteuid() != 0 else ["umount", "-l"]
    return [*command, mounted.mountpoint]


def _loops(base: str) -> Iterator[str]:
    for device in Path("/sys/block").glob("loop*"):
        with contextlib.suppress(OSError):
            if (device / "loop" / "backing_file").read_text().startswith(base):
                yield f"/dev/{device.name}"
