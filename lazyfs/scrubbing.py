"""A mount's scrub: one block after the other, at a low rate, in a worker thread, until the mount ends."""

from __future__ import annotations

import logging
from typing import Final

import trio

from lazyfs.counters import Counters
from lazyfs.errors import StoreError
from lazyfs.options import SCRUB_RATE
from lazyfs.store import Store
from lazyfs.store.scrub import Scrub

log = logging.getLogger(__name__)

FIRST: Final = 5.0
"""Seconds after the start: whoever mounts something reads it first."""

AGAIN: Final = 60.0
"""Seconds until the next look for something to do, when there was nothing, or when the disk failed."""


async def scrub(store: Store, counters: Counters, rate: int = SCRUB_RATE) -> None:
    """Scrub a store until cancelled, which takes no longer than the look at a block. *Units*: `rate` bytes a second."""
    if rate == 0:
        return
    await trio.sleep(FIRST)
    said = ""
    while True:
        try:
            await _scrub(store, counters, rate)
        except (OSError, StoreError) as exc:
            if str(exc) != said:
                said = str(exc)
                log.warning("the store could not be scrubbed: %s", exc)
            await trio.sleep(AGAIN)


async def _scrub(store: Store, counters: Counters, rate: int) -> None:
    scrub = Scrub(store.layout, store.quota, store.catalogue.mark_incomplete)
    try:
        while True:
            looked = await trio.to_thread.run_sync(scrub.step)
            if looked is None:
                await trio.sleep(AGAIN)
                continue
            counters.blocks_scrubbed += 1
            if looked.damaged:
                counters.blocks_corrupt += 1
                log.warning("the scrub found a damaged block; it is fetched again when it is read")
            await trio.sleep(looked.length / rate)
    finally:
        scrub.close()
