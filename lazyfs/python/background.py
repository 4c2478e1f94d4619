"""The thread that serves file objects: a `trio.run` with one open store, for all threads of a process.

    a thread ── call(function) ── run_sync_soon ──> a task of its own in the background thread ── result ──> the thread

There is one for each process and settings, begun by the first use. `Store.close` ends it when nobody else uses it. What
`lazyfs.open` has used stays, since another would need all connections anew: as long as files of it are open, and after
that until KEPT others have come since, or the interpreter ends.

A process that forks takes the store along in a way that no store can bear: SQLite's connections must not cross a fork,
and a lock belongs to the open file, which the child then has as well, so that the parent's death would not drop it. So
around a fork the catalogue is closed, and the child lets go of all files of the store; what it opens, and what its open
files read, is a store that it opens anew.

It ends when all other threads have that Python waits for: `_watch` waits for them, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import trio

from lazyfs.options import Settings
from lazyfs.python.asynchronous import AsyncStore, opened_store

log = logging.getLogger(__name__)

T = TypeVar("T")

KEPT: Final = 8
"""Stores of `lazyfs.open` that stay open with no file of theirs open, each with a thread and its connections."""

_CLOSED: Final = "the store was closed"


class Background:
    """An open store in a thread of its own; made by `acquire`. *Raises*: OSError, when it cannot be opened."""

    store: AsyncStore
    """For what is called in the background thread."""

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self.users = 0
        self.kept = False
        self.settings = settings
        self._token: trio.lowlevel.TrioToken | None = None
        self._opened = Future[None]()
        self._open = False  # whether calls are taken
        self._unwanted = False
        self.thread = threading.Thread(target=self._run, name="lazyfs")
        self.thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.end()
            raise

    @property
    def usable(self) -> bool:
        """Whether it is this process's and has not ended."""
        return self._open and self.pid == os.getpid()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Return what an async function, called in the background thread, returns.

        *Raises*: what it raises; ValueError, when the store is closed. *Cancellation*: what is raised in the thread
        that waits, such as KeyboardInterrupt, cancels this call and no other.
        """
        call = _Call(function, args)
        if not self._soon(self._begin, call):
            raise ValueError(_CLOSED)
        try:
            failure = call.result.exception()
        except BaseException:
            self._soon(call.scope.cancel)
            raise
        if failure is not None:
            raise failure
        result: T = call.result.result()
        return result

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have something done in the background thread, if it has not ended. Does not wait."""
        if self.pid == os.getpid():
            self._soon(function)

    def tell_to_end(self) -> None:
        """Have the store closed, and calls under way fail. Does not wait."""
        self._unwanted = True  # for a run that has not begun
        self._soon(self._stop)

    def end(self) -> None:
        """The same, and wait until that is done."""
        self.tell_to_end()
        self.thread.join()

    def _soon(self, function: Callable[..., object], *args: Any) -> bool:
        try:
            if self._token is not None:
                self._token.run_sync_soon(function, *args)
                return True
        except trio.RunFinishedError:
            pass
        return False

    # In the background thread.

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as exc:
            if self._opened.done():
                log.exception("the store %s has failed", self.settings.store)
            else:
                self._opened.set_exception(exc)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as self._scope:
            if self._unwanted:
                return
            async with opened_store(self.settings) as self.store, trio.open_nursery() as self._nursery:
                self._open = True
                try:
                    self._opened.set_result(None)
                    await trio.sleep_forever()
                finally:
                    self._open = False
        if not self._opened.done():
            self._opened.set_exception(ValueError(_CLOSED))

    def _begin(self, call: _Call[Any]) -> None:
        if self._open:
            self._nursery.start_soon(call.run)
        else:
            call.result.set_exception(ValueError(_CLOSED))

    def _stop(self) -> None:
        self._open = False
        self._scope.cancel()


