"""The large things that `tools/scale` makes, and what is done with them while their daemons are watched."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from lazyfs import control
from lazyfs.store import running
from tests.mounts import Mount, Mounts, Task, lazyfs, start
from tests.processes import looking
from tests.servers import Nginx

PATIENCE: Final = 900.0
"""Seconds for one step."""

READS: Final = 300
"""Reads at random places of a blob; as many blocks of it are then in the store."""

SHARED: Final = 64 << 20
"""Bytes of the blob that many mounts share."""

SMALL: Final = 4096
"""Bytes of each of many open files."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Step:
    """What was done, how much work that is, and what it took.

    *Units*: seconds, of a clock and of the daemons' processors; bytes that the daemons have afterwards; `slowest`
    seconds of one look-up meanwhile.
    """

    what: str
    work: int
    seconds: float
    processor: float
    memory: int
    slowest: float = 0.0


class Scale:
    """Makes large things, each in a store of its own; `show` hears of each step.

    *Units*: `idle` the seconds for which many mounts are left alone.
    """

    def __init__(self, mounts: Mounts, nginx: Nginx, show: Callable[[Step], None], idle: float) -> None:
        self._mounts = mounts
        self._nginx = nginx
        self._show = show
        self._idle = idle
        self._made = 0

    def names(self, count: int) -> None:
        """A manifest of so many names, a thousand in each directory."""
        manifest = self._manifest(count, lambda number: f"{number // 1000}/{number % 1000}.bin")
        with self._mounted("names", manifest, count) as mount:
            self._take("names: looked at, each", count, [mount], partial(_under, looking.walk, mount.path()))

    def entries(self, count: int) -> None:
        """A directory of so many names."""
        manifest = self._manifest(count, lambda number: f"file-{number}.bin")
        with self._mounted("entries", manifest, count) as mount:
            self._take("entries: ls -l", count, [mount], partial(_under, looking.walk, mount.path()))
            self._take("entries: ls, 10 times", count, [mount], partial(_under, looking.list_names, mount.path(), 10))

    def index(self, count: int) -> None:
        """A directory index of so many files, listed again whenever it is looked at."""
        directory = self._nginx.docroot / f"index-{count}"
        directory.mkdir()
        for number in range(count):
            (directory / f"file-{number}.bin").touch()
        url, store, made = f"{self._nginx.url}/{directory.name}/", self._new_store(), list[Mount]()
        mount_it = partial(self._mounts, url, store=store, options=["--revalidate", "0"])
        self._take("index: in the mount", count, made, lambda: made.append(mount_it()))
        (mount,) = made

        def look_and_wait() -> None:
            requests = len(self._nginx.requests())
            _under(looking.walk, mount.path())
            _until(lambda: len(self._nginx.requests()) > requests)
            _until_idle(mount)

        looks = start(looking.look_again_and_again, mount.path("nothing"))
        looks.wait_until_open()
        self._take("index: ls -l, and listed behind it", count, [mount], look_and_wait, [looks])
        self._take("index: umount", count, [], mount.umount)

    def blob(self, size: int) -> None:
        """A blob of so many bytes, of which a few are read."""
        name = f"{size}.img"
        url = f"{self._nginx.url}/{name}"
        with (self._nginx.docroot / name).open("wb") as file:
            file.truncate(size)
        store = self._new_store()
        mount = self._mounts(url, store=store)
        read = partial(_under, looking.read_at_random, mount.path(name), size, READS)
        self._take("blob: read at random places", READS, [mount], partial(read, 1))
        self._take(
            "blob: its attributes, 10 times", READS, [mount], partial(_under, looking.attributes, mount.path(name), 10)
        )
        for command in ("ls", "status", "gc", "fsck"):
            self._take(f"blob: lazyfs {command}", READS, [mount], partial(_command, command, "--store", store))
        half = str(READS * (128 << 10))
        self._take(
            "blob: half of it evicted", READS, [mount], partial(_command, "gc", "--max-cache", half, "--store", store)
        )
        self._take("blob: read again", READS, [mount], partial(read, 1))
        self._take("blob: umount", READS, [], mount.umount)
        self._take("blob: lazyfs rm", READS, [], partial(_command, "rm", url, "--store", store))
        (self._nginx.docroot / name).unlink()

    def mounts(self, count: int) -> None:
        """So many mounts of one store."""
        name = f"shared-{count}.img"
        (self._nginx.docroot / name).write_bytes(os.urandom(SHARED))
        store, made = self._new_store(), list[Mount]()

        def make() -> None:
            made.extend(self._mounts(f"{self._nginx.url}/{name}", store=store) for _ in range(count))

        def unmake() -> None:
            for mount in made:
                mount.umount()

        def read_in(mounts: list[Mount], reads: int) -> None:
            for mount in mounts:
                _under(looking.read_at_random, mount.path(name), SHARED, reads, 1)

        self._take("mounts: made", count, made, make)
        self._take("mounts: one reads at random places", 100, made[:1], partial(read_in, made[:1], 100))
        self._take("mounts: each reads what is there", count, made, partial(read_in, made, 10))
        time.sleep(self._idle)  # until what they do at the start is done
        self._take(f"mounts: left alone for {self._idle:g} s", count, made, partial(time.sleep, self._idle))
        self._take("mounts: lazyfs status", count, made, partial(_command, "status", "--store", store))
        self._take("mounts: gone", count, [], unmake)

    def files(self, count: int) -> None:
        """So many files open through one mount, each a blob of its own."""
        directory = self._nginx.docroot / f"files-{count}"
        directory.mkdir()
        for number in range(count):
            (directory / str(number)).write_bytes(os.urandom(SMALL))
        manifest = self._manifest(count, str, f"{self._nginx.url}/{directory.name}/", SMALL)
        with self._mounted("files", manifest, count) as mount:
            task = start(looking.open_all, mount.path(), count)
            self._take("files: opened and read, each", count, [mount], task.wait_until_open)
            task.go()
            self._take("files: closed, each", count, [mount], partial(task.result, PATIENCE))
            for command in ("status", "ls", "gc"):
                self._take(
                    f"files: lazyfs {command}", count, [mount], partial(_command, command, "--store", mount.store)
                )

    def _manifest(
        self, count: int, name: Callable[[int], str], url: str = "http://127.0.0.1:9/", size: int = 0
    ) -> Path:
        self._made += 1
        path = self._mounts.directory / f"manifest-{self._made}.jsonl"
        with path.open("w") as file:
            for number in range(count):
                entry = {"path": name(number), "url": f"{url}{number}", "size": size or number, "mtime": 1_700_000_000}
                file.write(json.dumps(entry) + "\n")
        return path

    def _new_store(self) -> Path:
        self._made += 1
        return self._mounts.directory / f"store-{self._made}"

    @contextlib.contextmanager
    def _mounted(self, what: str, manifest: Path, count: int) -> Iterator[Mount]:
        """Have a manifest mounted, and all of its names taken in."""
        made = list[Mount]()
        looks: list[Task[float]] = []

        def take_in() -> None:
            made.append(self._mounts(manifest, store=self._new_store()))
            looks.append(start(looking.look_again_and_again, made[0].path("nothing")))
            looks[0].wait_until_open()
            _until(lambda: _files(made[0]) >= count)

        self._take(f"{what}: in the mount", count, made, take_in, looks)
        (mount,) = made
        yield mount
        self._take(f"{what}: umount", count, [], mount.umount)

    def _take(
        self,
        what: str,
        work: int,
        mounts: Sequence[Mount],
        do: Callable[[], object],
        looks: Sequence[Task[float]] = (),
    ) -> None:
        """Do a step, and show what it took; `looks` go on until it is done."""
        before = sum(map(_processor, mounts))
        began = time.monotonic()
        do()
        seconds = time.monotonic() - began
        for task in looks:
            task.go()
        slowest = max((task.result() for task in looks), default=0.0)
        processor = sum(map(_processor, mounts)) - before
        self._show(Step(what, work, seconds, processor, sum(map(_memory, mounts)), slowest))


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s"
        time.sleep(0.1)


def _until_idle(mount: Mount) -> None:
    """Wait until a daemon has taken next to no time for half a second."""
    before = -1.0
    while (now := _processor(mount)) > before + 0.1:
        before = now
        time.sleep(0.5)


def _under(function: Callable[..., object], *args: object) -> None:
    start(function, *args).result(PATIENCE)


def _command(*words: str | Path) -> None:
    done = lazyfs(*words, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def _files(mount: Mount) -> int:
    """Return how many files a mount knows by now."""
    socket = running.find(mount.store, control.socket_name(str(mount.at)))
    return int(control.call(socket, "status")["files"])


def _processor(mount: Mount) -> float:
    """Return the seconds of processor time that a daemon has taken. *Source*: proc_pid_stat(5)."""
    fields = Path(f"/proc/{mount.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(mount: Mount) -> int:
    """Return the bytes of a daemon's memory, and its part of what it shares. *Source*: proc_pid_smaps_rollup(5)."""
    for line in Path(f"/proc/{mount.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    raise ValueError("smaps_rollup has no Pss")
