"""`lazyfs.open_async` and `lazyfs.open_store` in the caller's own trio.run: reads, errors, cancellation."""

from __future__ import annotations

import io
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import lazyfs
from tests.python.conftest import Site
from tests.servers import MisbehavingOrigin

CONTENT = random.Random(9).randbytes(3_000_000)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test, which ends in time."""

    async def bounded() -> None:
        with trio.fail_after(30):
            await main()

    trio.run(bounded)


def test_it_has_a_cursor_as_trios_files_have_and_reads_without(there: Path, site: Site) -> None:
    async def main() -> None:
        async with lazyfs.open_async(site.put("data", CONTENT), store=there) as file:
            assert (file.size, file.name) == (len(CONTENT), site.url("data"))
            assert await file.read(5) == CONTENT[:5]
            assert await file.tell() == 5
            assert await file.seek(-7, io.SEEK_END) == len(CONTENT) - 7
            assert await file.read() == CONTENT[-7:]
            assert await file.read() == b""
            found: list[bytes] = [b""] * 50
            async with trio.open_nursery() as nursery:

                async def read(number: int) -> None:
                    found[number] = await file.read_at(number * 60_000, 60_000)

                for number in range(50):
                    nursery.start_soon(read, number)
            assert b"".join(found) == CONTENT
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read(1)

    run(main)
    assert site.sent() == len(CONTENT)


def test_what_is_raised_inside_comes_out_as_it_is(there: Path, site: Site) -> None:
    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with lazyfs.open_async(site.put("data", CONTENT), store=there):
                raise KeyError("mine")
        with pytest.raises(FileNotFoundError):
            async with lazyfs.open_async(site.url("nothing"), store=there):
                pass
        with trio.move_on_after(0.05) as scope:
            async with lazyfs.open_store(store=there):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(OSError, match="cannot be used"):
            async with lazyfs.open_store(store="/dev/null/store"):
                pass
        with pytest.raises(ValueError, match="use open_async"):
            async with lazyfs.open_store(store=there, headers={"X-Secret": "mine"}):
                pass

    run(main)


def test_a_read_that_was_cancelled_leaves_nothing(there: Path, odd: MisbehavingOrigin) -> None:
    """No flight, no request and no lock: another store gets the same block as soon as it asks."""
    name = "random-1M-cancelled"

    async def main() -> None:
        async with lazyfs.open_store(store=there) as store, await store.open(odd.url("stall@2-3", name)) as file:
            with trio.move_on_after(5) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(file.read_at, 0, 10)
                    nursery.start_soon(file.read_at, 300_000, 10)
                    await trio.to_thread.run_sync(lambda: odd.wait(odd.url("stall@2-3", name), requests=2))
                    nursery.cancel_scope.cancel()
            assert not scope.cancelled_caught
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert [list(blob.flights) for blob in store._session.blobs.opened] == [[]]
            await trio.to_thread.run_sync(lambda: odd.wait(most_open=0))
            async with lazyfs.open_async(odd.url("stall@2-3", name), store=there) as other:
                assert await other.read_at(0, 10) == odd.expected(name, 0, 10)
            assert await file.read_at(0, 10) == odd.expected(name, 0, 10)

    run(main)
