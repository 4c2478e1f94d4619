"""What the next daemon of a mount must know, written down as it happens, for the case that this one dies.

Most of it needs no journal: names come from the sources, blobs from the store, and an inode's number is a hash of its
path and version. What is left is what only the kernel and this daemon know: which inodes are open how often, which of
them the kernel reads past us, and those whose number is not the one that they would get anew.

What the kernel has open is counted, so nothing may count twice: each open and close is noted with the number of its
request, right before the reply. The kernel sends that again, if the reply never came.

It is a file in memory that the supervisor holds, one record a line. Each line begins with its newline, so that one that
was cut off spoils only itself. Now and then a shorter journal that says the same takes its place.
"""

from __future__ import annotations

import base64
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lazyfs.given import GivenBlob

LONGEST: Final = 1 << 18
"""Bytes of a journal that may be mostly of no use any more; to read so many takes 3 ms, while nobody is answered."""


Describe = Callable[[], GivenBlob | None]
"""Returns what a file's blob is, for who opens it without knowing its name; None when nobody can say."""

UNANSWERED: Final = 64
"""Requests that may be noted and not answered when a daemon dies. One can be, as the same step does both."""


@dataclass(slots=True)
class Opened:
    """An inode that is open: how often, where it was found, and what it is, None for what cannot be opened anew."""

    path: str
    blob: GivenBlob | None
    times: int = 1


@dataclass(slots=True)
class Legacy:
    """What a daemon leaves: what it was ordered, what the kernel has said first, and what is open.

    By inode, `backings` are what the kernel was given to read past us, `past` the ids of those that it reads so now,
    and `aliases` the paths of those whose number is another than they would get anew. `changes` are the additions and
    removals since the mount was made, in order; `restarts` is how often a daemon had to be started again; `counted` are
    the last requests that are counted in `opened`.
    """

    order: bytes = b""
    greeting: bytes = b""
    opened: dict[int, Opened] = field(default_factory=dict)
    backings: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    past: dict[int, int] = field(default_factory=dict)
    aliases: dict[int, Opened] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    restarts: int = 0
    counted: deque[int] = field(default_factory=lambda: deque(maxlen=UNANSWERED))

    def take(self, record: Mapping[str, Any]) -> None:
        """Take one record in. *Raises*: KeyError, TypeError, ValueError, LazyfsError for one that says nothing."""
        inode = record.get("inode", 0)
        if "request" in record:
            self.counted.append(record["request"])
        match record["is"]:
            case "order":
                self.order = base64.b64decode(record["order"])
            case "greeting":
                self.greeting = bytes.fromhex(record["greeting"])
            case "open" if inode in self.opened:
                self.opened[inode].times += 1
            case "open":
                self.opened[inode] = Opened(record["path"], _blob(record), record.get("times", 1))
            case "close":
                self.opened[inode].times -= 1
                if not self.opened[inode].times:
                    del self.opened[inode]
                    self.past.pop(inode, None)
            case "past":
                self.past[inode] = record["id"]
            case "backing":
                self.backings.setdefault(inode, []).append(record["backing"])
            case "no backing":
                self.backings.pop(inode, None)
            case "alias":
                self.aliases[inode] = Opened(record["path"], _blob(record))
            case "no alias":
                self.aliases.pop(inode, None)
            case "restart":
                self.restarts += record.get("times", 1)
            case "counted":
                self.counted.extend(record["requests"])
            case "change":
                self.changes.append(record["change"])

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what another one takes to become the same."""
        yield {"is": "order", "order": base64.b64encode(self.order).decode()}
        yield {"is": "greeting", "greeting": self.greeting.hex()}
        for change in self.changes:
            yield {"is": "change", "change": change}
        for inode, there in self.opened.items():
            yield {"is": "open", "inode": inode, "times": there.times, **_described(there)}
        for inode, number in self.past.items():
            yield {"is": "past", "inode": inode, "id": number}
        for inode, backings in self.backings.items():
            for backing in backings:
                yield {"is": "backing", "inode": inode, "backing": backing}
        for inode, there in self.aliases.items():
            yield {"is": "alias", "inode": inode, **_described(there)}
        yield {"is": "restart", "times": self.restarts}
        yield {"is": "counted", "requests": list(self.counted)}


class Journal:
    """A journal that is being written. `renew` gives a shorter one to whoever holds it. *Raises*: OSError."""

    def __init__(self, fd: int, legacy: Legacy, renew: Callable[[int], None]) -> None:
        self._fd = fd
        self._legacy = legacy
        self._renew = renew
        self._length = os.fstat(fd).st_size
        self._longest = LONGEST

    def note(self, what: str, **words: Any) -> None:
        """Write a record down. Costs some ten microseconds."""
        record = {"is": what, **words}
        self._legacy.take(record)
        self._length += os.write(self._fd, _line(record))
        if self._length > self._longest:
            self._begin_anew()

    def note_open(self, inode: int, path: str, describe: Describe, request: int) -> None:
        """Write down that a request has opened an inode; it is described only once while it is open."""
        described = {} if inode in self._legacy.opened else _described(Opened(path, describe()))
        self.note("open", inode=inode, request=request, **described)

    def counted(self, request: int) -> bool:
        """Say whether a request to open or to close is noted already."""
        return request in self._legacy.counted

    def known(self, inode: int) -> Opened | None:
        """Return what is noted of an inode that is open, or whose number is another than it would get anew."""
        return self._legacy.opened.get(inode) or self._legacy.aliases.get(inode)

    def note_alias(self, inode: int, path: str, blob: GivenBlob | None) -> None:
        """Write down what an inode is whose number another daemon would not give it."""
        if inode not in self._legacy.aliases:
            self.note("alias", inode=inode, **_described(Opened(path, blob)))

    def note_forgotten(self, inode: int) -> None:
        """Write down that the kernel does not know an inode any more."""
        if inode in self._legacy.aliases:
            self.note("no alias", inode=inode)

    def _begin_anew(self) -> None:
        content = b"".join(map(_line, self._legacy.records()))
        fd = os.memfd_create("journal", os.MFD_CLOEXEC)
        try:
            while content:
                content = content[os.write(fd, content) :]
            self._renew(fd)
        except BaseException:
            os.close(fd)
            raise
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._length = os.fstat(self._fd).st_size
        self._longest = max(LONGEST, 2 * self._length)


def read(fd: int) -> Legacy:
    """Return what a journal says, as far as it can be read. *Raises*: OSError."""
    legacy = Legacy()
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    for line in content.split(b"\n"):
        try:
            legacy.take(json.loads(line))
        except (KeyError, TypeError, ValueError):  # cut off, or a later lazyfs's
            continue
    return legacy


def _line(record: Mapping[str, Any]) -> bytes:
    return b"\n" + json.dumps(record, separators=(",", ":")).encode()


def _blob(record: Mapping[str, Any]) -> GivenBlob | None:
    return None if record["blob"] is None else GivenBlob.of(record["blob"])


def _described(there: Opened) -> dict[str, Any]:
    return {"path": there.path, "blob": None if there.blob is None else there.blob.as_dict()}
