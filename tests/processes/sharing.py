"""Several mounts on one empty store, all read at once, and what that costs; of any size, for tests and tools/soak."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import under
from tests.mounts import Mount, Mounts, Task, start
from tests.servers import Logged, Nginx

BLOB = "disk.img"


@dataclass(frozen=True)
class Outcome:
    """What a run did: the passages of the readers that should finish, and what nginx logged."""

    digest: str
    passages: list[under.Passage]
    requests: list[Logged]

    @property
    def body_bytes(self) -> int:
        """The bytes of body that nginx sent."""
        return sum(request.body_bytes for request in self.requests)

    @property
    def longest_gap(self) -> float:
        """The longest time that any of the readers waited for its next 64 KiB. *Units*: seconds."""
        return max(passage.longest_gap for passage in self.passages)

    @property
    def seconds(self) -> float:
        """The time from the first reader's beginning to the last one's end."""
        return max(passage.ended for passage in self.passages) - min(passage.began for passage in self.passages)

    @property
    def cut_short(self) -> int:
        """The answers that were under way when their asker died."""
        return sum(not request.complete for request in self.requests)

    def wrong(self) -> list[under.Passage]:
        """Return the passages that did not end in the right bytes."""
        return [passage for passage in self.passages if passage.error or passage.digest != self.digest]

    def fetched_twice(self) -> list[tuple[int, int]]:
        """Return the runs of bytes that were asked for and sent more than once; of metadata there is a byte each."""
        sent = sorted(_span(request) for request in self.requests if request.range != "bytes=0-0")
        return [after for before, after in itertools.pairwise(sent) if after[0] < before[1]]


def _span(request: Logged) -> tuple[int, int]:
    """Return the bytes of the blob that an answer held, as far as it was sent."""
    match = re.fullmatch(r"bytes=(\d+)-\d+", request.range)
    assert match is not None, request
    assert request.status == 206, request
    return int(match[1]), int(match[1]) + request.body_bytes


def make_blob(docroot: Path, size: int) -> str:
    """Make the blob and return its digest."""
    dice, hashed = random.Random(size), hashlib.sha256()
    with (docroot / BLOB).open("wb") as file:
        for start_of_piece in range(0, size, 1 << 20):
            piece = dice.randbytes(min(1 << 20, size - start_of_piece))
            hashed.update(piece)
            file.write(piece)
    return hashed.hexdigest()


def read_all(mounts: Sequence[Mount], readers: int) -> list[Task[under.Passage]]:
    """Start readers, dealt out to the mounts in turn, which begin together."""
    tasks = [start(under.pass_together, mounts[number % len(mounts)].path(BLOB)) for number in range(readers)]
    for task in tasks:
        task.wait_until_open()
    for task in tasks:
        task.go()
    return tasks


def share(mounts: Mounts, nginx: Nginx, digest: str, *, count: int = 4, readers: int = 8, patience: float) -> Outcome:
    """Mount the blob so many times, have it read, and return what happened. *Units*: seconds."""
    made = [mounts(f"{nginx.url}/{BLOB}") for _ in range(count)]
    tasks = read_all(made, readers)
    passages = [task.result(patience) for task in tasks]
    return Outcome(digest, passages, nginx.requests())


def lose_one(
    mounts: Mounts,
    nginx: Nginx,
    digest: str,
    *,
    size: int,
    seed: int,
    count: int = 4,
    readers: int = 8,
    patience: float,
) -> Outcome:
    """The same, and the first mount's daemon is killed when a reader of it has come to some place in the blob."""
    victim, *survivors = [mounts(f"{nginx.url}/{BLOB}") for _ in range(count)]
    lost = start(under.pass_together, victim.path(BLOB), random.Random(seed).randrange(size))
    lost.wait_until_open()
    lost.go()  # in front of the others, so that it is for its daemon to fetch
    tasks = read_all(survivors, readers)
    lost.result(patience)
    victim.kill()
    passages = [task.result(patience) for task in tasks]
    return Outcome(digest, passages, nginx.requests())
