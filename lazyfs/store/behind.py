"""What the catalogue is to hear and nobody waits for: written in order by one thread, later when it cannot be now.

The catalogue may be on a full disk, or locked for ten seconds by a process that was stopped. It is derived knowledge,
so neither may keep a reader waiting, or fail an open.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from lazyfs.errors import StoreError
from lazyfs.store.catalogue import Catalogue

log = logging.getLogger(__name__)

MOST: Final = 10_000
"""Writes that may wait; beyond that the oldest is lost, which costs at worst a request or a line of `ls`."""

AGAIN: Final = 30.0
"""Seconds until a catalogue that could not be written to is tried again."""

_GRACE: Final = 3.0
"""Seconds that `close` and `settle` wait for the rest."""


class Behind:
    """Writes to a catalogue. Its methods may be called from any thread, and do not wait."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque(maxlen=MOST)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._reason = ""  # why the last write failed

    def note(self, write: Callable[[], None]) -> None:
        """Have a write done, after those that were noted before."""
        with self._changed:
            self._waiting.append(write)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="catalogue", daemon=True)
                self._thread.start()
            self._changed.notify()

    def settle(self) -> bool:
        """Wait until what was noted so far is written; False when it is not within `_GRACE`."""
        written = threading.Event()
        self.note(written.set)
        return written.wait(_GRACE)

    def close(self) -> bool:
        """Have the rest written; False when the thread is still at it after `_GRACE`, and uses the catalogue."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_GRACE)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._closing):
                    # A stand-in becomes the store's own also when there is nothing to write.
                    self._changed.wait(None if self._catalogue.joined else AGAIN)
                    if not self._catalogue.joined:
                        break
                write = self._waiting.popleft() if self._waiting else None
                if write is None and self._closing:
                    return
            try:
                self._catalogue.join()
                if write is not None:
                    write()
                self._say("")
            except StoreError as exc:
                self._say(str(exc))
                if not self._put_off(write):
                    return
            except Exception:
                log.exception("an unforeseen failure of a write to the catalogue")

    def _put_off(self, write: Callable[[], None] | None) -> bool:
        """Keep a write for later, and wait until then; False when there is no later."""
        with self._changed:
            if write is not None and len(self._waiting) < MOST:
                self._waiting.appendleft(write)
            return not self._changed.wait_for(lambda: self._closing, AGAIN)

    def _say(self, reason: str) -> None:
        if reason != self._reason:
            log.info("%s", reason or "the catalogue is written to again")
        self._reason = reason
