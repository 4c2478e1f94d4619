"""Three mounts of one store whose daemons are killed at random moments, and what the store is like afterwards.

A *life* is a store from its making to its check. In each, readers under all mounts compare every byte they get while
daemons are killed, one or two at a time or again and again while they start, and processes of `lazyfs fetch` beside
them. Some kills are aimed: the victim is stopped and let go again until it is seen in the middle of something.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lazyfs.records import BadRecord
from lazyfs.store import Store
from lazyfs.store.blobfile import look_into
from lazyfs.versions import BlobId
from tests import under
from tests.model.world import locked
from tests.mounts import ENVIRONMENT, ROOT, Leftovers, Task, alive, lazyfs, start, wait_for_end
from tests.processes import comparing
from tests.processes.holding import files_of, holding
from tests.servers import Nginx

BLOCK_SIZES: Final = ("64K", "256K", "1M")
"""What the mounts ask for: a blob keeps that of the first that opens it."""

READERS: Final = 2
"""Processes under each mount."""

RATE: Final = "8m"
"""nginx's limit for each connection: slow enough that there is a middle to be killed in."""

AIMS: Final = ("making room", "evictions", "written, not recorded", "gate", "pass")
"""What is too short for most random moments to fall into."""

AIMED_FOR: Final = 2.0
"""Seconds after which an aimed kill falls wherever it may."""

MUST_HIT: Final = ("blocks locked", "answers cut short", "pass", "MiB evicted", "while the store was made")
"""What some of a hundred kills must have cut short; else they show nothing."""

PATIENCE: Final = 60.0

PAGE: Final = 4096


@dataclass
class Tally:
    """What the kills of some lives hit, and what was wrong."""

    kills: int = 0
    lives: int = 0
    hit: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    size: int = 0
    deaths: int = 0  # that readers met
    unaccounted: int = 0  # bytes on the disk that no map vouches for, in all lives together
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        hits = ", ".join(f"{name} {count}" for name, count in self.hit.most_common())
        return (
            f"{self.kills} kills in {self.lives} lives, {self.reads} reads of {self.size >> 20} MiB compared, "
            f"{self.deaths} of them met a death; {self.unaccounted >> 10} KiB were left that no map vouches for\n"
            f"  the kills hit: {hits}"
        )


@dataclass(frozen=True)
class Blobs:
    """What the mounts show: a manifest, and the files whose bytes its entries must have."""

    manifest: Path
    sources: dict[str, Path]

    @property
    def by_size(self) -> dict[int, Path]:
        """The files by their sizes, of which no two are alike."""
        return {path.stat().st_size: path for path in self.sources.values()}

    @property
    def total(self) -> int:
        """The bytes of all together."""
        return sum(self.by_size)


@contextlib.contextmanager
def serving(directory: Path, scale: int) -> Iterator[tuple[Nginx, Blobs]]:
    """Serve a plain blob, one with a digest, and one without ranges. *Units*: `scale` MiB, of the smallest."""
    docroot = directory / "docroot"
    docroot.mkdir()
    sources = {"plain": docroot / "plain", "digest": docroot / "digest", "whole": docroot / "whole"}
    for number, (path, size) in enumerate(zip(sources.values(), (4, 1, 1), strict=True)):
        path.write_bytes(random.Random(number).randbytes((scale * size << 20) + 1000 * number + 333))
    no_ranges = f"limit_rate {RATE}; location /no-ranges/ {{ alias {docroot}/; max_ranges 0; }}"
    with Nginx(directory / "nginx", docroot, server=no_ranges) as nginx:
        entries = [{"path": name, "url": f"{nginx.url}/{name}"} for name in sources]
        entries[1]["digest"] = f"sha256:{hashlib.sha256(sources['digest'].read_bytes()).hexdigest()}"
        entries[2]["url"] = f"{nginx.url}/no-ranges/whole"
        manifest = directory / "blobs.jsonl"
        manifest.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        yield nginx, Blobs(manifest, sources)


class Place:
    """A mountpoint, and the daemon that is to be there."""

    def __init__(self, at: Path, words: list[str | Path]) -> None:
        self.at = at
        self._words = words
        self._command: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start `lazyfs mount`."""
        words = [sys.executable, "-m", "lazyfs", "mount", *self._words, self.at]
        self._command = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    def until_mounted(self) -> str:
        """Wait until it has done so, if it is at that; return what it complains of."""
        if self._command is None:
            return ""
        command, self._command = self._command, None
        said = command.communicate(timeout=PATIENCE)[1]
        return "" if command.returncode == 0 else said or f"exit status {command.returncode}"

    def processes(self) -> list[int]:
        """Return the supervisor and the daemon, or, while it starts, all that is to become them."""
        return Leftovers.below(self.at).daemons

    def supervised(self) -> bool:
        """Say whether there are a supervisor and one daemon."""
        return len(self.processes()) == 2

    def kill(self) -> int:
        """Kill whatever of it is there, and say how many processes that was."""
        pids = self.processes()
        kill(pids)
        if self._command is not None:
            self._command.communicate(timeout=PATIENCE)
            late = self.processes()  # on a busy machine it had not even begun
            kill(late)
            pids += late
        return len(pids)


def kill(pids: list[int]) -> None:
    """Kill processes, and wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for_end(pids)


