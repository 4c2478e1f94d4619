"""A blob and its mirrors: failover, the way back, the hedge, and what may be mixed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.blob import Limits
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.errors import (
    BlobChanged,
    DigestMismatch,
    LazyfsError,
    OriginDenied,
    OriginError,
    OriginFailing,
    OriginRefused,
    OriginUnreachable,
)
from lazyfs.extents import Extent
from lazyfs.origin.client import Attempt, Client, Found
from lazyfs.pace import Pace
from lazyfs.store import Store
from lazyfs.urgency import Urgency
from lazyfs.versions import BlobId, Known, Version, blob_id_for
from lazyfs.ways import REFUSED_FOR
from tests.fakes import FakeAnswer, FakeOrigin, Fault, run, unavailable
from tests.model.world import BLOCK, content_of

SIZE = 6 * BLOCK
CONTENT = content_of(SIZE)
OTHER = content_of(SIZE, seed=2)
DATE = "Sat, 01 Jan 2022 00:00:00 GMT"
A, B, C = (f"http://{name}/blob" for name in "abc")

DEAD = Fault(OriginUnreachable("http://x/", "cannot connect"))
FAILING = Fault(OriginFailing("http://x/", "cannot be reached"))
DENIED = Fault(OriginDenied("http://x/", "it wants a password"))
GONE = Fault(OriginRefused("http://x/", "HTTP 404", 404))
CHANGED = Fault(BlobChanged("http://x/", "it has changed"))


class Origins:
    """Stands where the client does; each URL is another origin's. `unwell` are those that are asked last."""

    def __init__(self, *contents: bytes) -> None:
        self.by_url = {url: FakeOrigin(content) for url, content in zip((A, B, C), contents, strict=False)}
        for number, origin in enumerate(self.by_url.values()):
            origin.version = Version(len(origin.content), f'"{number}"', DATE)
        self.slow_after = math.inf
        self.offline = False
        self.unwell: set[str] = set()
        self.mute: set[str] = set()  # those that do not answer a look-up,
        self.given_up = trio.Event()  # until this
        self.hedges = 0
        self.probed: list[str] = []

    def __getitem__(self, url: str) -> FakeOrigin:
        return self.by_url[url]

    @property
    def asked(self) -> list[int]:
        """How often each was asked for bytes."""
        return [len(origin.asked) for origin in self.by_url.values()]

    def pace(self, url: str) -> Pace | None:
        return None

    def slow(self, url: str) -> float:
        return self.slow_after

    def may_hedge(self) -> bool:
        self.hedges += 1
        return True

    def resting(self, url: str) -> bool:
        return url in self.unwell

    def let_rest(self, url: str) -> None:
        self.unwell.add(url)

    async def probe(
        self, url: str, pinned: Version | None = None, size: int | None = None, urgency: Urgency = Urgency.DEMAND
    ) -> Found:
        await trio.lowlevel.checkpoint()
        self.probed.append(url)
        origin = self[url]
        if url in self.mute:
            await self.given_up.wait()
            raise OriginUnreachable(url, "no answer")
        if origin.faults and (error := origin.faults[0].error) is not None:
            raise error
        return Found(origin.version, ranged=True, head=b"")

    async def ask(
        self,
        url: str,
        extent: Extent,
        pinned: Version,
        urgency: Callable[[], Urgency] = lambda: Urgency.DEMAND,
        attempt: Attempt | None = None,
    ) -> FakeAnswer:
        return await self[url].ask(url, extent, pinned, urgency, attempt)


class Ground:
    """A store, and blobs that come from `origins`."""

    def __init__(self, path: Path, origins: Origins, nursery: trio.Nursery) -> None:
        self.origins = origins
        self.counters = Counters()
        self.store = Store.open(path, BLOCK)
        client = cast("Client", origins)
        self.blobs = Blobs(self.store, client, self.counters, nursery, Limits(60.0, 0))
        self.known = Known(A, origins[A].version)

    def blob_id(self, digest: str | None = None) -> BlobId:
        return blob_id_for(A, self.known.version, digest)

    async def read(self, index: int, digest: str | None = None) -> bytes:
        blob = await self.blobs.open(self.blob_id(digest), self.known, list(self.origins.by_url))
        try:
            return bytes(await blob.read(index * BLOCK, BLOCK))
        finally:
            self.blobs.close(blob)


