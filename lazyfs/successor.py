"""Starts the daemon that takes over: forked from its supervisor, which has loaded the code, or as a new interpreter.

A new interpreter takes 0.24 s of processor time until it answers, most of it to load its code, and one that is forked
0.04 s. So the supervisor loads the code, once, when the first daemon has died: not before, as most never do, and it is
small until then. From then on each daemon is forked, and shares the code's memory with it: both have 41 MiB together,
where a supervisor and an interpreter of its own have 39.

      the first death ── loads ── forks ── the next daemon          another death ── forks ── the next daemon
      other code is installed by now, or an upgrade ── a new interpreter ── loads ── the next daemon

What is forked must be made of one piece. The supervisor has loaded some modules when the mount was made; when a file of
the package has changed since, it loads no more of them, and forks no more: a new interpreter finds what is there now.

Nothing that a fork could break is there: the supervisor has no threads, and what is loaded opens nothing, and starts
nothing that stays.

*Source*: fork(2); signal-safety(7).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, Self

from lazyfs.privileges import Capability, Rights
from lazyfs.process import show_as

STAND_BY: Final = "stand-by"
"""The word for a daemon that is to get ready beside the one that serves."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""What a supervisor handles in ways of its own, and a daemon that begins does not."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a daemon is handed that takes over: descriptors, -1 for none, and the rights that it is to be left with."""

    link: int
    device: int
    journal: int
    metrics: int = -1
    rights: Rights = field(default_factory=Rights)
    stands_by: bool = False

    @property
    def descriptors(self) -> dict[str, int]:
        """Those that there are, by their names."""
        named = {"link": self.link, "device": self.device, "journal": self.journal, "metrics": self.metrics}
        return {name: fd for name, fd in named.items() if fd >= 0}

    @property
    def words(self) -> list[str]:
        """The same as words of a command line, which another version reads."""
        user = [] if self.rights.user is None else [f"user={self.rights.user}"]
        descriptors = [f"{name}={fd}" for name, fd in self.descriptors.items()]
        return [*descriptors, f"keep={self.rights.keep:d}", *user, *([STAND_BY] if self.stands_by else [])]

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """Read what `words` has written. *Raises*: KeyError, ValueError, where there is none of it."""
        given = {name: value for name, _, value in (word.partition("=") for word in words)}
        rights = Rights(given.get("user"), Capability(int(given.get("keep", 0))))
        link, device, journal = (int(given[name]) for name in ("link", "device", "journal"))
        return cls(link, device, journal, int(given.get("metrics", -1)), rights, STAND_BY in given)


GoOn = Callable[[Handed], NoReturn]
"""Serves a mount where another daemon has left it, and ends the process."""


class Successors:
    """Starts daemons at `mountpoint`. `load` loads what they are made of, and returns what is to be run."""

    def __init__(self, load: Callable[[], GoOn]) -> None:
        self._load = load
        self._go_on: GoOn | None = None
        self._made_of: object = _installed()  # None: of what is not to be forked any more

    def start(self, handed: Handed, mountpoint: str) -> int:
        """Start the next daemon in the one way or the other, and return its process id. Blocks while code is loaded.

        *Raises*: OSError.
        """
        go_on = None if handed.stands_by else self._loaded()
        return _interpreter(handed, mountpoint) if go_on is None else _forked(go_on, handed, mountpoint)

    def upgraded(self) -> None:
        """Note that a daemon serves that was made of what is installed now: the next ones are to be so, too."""
        self._go_on = self._made_of = None

    def _loaded(self) -> GoOn | None:
        """Return what is to be run, or None where that is not what is installed."""
        if self._made_of is None or self._made_of != _installed():
            self.upgraded()
        elif self._go_on is None:
            gc.disable()  # it would look again and again through what is being loaded
            try:
                self._go_on = self._load()
            except Exception:  # some of it has just gone: a new interpreter finds what there is, or says why not
                self.upgraded()
            gc.freeze()  # whoever is forked need not look through it either, and so leaves it shared
        return self._go_on


def _installed() -> set[tuple[str, int, int]]:
    """Return what is another when another version of the package is installed; 2 ms for its 150 files."""
    found = set()
    for path in Path(__file__).parent.rglob("*.*"):
        with contextlib.suppress(OSError):  # it has just gone
            if path.suffix in {".py", ".so"}:
                there = path.stat()
                found.add((str(path), there.st_ino, there.st_mtime_ns))
    return found


def _forked(go_on: GoOn, handed: Handed, mountpoint: str) -> int:
    with _no_signals():
        daemon = os.fork()
        if daemon:
            return daemon
        try:
            show_as("lazyfs", "mount", mountpoint)
            _keep_only(sorted(handed.descriptors.values()))
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            go_on(handed)
        finally:
            os._exit(1)


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Have signals wait: one for the new process must not be taken as if it were for this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _keep_only(kept: list[int]) -> None:
    """Let go of all descriptors but the standard ones and these, which are in order: they are our supervisor's."""
    for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _interpreter(handed: Handed, mountpoint: str) -> int:
    for fd in handed.descriptors.values():
        os.set_inheritable(fd, True)
    # The last words are only for room: the daemon shows itself in `ps` as it did when the command had forked it.
    words = [sys.executable, "-P", "-m", "lazyfs.daemon", *handed.words, "lazyfs mount", mountpoint]
    try:
        return os.posix_spawn(sys.executable, words, _environment())
    finally:
        for fd in handed.descriptors.values():
            os.set_inheritable(fd, False)


def _environment() -> dict[str, str]:
    """Return ours, with this package where it will be looked for."""
    here = __file__.rpartition("/lazyfs/")[0]
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