class _Call(Generic[T]):
    """A call from another thread."""

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self.scope = trio.CancelScope()
        self.result = Future[T]()
        self._function = function
        self._args = args

    async def run(self) -> None:
        """Call it, and have the other thread go on."""
        failure: BaseException = ValueError(_CLOSED)
        try:
            with self.scope:
                self.result.set_result(await self._function(*self._args))
        except Exception as exc:
            failure = exc
        finally:
            if not self.result.done():
                self.result.set_exception(failure)


# Which there are.

_lock = threading.Lock()
"""Of what follows, also while one of them begins or ends."""

_running: dict[Settings, Background] = {}
_resting: list[Background] = []  # around a fork
_left_behind: list[Background] = []  # by a parent; to collect them might touch what they have
_watcher: threading.Thread | None = None
_ending = False  # the interpreter would wait for ever for what begins now


def acquire(settings: Settings) -> Background:
    """Return the background of these settings, begun if need be; pair it with `release`.

    *Raises*: OSError, when its store cannot be opened; ValueError, when the interpreter ends. *Locks*: takes `_lock`,
    also while a store is opened.
    """
    global _watcher
    with _lock:
        if _ending:
            raise ValueError("the interpreter ends")
        found = _running.get(settings)
        if found is None or not found.usable:
            found = _running[settings] = Background(settings)
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="lazyfs-end", daemon=True)
            _watcher.start()
        found.users += 1
        return found


def release(background: Background, *, keep: bool = False) -> None:
    """Undo one `acquire`: the last one ends it, unless it is to be kept; too many that are kept end, too.

    *Locks*: takes `_lock`, also while a store is closed.
    """
    with _lock:
        background.users -= 1
        background.kept |= keep
        if _running.get(background.settings) is not background:
            return
        _running[background.settings] = _running.pop(background.settings)  # the last used at the end
        if not background.users and not background.kept:
            _end(background)
        idle = [one for one in _running.values() if one.kept and not one.users and not one.store.open_files]
        for one in idle[:-KEPT]:
            _end(one)


def _end(background: Background) -> None:
    """*Locks*: `_lock`, held."""
    del _running[background.settings]
    background.end()


def opened(settings: Settings, function: Callable[[AsyncStore], Awaitable[T]]) -> tuple[Background, T]:
    """Open a file with a function, and return it with its background, which stays for as long as it is open.

    *Raises*: as `acquire`, and what the function raises.
    """
    background = acquire(settings)
    try:
        return background, background.call(function, background.store)
    finally:
        release(background, keep=True)


def _watch() -> None:
    """End them when nobody is left who could use them: daemon threads are not waited for."""
    global _ending
    threading.main_thread().join()
    while left := [thread for thread in threading.enumerate() if _is_waited_for(thread)]:
        for thread in left:
            thread.join()
    with _lock:
        _ending = True
        for background in _running.values():
            background.tell_to_end()


def _is_waited_for(thread: threading.Thread) -> bool:
    return thread.is_alive() and not thread.daemon and thread not in {one.thread for one in tuple(_running.values())}


def _before_fork() -> None:
    _lock.acquire()
    _resting[:] = [background for background in _running.values() if background.usable]
    for background in _resting:
        background.store.let_go()


def _after_in_parent() -> None:
    for background in _resting:
        background.store.take_up()
    _lock.release()


def _after_in_child() -> None:
    global _lock, _watcher, _ending
    for background in _resting:
        _let_go_of_files(background.store.place)
    _left_behind.extend(_running.values())
    _running.clear()
    _lock, _watcher, _ending = threading.Lock(), None, False


def _let_go_of_files(place: str) -> None:
    """Have descriptors of files in a directory lead to /dev/null, so that locks on them are the parent's alone.

    *Source*: fcntl(2), "Open file description locks".
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in tuple(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            if descriptor.readlink().is_relative_to(place):
                os.dup2(nothing, int(descriptor.name), inheritable=False)
    os.close(nothing)


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
