"""Blobs that their origin swaps at a random moment under eight readers; for tests and tools/swaps.

Each *round* is one name under a mount, one swap, and readers that read it in all the ways of swap_readers.py from
before the swap until after it. What they may see:

    every pass         bytes and a size of exactly one version, to its end or to ESTALE or EIO (SIGBUS in a mapping)
    after an ESTALE    the same reader's next pass is of the new version
    after the swap     with `--revalidate 0` every pass that was begun then is of the new version, without an error;
                       with a few seconds each reader comes to it; with more, who has all of the old one reads on

Two versions of one size within one second are the same to whoever asks nginx, whose ETag is made of size and date: each
version's date is another one here.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.faults import swap_readers
from tests.faults.swap_readers import Pass, Versions
from tests.mounts import Mount, Mounts, start
from tests.servers import MisbehavingOrigin, Nginx
from tools.misbehaving_origin.contents import FIRST_MODIFIED

NGINX = "nginx"
KINDS = {
    "a strong ETag, If-Match": "",
    "a strong ETag, conditions ignored": "no-conditions",
    "a weak ETag and a date": "weak-etag",
    "a weak ETag, no date": "weak-etag,no-last-modified",
    "a date": "no-etag",
    "behind a stale cache": "stale=128K",
    "behind a stale cache, conditions ignored": "stale=192K,no-conditions",
    "no ranges": "no-range",
    "no lengths": "no-length@2-",
    "nginx": NGINX,
}
"""What tells the versions apart, and the misbehaving origin's behaviours for it."""

RATE, MOST, DELAY = 4 << 20, 2 << 16, "5ms"
"""Bytes a second on each connection, bytes in each answer at the most, and how late it begins: so that a swap comes
between two of many."""

MOMENT = 0.4
"""Seconds from the readers' beginning to the swap, at the most; more often less than more."""

SOON = 5.0
"""Seconds of `--revalidate` up to which readers wait for the new version."""

ERRORS = ("", "ESTALE", "EIO", "SIGBUS")
"""What may end a pass, if anything does."""

PATIENCE = 40.0
"""Seconds until readers who wait for a new version give up."""


@dataclass(frozen=True)
class Round:
    """A name, the kind of its origin, and its two versions."""

    number: int
    kind: str
    versions: Versions
    moment: float

    @property
    def path(self) -> str:
        """The name under the mount."""
        return f"round{self.number:03}"

    @property
    def name(self) -> str:
        """The name at the misbehaving origin."""
        return f"random-{self.versions.sizes[0]}-{self.versions.seed}"

    @property
    def same_size(self) -> bool:
        """Whether both versions have one size."""
        return len(set(self.versions.sizes)) == 1


