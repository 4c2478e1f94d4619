"""Who waits for another process's block waits as long as that lives, and goes on when it is killed."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path
from unittest import mock

import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs import fetch
from lazyfs.extents import Extent
from tests.fakes import FakeOrigin, run
from tests.model.world import BLOCK, content_of, world
from tests.processes.takeover import rounds

DAY = 24 * 3600.0


def test_who_waits_goes_on_when_the_holder_is_killed(tmp_path: Path) -> None:
    took = list(rounds(tmp_path / "store", 2, multiprocessing.get_context("spawn")))
    assert len(took) == 2


def test_who_waits_for_a_lock_has_no_time_out_of_its_own(tmp_path: Path) -> None:
    """For a day, without a read time-out: a look now and then is enough here."""

    async def main() -> None:
        origin = FakeOrigin(content_of(2 * BLOCK))
        async with world(tmp_path / "store", origin, read_timeout=math.inf) as here:
            async with here.opened() as blob, trio.open_nursery() as nursery:
                with here.elsewhere() as holder:
                    assert holder.locks.try_blocks(Extent(1, 2))
                    nursery.start_soon(here.check, blob, BLOCK, BLOCK)
                    await trio.sleep(DAY)
                    assert blob._flights, "it has given up"
                    assert not origin.asked, "it has not waited"
                await wait_all_tasks_blocked()
            assert origin.asked == [Extent(BLOCK, 2 * BLOCK)]

    with mock.patch.object(fetch, "_POLL_LARGEST", 60.0):
        run(main)
