"""What a command orders of a mount's daemon, and what the daemon tells the command while that waits."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from lazyfs import control, urls
from lazyfs.options import Settings
from lazyfs.sources.spec import Source

READY: Final = "ready"
"""What the daemon tells its caller when the mount answers."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What to mount where; `mountpoint` is absolute, `options` go to FUSE."""

    mountpoint: str
    sources: tuple[Source, ...]
    settings: Settings
    options: frozenset[str] = frozenset()

    @property
    def socket(self) -> str:
        """The name of the daemon's socket; running.py knows the directory."""
        return control.socket_name(self.mountpoint)

    @property
    def made_of(self) -> str:
        """Its sources as one word, the same for the same ones."""
        return made_of(self.sources)

    @property
    def log(self) -> str:
        """The name of its log, beside that."""
        return self.socket.replace(".sock", ".log")


def made_of(sources: tuple[Source, ...]) -> str:
    """Return a word that stands for some sources and tells nothing of them: their URLs may hold secrets."""
    return urls.key(repr([(source.form.value, source.name, source.place) for source in sources]))


def report(caller: int, line: str) -> None:
    """Tell the caller how it went, and hang up; the descriptor's number stays taken, so nothing later is told twice."""
    with contextlib.suppress(OSError):
        os.write(caller, line.encode("utf-8", "surrogateescape") + b"\n")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, caller, inheritable=False)
    os.close(null)