def rounds(count: int, seed: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Round]:
    """Make rounds: the kinds in turn, half of them with versions of one size."""
    dice, made = random.Random(seed), []
    for number in range(count):
        size = dice.randrange(1 << 20, 3 << 19)
        other = size + dice.choice((-1, 1)) * dice.choice((1, dice.randrange(2, 1 << 16), dice.randrange(1, 1 << 19)))
        sizes = (size, other if (number // len(kinds) + number % len(kinds)) % 2 else size)
        versions = Versions(f"swap{seed}-{number}", sizes)
        made.append(Round(number, kinds[number % len(kinds)], versions, MOMENT * dice.random() ** 2))
    return made


class Ground:
    """The two origins, and a mount of all rounds' names.

    `revalidate` is the option's value. Nothing of this has to be closed: who made them ends origins and mounts.
    """

    def __init__(
        self, mounts: Mounts, origin: MisbehavingOrigin, nginx: Nginx, due: Sequence[Round], revalidate: str
    ) -> None:
        self._origin, self._nginx = origin, nginx
        self.revalidate = math.inf if revalidate == "never" else float(revalidate)
        manifest = mounts.directory / f"rounds{revalidate}.jsonl"
        with manifest.open("w") as file:
            for each in due:
                if KINDS[each.kind] == NGINX:
                    self._put(each, 1)
                file.write(json.dumps({"path": each.path, "url": self._url(each)}) + "\n")
        options = ("--block-size", "64K", "--revalidate", revalidate, "--read-timeout", "20")
        self.mount: Mount = mounts(manifest, options=options)

    def _url(self, each: Round) -> str:
        behaviours = KINDS[each.kind]
        if behaviours == NGINX:
            return f"{self._nginx.url}/{each.path}"
        behaviours = ",".join(filter(None, (behaviours, f"delay={DELAY}", f"most={MOST}", f"rate={RATE}")))
        return self._origin.url(behaviours, each.name)

    def swap(self, each: Round) -> None:
        """Put a round's second version in the place of the first."""
        if KINDS[each.kind] == NGINX:
            self._put(each, 2)
        else:
            self._origin.swap(each.name, each.versions.sizes[1])

    def _put(self, each: Round, version: int) -> None:
        """Put a version into nginx's directory as one should: whole, and by a rename."""
        file = self._nginx.docroot / each.path
        new = file.with_suffix(".new")
        new.write_bytes(each.versions.content(version))
        os.utime(new, (FIRST_MODIFIED + version,) * 2)
        new.rename(file)

    def run(self, each: Round) -> Outcome:
        """Run a round."""
        reading = start(
            swap_readers.read_across_a_swap, self.mount.path(each.path), each.versions, each.number,
            until_new=self.revalidate <= SOON, seconds=PATIENCE,
        )  # fmt: skip
        reading.wait_until_open()
        reading.go()
        time.sleep(each.moment)
        before = time.monotonic()
        self.swap(each)
        after = time.monotonic()
        reading.go()
        return Outcome(each, self.revalidate, before, after, reading.result(2 * PATIENCE))


@dataclass(frozen=True)
class Outcome:
    """What the readers of a round saw. *Units*: the monotonic clock's seconds, `before` and `after` the swap."""

    round: Round
    revalidate: float
    before: float
    after: float
    passes: list[Pass]

    def wrong(self) -> list[str]:
        """Say what should not have been seen."""
        return [f"{self.round.kind}, {self.round.path}: {what}" for what in self._wrong()]

    def _wrong(self) -> Iterator[str]:
        for reader, passes in self._by_reader().items():
            for made in passes:
                if what := made.wrong or self._out_of_place(made):
                    yield f"{self._shown(made)}: {what}"
            for made, following in itertools.pairwise(passes):
                if made.error and not self.is_new(following):
                    yield f"{self._shown(following)}: {following.error or 'the old version'}, after {made.error} before"
            if self.revalidate <= SOON and not self.is_new(passes[-1]):
                yield f"{reader}: the new version was not seen in {passes[-1].ended - self.after:.1f} s"

    def _out_of_place(self, made: Pass) -> str | None:
        """Say why a pass should not have come when it did, or with this error."""
        if made.error not in ERRORS:
            return made.error
        if self.is_new(made) and made.ended < self.before:
            return "the new version, before there was one"
        if self.revalidate == 0 and made.began > self.after and not (self.is_new(made) and not made.error):
            return made.error or "the old version"
        return None

    def is_new(self, made: Pass) -> bool:
        """Say whether all that a pass saw is of the new version."""
        return made.versions == (len(self.round.versions.sizes),)

    def _by_reader(self) -> dict[str, list[Pass]]:
        readers: dict[str, list[Pass]] = {}
        for made in self.passes:
            readers.setdefault(made.reader, []).append(made)
        return readers

    def _shown(self, made: Pass) -> str:
        return f"{made.reader}, begun {1000 * (made.began - self.after):+.1f} ms from the swap"

    @property
    def new_after(self) -> float:
        """Seconds from the swap to the first whole pass of the new version; infinite when nobody saw it."""
        ends = [made.ended for made in self.passes if self.is_new(made) and not made.error]
        return min(ends, default=math.inf) - self.after


@dataclass
class Tally:
    """How often each outcome came."""

    swaps: int = 0
    same_size: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count what a round's readers saw."""
        self.swaps += 1
        self.same_size += outcome.round.same_size
        for made in outcome.passes:
            version = "nothing" if not made.count else "new" if outcome.is_new(made) else "old"
            whole = f"{version}, then {made.error}" if made.error else f"all {version}"
            self.outcomes["WRONG" if made.wrong else whole] += 1
        if outcome.new_after < math.inf:
            self.slowest = max(self.slowest, outcome.new_after)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        latest = f"; the new version was whole after {self.slowest:.2f} s at the latest" if self.slowest else ""
        swaps = f"{self.swaps} swaps, {self.same_size} of them of one size"
        return f"{swaps}, {sum(self.outcomes.values())} passes: {counts}{latest}"
