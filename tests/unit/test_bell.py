"""lazyfs.bell: who hears what threads ring."""

from __future__ import annotations

import os
import threading

import trio
import trio.testing

from lazyfs.bell import bell_of_this_loop


def test_who_listens_hears_it_in_the_loop() -> None:
    async def main() -> None:
        bell, heard = bell_of_this_loop(), trio.Event()
        threads = []

        def listener() -> None:
            threads.append(threading.current_thread())
            heard.set()

        with bell.heard_by(listener), trio.fail_after(30):
            await trio.to_thread.run_sync(os.eventfd_write, bell.fd, 1)
            await heard.wait()
        assert threads == [threading.current_thread()]
        os.eventfd_write(bell.fd, 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(threads) == 1, "who has left hears nothing"

    trio.run(main)


def test_each_loop_has_one_and_it_ends_with_it() -> None:
    async def main() -> int:
        assert bell_of_this_loop() is bell_of_this_loop()
        await trio.lowlevel.checkpoint()
        return bell_of_this_loop().fd

    before = os.listdir("/proc/self/fd")
    trio.run(main)
    trio.run(main)
    assert os.listdir("/proc/self/fd") == before