def play(path: Path, origins: Origins, main: Callable[[Ground], object]) -> None:
    async def whole() -> None:
        async with trio.open_nursery() as nursery:
            ground = Ground(path, origins, nursery)
            await main(ground)  # type: ignore[misc]
            await trio.sleep(1000)
            assert not nursery.child_tasks
            assert all(not origin.open for origin in origins.by_url.values()), "an answer is open"
            ground.store.close()

    run(whole)


def block(index: int, content: bytes = CONTENT) -> bytes:
    return content[index * BLOCK : (index + 1) * BLOCK]


@pytest.mark.parametrize("fault", [DEAD, DENIED, GONE, CHANGED, Fault(reset_after=0), Fault(short=1)])
def test_a_mirror_serves_what_the_first_way_does_not(tmp_path: Path, fault: Fault) -> None:
    async def main(ground: Ground) -> None:
        ground.origins[A].faults.append(fault)
        assert await ground.read(0) == block(0)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_no_time_passes_before_the_next_way_is_asked(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        for url in (A, B):
            ground.origins[url].faults.append(DEAD)
        began = trio.current_time()
        assert await ground.read(0) == block(0)
        assert trio.current_time() == began
        assert ground.counters.failovers == 1

    play(tmp_path, Origins(CONTENT, CONTENT, CONTENT), main)


def test_when_all_fail_they_are_tried_again(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        for url in (A, B):
            ground.origins[url].faults.extend([DEAD] * 3)
        assert await ground.read(0) == block(0)
        assert ground.counters.retries > 0

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_retry_after_is_for_who_said_it(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        ground.origins[A].faults.append(GONE)
        await blob.read(5 * BLOCK, 1)  # pins B
        await trio.sleep(REFUSED_FOR)
        await blob.read(4 * BLOCK, 1)  # has A asked behind, which is well again
        await wait_all_tasks_blocked()
        began = trio.current_time()
        ground.origins[A].faults.extend([unavailable(50.0)] * 2)
        ground.origins[B].faults.append(DEAD)
        assert bytes(await blob.read(0, BLOCK)) == block(0)
        assert trio.current_time() - began < 10
        assert ground.origins.asked == [2, 4], "B was asked again, and A not before its time"
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [((DENIED, GONE), OriginDenied), ((GONE, DENIED), OriginRefused), ((CHANGED, DENIED), BlobChanged),
     ((CHANGED, DEAD), BlobChanged)],
)  # fmt: skip
def test_when_none_can_serve_it_the_reader_hears_why(
    tmp_path: Path, faults: tuple[Fault, ...], expected: type[OriginError]
) -> None:
    async def main(ground: Ground) -> None:
        for url, fault in zip((A, B), faults, strict=True):
            ground.origins[url].faults.extend([fault] * 9)
        with pytest.raises(expected):
            await ground.read(0)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_one_that_fails_is_asked_last_and_asked_behind_whether_it_is_well_again(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        origins.unwell.add(A)
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        for number, index in enumerate((5, 4), 1):  # backwards: nothing is fetched ahead
            assert bytes(await blob.read(index * BLOCK, 1)) == block(index)[:1]
            assert origins.asked == [0, number]
        origins.unwell.clear()
        origins[A].faults.append(DEAD)
        await blob.read(3 * BLOCK, 1)  # nobody waits for it: this still comes from the mirror
        assert origins.asked == [0, 3]
        await wait_all_tasks_blocked()
        assert origins.probed == [B, A]  # B was pinned; A was asked whether it is well, and is not
        origins[A].faults.clear()
        await blob.read(2 * BLOCK, 1)
        await wait_all_tasks_blocked()
        await blob.read(1 * BLOCK, 1)
        assert origins.asked == [1, 4], "the first way is used again"
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_one_that_was_left_alone_is_used_as_soon_as_it_answers(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        origins[A].faults.append(FAILING)
        await blob.read(5 * BLOCK, 1)
        await blob.read(4 * BLOCK, 1)  # asks A, behind
        await wait_all_tasks_blocked()
        await blob.read(3 * BLOCK, 1)
        assert origins.asked == [2, 2]
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_one_that_does_not_say_whether_it_is_well_is_asked_again_later(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        origins.unwell.add(A)
        await blob.read(5 * BLOCK, 1)
        origins.unwell.clear()
        origins.mute.add(A)
        for index in (4, 3):
            await blob.read(index * BLOCK, 1)
            await trio.sleep(0)
        assert origins.probed == [B, A]
        await trio.sleep(60)
        origins.mute.clear()
        await blob.read(2 * BLOCK, 1)
        await wait_all_tasks_blocked()
        await blob.read(1 * BLOCK, 1)
        assert origins.probed == [B, A, A]
        assert origins.asked == [1, 4]
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_what_a_mirror_names_is_asked_once_for_all_also_when_it_does_not_say(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B, C])
        origins[A].faults.extend([DEAD] * 3)
        origins.mute.add(B)
        async with trio.open_nursery() as nursery:
            for index in (5, 3, 1):
                nursery.start_soon(blob.read, index * BLOCK, 1)
            await wait_all_tasks_blocked()
            origins.given_up.set()
        assert origins.probed.count(B) == 1
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT, CONTENT), main)


def test_whatever_fails_behind_ends_nothing_else(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        origins.unwell.add(A)
        await blob.read(5 * BLOCK, 1)
        origins.unwell.clear()
        with mock.patch.object(origins, "probe", side_effect=LazyfsError("an unforeseen failure")):
            await blob.read(4 * BLOCK, 1)
            await wait_all_tasks_blocked()
        await blob.read(3 * BLOCK, 1)
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_slow_way_is_outrun_by_a_mirror_and_rests(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        origins.slow_after = 0.3
        origins[A].faults.append(Fault(silent=trio.Event()))
        began = trio.current_time()
        assert await ground.read(0) == block(0)
        assert trio.current_time() - began == pytest.approx(0.3)
        assert origins.hedges == 1
        assert A in origins.unwell
        assert origins[A].open == 0

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_slow_answer_is_outrun_by_a_second_one_from_the_same_origin(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        origins.slow_after = 0.3
        origins[A].faults.append(Fault(silent=trio.Event()))
        assert await ground.read(0) == block(0)
        assert origins.asked == [2]

    play(tmp_path, Origins(CONTENT), main)


@pytest.mark.parametrize("late", [True, False])
def test_of_two_answers_the_first_counts_and_the_other_is_let_go(tmp_path: Path, late: bool) -> None:
    """The slow one comes after all: in the same moment as the other one, or later."""

    async def main(ground: Ground) -> None:
        origins, silent = ground.origins, trio.Event()
        origins.slow_after = 0.3
        origins[A].faults.append(Fault(silent=silent))
        if not late:
            origins[B].faults.append(Fault(silent=silent))

        async def wake() -> None:
            await trio.sleep(1)
            silent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            assert await ground.read(0) == block(0)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_who_waits_for_a_slot_is_not_slow(tmp_path: Path) -> None:
    """The clock runs from when the request was sent: what waits here would wait at the origin's next slot, too."""

    async def main(ground: Ground) -> None:
        origins, turn = ground.origins, trio.Event()
        origins.slow_after = 0.3
        ask = origins[A].ask

        async def ask_later(*args: Any) -> FakeAnswer:
            await turn.wait()
            return await ask(*args)

        async with trio.open_nursery() as nursery:
            with mock.patch.object(origins[A], "ask", ask_later):
                nursery.start_soon(ground.read, 0)
                await trio.sleep(5)
                assert origins.hedges == 0
                turn.set()
                await wait_all_tasks_blocked()
        assert origins.asked == [1, 0]

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_hedge_that_fails_does_not_fail_the_first(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins, silent = ground.origins, trio.Event()
        origins.slow_after = 0.3
        origins[A].faults.append(Fault(silent=silent))
        origins[B].faults.extend([DEAD] * 5)

        async def wake() -> None:
            await trio.sleep(1)
            silent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            assert await ground.read(0) == block(0)
        assert origins.asked == [1, 0]

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_reader_who_leaves_leaves_no_answer_open(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        origins.slow_after = 0.3
        for url in (A, B):
            origins[url].faults.append(Fault(silent=trio.Event()))
        with trio.move_on_after(1):
            await ground.read(0)
        await wait_all_tasks_blocked()
        assert origins.asked == [1, 1]

    play(tmp_path, Origins(CONTENT, CONTENT), main)


# What may be mixed.


def _dated(origins: Origins, date: str | None) -> Origins:
    origins[B].version = Version(len(origins[B].content), '"b"', date)
    return origins


def test_a_mirror_of_another_size_is_not_used(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        ground.origins[A].faults.append(GONE)
        with pytest.raises(OriginRefused):
            await ground.read(0)

    play(tmp_path, Origins(CONTENT, CONTENT + b"x"), main)


@pytest.mark.parametrize("date", [None, "Sun, 02 Jan 2022 00:00:00 GMT"])
def test_a_mirror_that_looks_different_is_compared_with_what_is_in_the_store(tmp_path: Path, date: str | None) -> None:
    async def main(ground: Ground) -> None:
        assert await ground.read(2) == block(2)
        ground.origins[A].faults.append(DEAD)
        assert await ground.read(0) == block(0)
        assert ground.origins[B].asked == [Extent(2 * BLOCK, 3 * BLOCK), Extent(0, BLOCK)]

    play(tmp_path, _dated(Origins(CONTENT, CONTENT), date), main)


def test_a_mirror_with_other_bytes_is_never_mixed_in(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        assert await ground.read(2) == block(2)
        ground.origins[A].faults.extend([DEAD] * 3)
        assert await ground.read(0) == block(0)  # from A, as soon as that is back
        assert len(ground.origins[B].asked) == 1, "it was compared once"

    play(tmp_path, _dated(Origins(CONTENT, OTHER), None), main)


def test_that_two_images_begin_alike_does_not_make_a_mirror_the_same_blob(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        for index in (0, 1, 2):
            assert await ground.read(index) == block(index)
        ground.origins[A].faults.extend([DEAD] * 3)
        assert await ground.read(4) == block(4)
        assert 1 <= len(ground.origins[B].asked) <= 3, "it was compared once"

    play(tmp_path, _dated(Origins(CONTENT, CONTENT[: 2 * BLOCK] + OTHER[2 * BLOCK :]), None), main)


def test_when_the_first_way_has_changed_a_block_in_common_proves_no_mirror(tmp_path: Path) -> None:
    """It has changed as well, and two versions of an image begin alike."""

    async def main(ground: Ground) -> None:
        assert await ground.read(0) == block(0)
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        ground.origins[A].faults.extend([CHANGED, CHANGED, unavailable(5.0)])
        for index in (5, 3):
            with pytest.raises(BlobChanged):
                await blob.read(index * BLOCK, BLOCK)
        await trio.sleep(REFUSED_FOR)
        assert bytes(await blob.read(4 * BLOCK, BLOCK)) == block(4), "from A, which had one of its servers wrong"
        ground.blobs.close(blob)

    play(tmp_path, _dated(Origins(CONTENT, block(0) + OTHER[BLOCK:]), "Sun, 02 Jan 2022 00:00:00 GMT"), main)


def test_with_nothing_to_compare_a_mirror_that_looks_different_is_not_used(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        ground.origins[A].faults.extend([DEAD] * 3)
        assert await ground.read(0) == block(0)
        assert ground.origins.asked[1] == 0

    play(tmp_path, _dated(Origins(CONTENT, OTHER), None), main)


def test_to_look_for_something_to_compare_in_a_large_blob_holds_nobody_up(tmp_path: Path) -> None:
    large = (1 << 20) * BLOCK

    async def main(ground: Ground) -> None:
        known = Known(A, Version(large, '"0"'))
        ground.origins[A].faults.append(GONE)
        ground.origins[B].version = Version(large, '"1"')
        blob = await ground.blobs.open(blob_id_for(A, known.version, None), known, [A, B])
        mapped, in_a_thread = blob.file.mapped, trio.to_thread.run_sync
        inside, looked_at = 0, 0

        async def threaded(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            def step(*args: Any) -> Any:
                nonlocal inside
                inside += 1
                try:
                    return function(*args)
                finally:
                    inside -= 1

            return await in_a_thread(step, *args, **options)

        def looked() -> Iterator[Extent]:
            nonlocal looked_at
            for part in mapped():
                assert inside, "it is looked through in a worker thread"
                looked_at += len(part)
                yield part

        blob.file.mapped = looked  # type: ignore[method-assign, assignment]
        with mock.patch("trio.to_thread.run_sync", threaded), pytest.raises(OriginRefused, match="404"):
            await blob.read(0, 1)
        assert 0 < looked_at < 10_000, "and not where the map is a hole"
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_mirror_that_changes_is_not_used_any_more(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        origins.unwell.add(A)
        assert bytes(await blob.read(0, BLOCK)) == block(0)
        origins[B].swap(OTHER)  # as large, with another ETag and no date
        assert bytes(await blob.read(3 * BLOCK, BLOCK)) == block(3)
        assert origins.asked[0] == 1
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


def test_a_mirror_that_changed_is_looked_at_afresh_after_a_while(tmp_path: Path) -> None:
    """The same bytes, put there anew: their ETag is another one, their date and size are not."""

    async def main(ground: Ground) -> None:
        origins = ground.origins
        blob = await ground.blobs.open(ground.blob_id(), ground.known, [A, B])
        origins.unwell.add(A)
        assert bytes(await blob.read(5 * BLOCK, 1)) == block(5)[:1]
        origins[B].version = Version(SIZE, '"moved"', DATE)
        assert bytes(await blob.read(4 * BLOCK, 1)) == block(4)[:1]
        assert origins.asked == [1, 2]
        await trio.sleep(REFUSED_FOR)
        origins[A].faults.append(DEAD)
        assert bytes(await blob.read(3 * BLOCK, 1)) == block(3)[:1]
        assert origins.asked == [2, 3]
        ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT), main)


@pytest.mark.parametrize("etag", [None, 'W/"a"'])
def test_a_weak_etag_does_not_prove_a_mirror(tmp_path: Path, etag: str | None) -> None:
    async def main(ground: Ground) -> None:
        ground.origins[A].faults.extend([DEAD] * 3)
        assert await ground.read(0) == block(0)
        assert ground.origins.asked[1] == 0

    origins = Origins(CONTENT, OTHER)
    for origin in origins.by_url.values():
        origin.version = Version(SIZE, etag)
    play(tmp_path, origins, main)


# Digests.

DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


async def _fill(ground: Ground) -> None:
    """As `Vfs.fill`."""
    while True:
        blob = await ground.blobs.open(ground.blob_id(DIGEST), ground.known, list(ground.origins.by_url))
        try:
            await blob.fill()
            return
        except DigestMismatch:
            continue
        finally:
            ground.blobs.close(blob)


def test_with_a_digest_any_mirror_will_do(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        ground.origins[A].faults.append(DEAD)
        assert await ground.read(0, DIGEST) == block(0)

    play(tmp_path, _dated(Origins(CONTENT, CONTENT), None), main)


def test_with_a_digest_who_opens_it_anew_reads_on_under_another_etag(tmp_path: Path) -> None:
    """Also while somebody else has it open, and fails to read what was not fetched before."""

    async def main(ground: Ground) -> None:
        blob_id = ground.blob_id(DIGEST)
        held = await ground.blobs.open(blob_id, ground.known)
        assert bytes(await held.read(0, BLOCK)) == block(0)
        ground.origins[A].swap(CONTENT)
        with pytest.raises(BlobChanged):
            await held.read(3 * BLOCK, BLOCK)
        blob = await ground.blobs.open(blob_id, Known(A, ground.origins[A].version))
        assert bytes(await blob.read(3 * BLOCK, BLOCK)) == block(3)
        ground.blobs.close(blob)
        ground.blobs.close(held)

    play(tmp_path, Origins(CONTENT), main)


def test_two_names_of_one_blob_share_their_ways(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        first = await ground.blobs.open(ground.blob_id(DIGEST), ground.known)
        second = await ground.blobs.open(ground.blob_id(DIGEST), Known(B, ground.origins[B].version), [C])
        assert first is second
        assert first.ways.urls == [A, B, C]
        ground.origins[A].faults.append(DEAD)
        assert bytes(await first.read(0, BLOCK)) == block(0)
        assert ground.origins.asked == [1, 1, 0]
        for blob in (first, second):
            ground.blobs.close(blob)

    play(tmp_path, Origins(CONTENT, CONTENT, CONTENT), main)


def test_bad_bytes_are_thrown_away_and_come_from_another_mirror(tmp_path: Path) -> None:
    """Nobody opens what is on its way into the trash, and takes it for a new beginning."""

    async def main(ground: Ground) -> None:
        inline = trio.to_thread.run_sync

        async def slow_disk(function: Callable[..., object], *args: object, **words: object) -> object:
            if getattr(function, "__name__", "") == "set_aside":
                await trio.sleep(1)
            return await inline(function, *args, **words)  # type: ignore[arg-type]

        with mock.patch("trio.to_thread.run_sync", slow_disk):
            await many(ground)

    async def many(ground: Ground) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_fill, ground)
        assert await ground.read(5, DIGEST) == block(5)
        assert ground.origins.asked[2] > 0
        assert not ground.blobs._opening

    play(tmp_path, Origins(OTHER, OTHER, CONTENT), main)


def test_when_all_have_bad_bytes_none_is_asked_again_for_a_while(tmp_path: Path) -> None:
    async def main(ground: Ground) -> None:
        with pytest.raises(DigestMismatch):
            await _fill(ground)
        asked = ground.origins.asked
        with pytest.raises(DigestMismatch):
            await ground.read(0, DIGEST)
        assert ground.origins.asked == asked
        await trio.sleep(REFUSED_FOR)
        ground.origins[B].content = CONTENT
        await _fill(ground)

    play(tmp_path, Origins(OTHER, OTHER), main)