class Life:
    """One store, its mounts and their readers."""

    def __init__(self, directory: Path, blobs: Blobs, dice: random.Random, tally: Tally, *, bounded: bool) -> None:
        self._store = directory / "store"
        self._directory, self._blobs, self._dice, self._tally = directory, blobs, dice, tally
        self._bound = blobs.total // 3
        self._options: list[str | Path] = ["--store", self._store, "--read-timeout", "30"]
        if bounded:
            self._options += ["--max-cache", str(self._bound)]
        self._bounded = bounded
        self._places: list[Place] = []
        for number, block_size in enumerate(BLOCK_SIZES):
            at = directory / f"mount{number}"
            at.mkdir()
            self._places.append(Place(at, [*self._options, "--block-size", block_size, blobs.manifest]))

    def live(self, kills: int) -> None:
        """Have so many daemons killed, then look at what is left."""
        until = self._tally.kills + kills
        self._make()
        readers = self._read()
        while self._tally.kills < until:
            self._kill_some(self._dice.choice(("one", "one", "aimed", "aimed", "two", "burst", "fetch")))
        for place in self._places:
            self._mounted(place)
            self._check(place)
        self._hear(readers)
        self._compare_all()
        self._end()
        self._look_at_the_store()
        self._tally.lives += 1

    def _wrong(self, what: str) -> None:
        self._tally.wrong.append(f"life {self._tally.lives}, {'with' if self._bounded else 'without'} a bound: {what}")

    def _make(self) -> None:
        """Mount all at once, and kill some of those who make the store."""
        for place in self._places:
            place.begin()
        for place in self._dice.sample(self._places, 2):
            time.sleep(self._dice.uniform(0, 0.5))
            self._tally.hit["while the store was made"] += not (self._store / "catalogue.db").exists()
            self._tally.hit["while it started"] += 1
            self._tally.kills += place.kill() > 0
            place.begin()
        for place in self._places:
            self._mounted(place)

    def _mounted(self, place: Place) -> None:
        if said := place.until_mounted():
            self._wrong(f"{place.at.name} could not be mounted: {said}")

    def _read(self) -> list[Task[comparing.Compared]]:
        readers = []
        for number, place in enumerate(self._places * READERS):
            pairs = [(str(place.at / name), str(source)) for name, source in self._blobs.sources.items()]
            readers.append(start(comparing.compare_until_told, pairs, self._dice.randrange(1 << 30) + number))
        for reader in readers:
            reader.wait_until_open()
        return readers

    def _kill_some(self, kind: str) -> None:
        victims = self._dice.sample(self._places, 2 if kind == "two" else 1)
        for place in victims:
            self._mounted(place)
        time.sleep(self._dice.uniform(0, 0.3))
        if kind == "fetch":
            self._kill_a_fetch()
            return
        pids = [pid for place in victims for pid in place.processes()]
        if kind == "aimed":
            self._aim(pids, self._dice.choice(AIMS if self._bounded else AIMS[2:]))
        else:
            if self._dice.random() < 0.5:  # without being stopped before, so that it may be in the middle of a call
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
            self._note(pids)
        kill(pids)
        self._tally.kills += len(pids)
        for place in victims:
            place.begin()
        for _ in range(3 if kind == "burst" else 0):
            time.sleep(self._dice.uniform(0, 1.0))
            self._tally.hit["while it started"] += 1
            self._tally.kills += victims[0].kill() > 0
            victims[0].begin()

    def _kill_a_fetch(self) -> None:
        words = [sys.executable, "-m", "lazyfs", "fetch", *self._options, self._blobs.manifest]
        with subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
            time.sleep(self._dice.uniform(0.3, 1.5))
            process.send_signal(signal.SIGSTOP)
            self._note([process.pid])
            process.kill()
        self._tally.kills += 1
        self._tally.hit["fetch"] += 1

    def _note(self, pids: list[int]) -> None:
        """Note what the deaths of processes cut short."""
        for pid in pids:
            self._tally.hit.update(holding(pid, self._store, self._blobs.by_size))

    def _aim(self, pids: list[int], aim: str) -> None:
        """Stop processes when they are seen in the middle of something, or after a while."""
        deadline = time.monotonic() + AIMED_FOR
        while True:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            seen = sum((holding(pid, self._store, self._blobs.by_size) for pid in pids), Counter[str]())
            if seen[aim] or time.monotonic() > deadline:
                self._tally.hit.update(seen)
                return
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            time.sleep(self._dice.uniform(0, 0.01))

    def _check(self, place: Place) -> None:
        if not place.supervised():
            self._wrong(f"{place.at.name} has the processes {place.processes()}")

    def _hear(self, readers: list[Task[comparing.Compared]]) -> None:
        """Tell the readers to end, and take in what they saw."""
        for reader in readers:
            with contextlib.suppress(BrokenPipeError):  # its result says why it has ended
                reader.go()
        for reader in readers:
            seen = reader.result(PATIENCE)
            self._tally.reads += seen.reads
            self._tally.size += seen.size
            self._tally.deaths += seen.deaths
            for what in seen.wrong:
                self._wrong(f"wrong bytes: {what}")
            for what in seen.failed:
                self._wrong(f"a read failed: {what}")
            if seen.failed:
                self._wrong(f"the daemons say {self._warnings()}")

    def _warnings(self) -> list[str]:
        """Return what the daemons' logs have of late."""
        logs = [log.read_text().splitlines() for log in sorted((self._store / "run").glob("*.log"))]
        return [line for log in logs for line in [line for line in log if " INFO " not in line][-5:]]

    def _compare_all(self) -> None:
        """Read every byte of every file, each mount another file at a time."""
        due = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self._blobs.sources.items()}
        tasks = [(name, start(under.sha256, str(place.at / name))) for place in self._places for name in due]
        for name, task in tasks:
            if task.result(2 * PATIENCE) != due[name]:
                self._wrong(f"{name} has a wrong digest")

    def _end(self) -> None:
        """Unmount all; before that, no daemon may have anything open that nobody reads."""
        deadline = time.monotonic() + 10
        for place in self._places:
            for pid in place.processes():
                while (left := files_of(pid, self._store / "blobs")) and time.monotonic() < deadline:
                    time.sleep(0.05)
                if left:
                    self._wrong(f"{place.at.name} has files open that nobody reads: {left}")
        for place in self._places:
            pids = place.processes()
            done = lazyfs("umount", place.at)
            if done.returncode != 0:
                self._wrong(f"{place.at.name} could not be unmounted: {done.stderr}")
            wait_for_end(pids)
        if leftovers := Leftovers.below(self._directory):
            self._wrong(f"it left {leftovers}")
        if pids := [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and files_of(int(pid), self._store)]:
            self._wrong(f"the store is open in {[pid for pid in pids if alive(pid)]}")

    def _look_at_the_store(self) -> None:
        """Look at the store as the next process finds it: nothing may have to be repaired."""
        checked = lazyfs("fsck", "--store", self._store, timeout=120)
        if checked.returncode != 0:
            self._wrong(f"fsck ends with {checked.returncode}: {checked.stdout}{checked.stderr}")
        with contextlib.closing(Store.open(self._store)) as store:
            if (used := store.quota.look().used) < store.bytes_on_disk() - PAGE * len(self._blobs.sources):
                self._wrong(f"{used} bytes are counted and {store.bytes_on_disk()} are on the disk")
            store.tidy()
            quota = store.quota.look()
            if abs(quota.used - store.bytes_on_disk()) > PAGE * len(self._blobs.sources):
                self._wrong(f"after a recount {quota.used} bytes are counted, and {store.bytes_on_disk()} on the disk")
            if self._bounded:  # what was reserved and is not there has gone between the kills
                self._tally.hit["MiB evicted"] += (quota.clock - quota.used) >> 20
            if self._bounded and quota.used > self._bound:
                self._wrong(f"{quota.used} bytes are used, and the bound is {self._bound}")
            for directory in self._store.glob("blobs/*/*"):
                self._look_at_a_blob(store, directory)
        if left := os.listdir(self._store / "trash"):
            self._wrong(f"in the trash is {left}")
        if left := [path.name for path in (self._store / "run").iterdir() if ".log" not in path.name]:
            self._wrong(f"in run is {left}")

    def _look_at_a_blob(self, store: Store, directory: Path) -> None:
        """See that each present block is right, and that nobody holds a lock."""
        if (held := locked(directory)) is not None:
            self._wrong(f"{directory.name}: a lock is held: {held}")
        try:
            blob = look_into(store.layout, BlobId(directory.name))
        except (BadRecord, FileNotFoundError):
            if (directory / "data").exists() and (directory / "data").stat().st_size:
                self._wrong(f"{directory.name}: data without a map")
            return
        present = 0
        with contextlib.closing(blob), self._blobs.by_size[blob.geometry.size].open("rb") as source:
            for index, _use in blob.present():
                source.seek(index * blob.geometry.block_size)
                due = source.read(blob.geometry.length(index))
                found = blob.read(index, wait=True)
                if found is None or bytes(found) != due:
                    self._wrong(f"{directory.name}: block {index} is damaged")
                present += len(due)
            self._tally.unaccounted += max(0, (directory / "data").stat().st_blocks * 512 - present - PAGE)
            complete = {row.blob_id for row in store.catalogue.blobs() if row.complete}
            if directory.name in complete and not blob.complete():
                self._wrong(f"{directory.name}: it is marked complete, and blocks are missing")
