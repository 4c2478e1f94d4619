"""Which reads were slow, and what each waited for."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from lazyfs.errors import OriginUnreachable
from lazyfs.slowreads import PERIOD, PERIODS, SLOWEST, Read, SlowReads
from lazyfs.stages import KEPT, Stages, Why
from lazyfs.versions import BlobId
from tests.fakes import run


@dataclass
class File:
    """What is read of."""

    blob_id: BlobId
    path: str = "disk.img"


FILE = File(BlobId("url-" + "ab" * 32))


def test_a_time_falls_into_stages() -> None:
    stages = Stages(0.0)
    stages.enter(Why.BODY, 2.0)
    stages.enter(Why.RETRY, 5.0, "HTTP 503")
    stages.enter(Why.FIRST_BYTE, 6.0)
    assert list(stages.between(7.0, 9.0)) == [(Why.FIRST_BYTE, 2.0, "")]
    assert list(stages.between(1.0, 5.5)) == [
        (Why.RETRY, 0.5, "HTTP 503"),
        (Why.BODY, 3.0, ""),
        (Why.FIRST_BYTE, 1.0, ""),
    ]
    assert list(stages.between(3.0, 3.0)) == []
    for number in range(2 * KEPT):
        stages.enter(Why.BODY, 10.0 + number)
    assert len(list(stages.between(0.0, 1000.0))) == KEPT, "bounded"


async def waited(reads: SlowReads, seconds: float, *stages: Why, offset: int = 0, error: str = "") -> None:
    """Have a read wait, as long for each stage."""
    read, fetch = Read(FILE, offset, 4096, 60.0), Stages(trio.current_time())
    with reads.waiting(read, fetch):
        for why in stages or (Why.BODY,):
            fetch.enter(why, trio.current_time(), "HTTP 503" if why is Why.RETRY else "")
            await trio.sleep(seconds)
    if error:
        read.failed(OriginUnreachable("https://example.org/x", error))
    reads.note(read)


def test_the_slowest_come_first_with_what_they_waited_for() -> None:
    async def main() -> None:
        reads = SlowReads()
        await waited(reads, 0.5, offset=1)
        await waited(reads, 1.0, Why.FIRST_BYTE, Why.RETRY, Why.BODY, offset=2, error="it failed")
        await waited(reads, 0.0001, offset=3)
        first, second = reads.slowest()
        assert (first.offset, second.offset) == (2, 1)
        shown = first.as_dict()
        assert shown["seconds"] == 3.0
        assert shown["waited"] == {Why.FIRST_BYTE: 1.0, Why.RETRY: 1.0, Why.BODY: 1.0}
        assert (shown["faults"], shown["error"], shown["path"]) == (["HTTP 503"], "it failed", "disk.img")
        assert second.as_dict()["why"] == "body"

    run(main)


def test_what_is_kept_is_bounded_and_forgotten_after_a_minute() -> None:
    async def main() -> None:
        reads = SlowReads()
        for number in range(3 * SLOWEST):
            await waited(reads, 0.01 + number / 1000)
        await trio.sleep(PERIOD)
        await waited(reads, 0.002, offset=7)
        assert len(reads.slowest()) == SLOWEST
        assert 7 not in [slow.offset for slow in reads.slowest()]
        await trio.sleep(PERIOD * PERIODS - 1)
        assert [slow.offset for slow in reads.slowest()] == [7], "it was not the slowest of the minute, and is now"
        await trio.sleep(2 * PERIOD)
        assert reads.slowest() == []
        for _ in range(4 * PERIODS):
            await waited(reads, 0.5)
            await trio.sleep(PERIOD)
        assert len(reads._periods) <= PERIODS + 1

    run(main)


def test_who_still_waits_is_among_them() -> None:
    async def main() -> None:
        reads = SlowReads()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waited, reads, 30.0, Why.LOCK)
            await trio.sleep(12.0)
            (slow,) = reads.slowest()
            assert slow.under_way
            assert slow.as_dict()["waited"] == {Why.LOCK: 12.0}
            nursery.cancel_scope.cancel()
        assert reads.slowest() == [], "who leaves was not answered late"

    run(main)


def test_a_wait_for_the_disk_is_one() -> None:
    async def main() -> None:
        reads, read = SlowReads(), Read(FILE, 0, 4096, 60.0)
        with read.on_disk():
            await trio.sleep(0.2)
        reads.note(read)
        (slow,) = reads.slowest()
        assert slow.as_dict()["waited"] == {Why.DISK: 0.2}

    run(main)
