"""One scripted session on a disk that fails, again and again in one process: what a reader would have seen.

A process of its own, for failing_disk.c is preloaded into it. It reads faults from standard input, a line each, and
answers each with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final

import trio

from lazyfs import records
from lazyfs.blob import Limits
from lazyfs.errors import LazyfsError, StoreError
from lazyfs.extents import Extent
from lazyfs.filling import fill
from lazyfs.session import Session, Settings, open_session
from lazyfs.sources.spec import parse_source
from lazyfs.store import Store, database
from lazyfs.store import layout as layouts
from lazyfs.store.blobfile import look_into
from tests.faults.failing_disk import Fault, Mode, Plan

BLOCK: Final = records.MIN_BLOCK_SIZE
MAX_CACHE: Final = 6 * BLOCK
TIME: Final = 40.0
"""Seconds that two sessions may take: a fiftieth of one, unless SQLite waits for a lock that it cannot have."""

PIECE: Final = 128 * 1024


class Wrong(Exception):
    """What nobody should have seen."""


class _Log(logging.Handler):
    """Keeps what a log must not have in it: tracebacks, and what was not foreseen.

    That is not a catalogue which is damaged, on a disk that fails to read: SQLite calls it so, and it is when that
    happens again at the second look.
    """

    def __init__(self, fault: Fault | None) -> None:
        super().__init__()
        self.bad: list[str] = []
        self._foreseen = database.__name__ if fault is not None and fault.error == "EIO" else ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or (record.levelno >= logging.ERROR and record.name != self._foreseen):
            self.bad.append(self.format(record))


class Script:
    """The session: open, list, resolve, read here and there and through, complete, close; then the same once more."""

    def __init__(self, store: Path, sources: list[str], contents: dict[str, Path]) -> None:
        self._store = store
        self._sources = [parse_source(source) for source in sources]
        self._contents = {name: path.read_bytes() for name, path in contents.items()}

    async def run(self) -> str:
        """Run it; return how it ended. *Raises*: Wrong; whatever else a reader must not see."""
        with trio.fail_after(TIME):
            for _ in range(2):
                try:
                    async with open_session(self._settings()) as session:
                        await self._use(session)
                except StoreError as exc:  # before there is a session; what comes out of one is a group
                    if "\n" in str(exc):
                        raise
                    return "refused"
        return "read"

    def _settings(self) -> Settings:
        return Settings(self._store, limits=Limits(10.0, BLOCK), block_size=BLOCK, max_cache=MAX_CACHE)

    async def _use(self, session: Session) -> None:
        try:
            for source in self._sources:
                await session.add(source)
            for name, content in self._contents.items():
                await self._read(session, name, content)
        except LazyfsError as exc:
            raise Wrong(f"the reader got: {exc!r}") from exc
        with contextlib.suppress(StoreError):  # it says that the store does not take it
            await fill(session.vfs, next(iter(self._contents)), lambda _present, _size: None)

    async def _read(self, session: Session, name: str, content: bytes) -> None:
        vfs = session.vfs
        handle = await vfs.open((await vfs.lookup(vfs.tree.root.inode, name)).inode)
        try:
            offsets = [2 * BLOCK + 5, *range(0, len(content), PIECE)]
            for offset in offsets:
                found = bytes(await vfs.read(handle, offset, PIECE))
                if found != content[offset : offset + PIECE]:
                    raise Wrong(f"other bytes of {name} at {offset}")
        finally:
            vfs.release(handle)


def unsound(path: Path) -> list[str]:
    """Say what is wrong with a store: blocks that do not match their entries, or more of them than its bound."""
    found, total = [], 0
    with contextlib.closing(Store.open(path)) as store:
        for blob_id in layouts.blob_ids(store.layout):
            with contextlib.suppress(records.BadRecord), contextlib.closing(look_into(store.layout, blob_id)) as blob:
                total += layouts.disk_bytes(store.layout, blob_id)
                entries = blob.entries(Extent(0, blob.geometry.blocks))
                found += [
                    f"block {index} of {blob_id}"
                    for index, entry in enumerate(entries)
                    if entry != records.MISSING and blob.read(index, wait=True) is None
                ]
    return found + ([f"{total} bytes"] if total > MAX_CACHE else [])


def attempt(script: Script, store: Path, plan: Plan, fault: Fault | None, count: str) -> dict[str, Any]:
    """Run the script once on a new store, with a fault or only counting; then once more on what that has left."""
    shutil.rmtree(store, ignore_errors=True)
    log = _Log(fault)
    logging.getLogger().addHandler(log)
    outcome: dict[str, Any] = {"fault": str(fault), "wrong": ""}
    if fault is None:
        plan.count(count)
    else:
        plan.arm(fault)
    try:
        outcome["end"] = trio.run(script.run)
        outcome["counted"], outcome["failed"] = plan.disarm()
        outcome["wrong"] = "" if trio.run(script.run) == "read" else "afterwards it is refused\n"
        outcome["wrong"] += "".join(f"not sound: {what}\n" for what in unsound(store))
    except BaseException:
        outcome["wrong"] = _short(traceback.format_exc())
    finally:
        plan.disarm()
        logging.getLogger().removeHandler(log)
    if log.bad:
        outcome["wrong"] += "\n".join(["in the log:", *log.bad])
    outcome["files"] = len(os.listdir("/proc/self/fd"))
    return outcome


def _short(text: str) -> str:
    """Keep of a traceback what says where it was, without those whose only fault was to be cancelled with it."""
    return text if len(text) < 4000 else f"{text[:1500]}\n...\n{text[-2500:]}"


def main() -> None:
    """Read what to do, and do it: first a line with where everything is, then a line for each fault."""
    given = json.loads(sys.stdin.readline())
    store, plan = Path(given["store"]), Plan(Path(given["plan"]))
    script = Script(store, given["sources"], {name: Path(path) for name, path in given["contents"].items()})
    threading.excepthook = lambda args: logging.getLogger().error("in a thread", exc_info=args.exc_value)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.lastResort = None
    for line in sys.stdin:
        asked = json.loads(line)
        fault = Fault(asked["error"], Mode(asked["mode"]), asked["n"]) if asked["n"] else None
        print(json.dumps(attempt(script, store, plan, fault, asked["error"])), flush=True)


if __name__ == "__main__":
    main()
