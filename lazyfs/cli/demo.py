"""demo: the main job, shown with an origin of its own; what is printed was run, and what is claimed was checked.

Every command goes through `sh` as it is printed, with `lazyfs` standing for this interpreter's. Whatever looks at a
mount does so in a process of its own with a time-out, so that the demo itself can neither hang nor keep a mount busy.
However it ends, Ctrl-C included, the mounts and files that it made are gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from lazyfs import mountinfo
from lazyfs.cli.demo_origin import Count, DemoOrigin
from lazyfs.cli.saying import complain
from lazyfs.errors import LazyfsError
from lazyfs.sizes import format_size

SIZE: Final = 64 * 1024 * 1024
"""Bytes of the blob."""

PAGE: Final = 4096
"""Bytes of the partial read, in the middle of the blob."""

PARTIAL_MAX: Final = 1024 * 1024
"""Bytes that the partial read may cost the origin."""

PATIENCE: Final = 30.0
"""Seconds for each command; all of them together take about 5."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(LazyfsError):
    """Something that the demo shows did not come true."""


def run() -> None:
    """Show the main job. *Raises*: DemoError; then, as ever, nothing is left mounted."""
    with _interrupted_by(_SIGNALS), _directory() as directory, DemoOrigin("disk.img", SIZE) as origin:
        try:
            _show(_Shell(directory), origin)
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # what follows is bounded, and has to be done
            _unmount_all(directory)
    click.echo("\nAll of it was checked. Mounts and files of the demo are gone.")


def _show(shell: _Shell, origin: DemoOrigin) -> None:
    name, middle = origin.path[1:], SIZE // 2
    _say(f"An origin of the demo's own has {format_size(SIZE)} at {origin.url}")
    shell.enter("first", "second")
    shell.run(f"lazyfs mount {origin.url} first")
    listing = shell.run("ls -l first")
    _check(f" {SIZE} " in listing and listing.rstrip().endswith(name), "ls does not show the file and its size")
    mounted = origin.count
    _say(f"Name, size and date took {_told(mounted)}. Now {PAGE} bytes from the middle:")

    page = shell.run(f"dd if=first/{name} bs={PAGE} skip={middle // PAGE} count=1 status=none | sha256sum")
    _check_digest(page, hashlib.sha256(origin.content[middle : middle + PAGE]).hexdigest(), "the partial read")
    partly = origin.count
    cost = partly.since(mounted)
    _check(0 < cost.body_bytes <= PARTIAL_MAX, f"{PAGE} bytes cost the origin {_told(cost)}")
    _say(f"The right ones; they took {_told(cost)}. Now all of it:")

    _check_digest(shell.run(f"sha256sum first/{name}"), origin.digest, "the full read")
    wholly = origin.count
    _check(wholly.body_bytes == SIZE, f"the origin sent {wholly.body_bytes} bytes of a file of {SIZE}")
    _say(f"The origin's own digest. In all it sent {wholly.body_bytes} bytes: each byte of the file once.")

    _say("\nA second mount, in a process of its own, on the same store:")
    shell.run(f"lazyfs mount {origin.url} second")
    _check_digest(shell.run(f"sha256sum second/{name}"), origin.digest, "the read of the second mount")
    _check(origin.count == wholly, f"the second mount asked the origin again: {_told(origin.count.since(wholly))}")
    _say("That asked the origin for nothing.")

    origin.stop()
    _say("\nThe origin is stopped, and the first mount made anew:")
    shell.run("lazyfs umount first")
    shell.run(f"lazyfs mount {origin.url} first")
    _check_digest(shell.run(f"sha256sum first/{name}"), origin.digest, "the read without an origin")
    _say("All of it came from the store:")
    _check(" 100 % " in shell.run("lazyfs ls"), "lazyfs ls does not show the file as complete")
    shell.run("lazyfs umount first")
    shell.run("lazyfs umount second")
    _check(not _mounts_below(shell.directory), "a mount is still there after its umount")


class _Shell:
    """Runs and prints commands, in a directory and with a store of the demo's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = {**os.environ, "LC_ALL": "C", "LAZYFS_STORE": str(directory / "store")}
        self._prelude = f'lazyfs() {{ {shlex.quote(sys.executable)} -m lazyfs "$@"; }}\n'

    def enter(self, *mountpoints: str) -> None:
        """Show how the directory was set up."""
        _prompt(f"cd {shlex.quote(str(self.directory))}; mkdir {' '.join(mountpoints)}; export LAZYFS_STORE=$PWD/store")
        for name in mountpoints:
            (self.directory / name).mkdir()

    def run(self, line: str) -> str:
        """Run a line, print it and its output, and return that. *Raises*: DemoError when it fails or takes too long."""
        _prompt(line)
        with _ending(self._start(line)) as process:
            try:
                output, errors = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                raise DemoError(f"the demo failed: {line!r} took more than {PATIENCE:g} s") from None
        click.echo(output, nl=False)
        if process.returncode != 0 or errors:
            reason = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            raise DemoError(f"the demo failed at {line!r}: {reason.removeprefix('lazyfs: ')}")
        return output

    def _start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", self._prelude + line],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which passes it on
        )


@contextlib.contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a command, and those that it started, when it has not ended by itself: gently, then hard."""
    try:
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE / 3)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def _interrupted_by(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Let these signals end the demo as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Yield a new directory, and remove it unless something is mounted there."""
    directory = Path(tempfile.mkdtemp(prefix="lazyfs-demo-")).resolve()
    try:
        yield directory
    finally:
        if left := _mounts_below(directory):
            complain(f"still mounted: {' '.join(left)}; unmount with: lazyfs umount --lazy")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _unmount_all(directory: Path) -> None:
    """Unmount what is left, lazily: nobody but the demo has anything to read there."""
    for mountpoint in _mounts_below(directory):
        with contextlib.suppress(subprocess.TimeoutExpired):
            command = [sys.executable, "-m", "lazyfs", "umount", "--lazy", mountpoint]
            subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=PATIENCE / 3)


def _mounts_below(directory: Path) -> list[str]:
    return [mounted.mountpoint for mounted in mountinfo.mounts() if mounted.mountpoint.startswith(f"{directory}/")]


def _prompt(line: str) -> None:
    click.echo(click.style(f"$ {line}", bold=True))


def _say(text: str) -> None:
    click.echo(click.style(text, fg="cyan"))


def _told(count: Count) -> str:
    return f"{count.requests} request{'s' * (count.requests != 1)} and {format_size(count.body_bytes)} of body"


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(f"the demo failed: {otherwise}")


def _check_digest(output: str, digest: str, what: str) -> None:
    _check(output.split(" ", 1)[0] == digest, f"{what} gave other bytes than the origin has")
