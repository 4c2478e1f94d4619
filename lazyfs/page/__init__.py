"""The page that shows a mount, and what it asks for; all of it can only be read.

It is one document with its style and its script in it (index.html, page.css, page.js), and asks nobody but its daemon:

    /                                   the page
    /api/state                          {"mountpoint", "pid", "version", "store": {"path", "used", "max_cache",
                                        "min_free", "degraded"}, "files", "counters", "origins", "open_files",
                                        "flights", "slow_reads"}: as `status --json` has them; each origin with
                                        `first_byte`, how many answers began within how many seconds
    /api/files?search=&offset=&limit=   {"files": [{"inode", "path", "size", "blob", "open", "flights", "present",
                                        "fetched"}], "offset", "more", "total"}: what is being fetched first, then what
                                        is open; `present` bytes, `fetched` by any process; at most LIMIT of them
    /api/map?blob=ID&cells=N            {"blob", "there", "size", "block_size", "blocks", "complete", "pinned",
                                        "bytes", "each", "present", "hot", "fetching"}: of each cell, how many of its
                                        `each` blocks; only the first two of a blob that the store does not have

Names come as JSON can carry them: bytes that are no UTF-8 are lone surrogates, which survive the way here and back.

What takes long is done in a worker thread, one thing at a time, which then rests: so whoever asks without end takes no
more than a part of one processor from those who read.
"""

from __future__ import annotations

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

import trio

from lazyfs import __version__, states, urls
from lazyfs.blockmap import BlockMap
from lazyfs.errors import StoreError, UsageError
from lazyfs.metrics_server import Reply
from lazyfs.origin.tally import BOUNDS
from lazyfs.records import BadRecord
from lazyfs.session import Session
from lazyfs.store import Store
from lazyfs.store.survey import glance, is_fetched, survey
from lazyfs.tree import File
from lazyfs.versions import BlobId, blob_id_for, is_blob_id
from lazyfs.vfs import LOOKED_AT_ONCE

LIMIT: Final = 100
"""Files in one answer."""

CELLS: Final = 4096
"""Cells of a map in one answer."""

LAST_USED: Final = 16
"""Blobs of the store that are looked at to see whether another process fetches them."""

REST: Final = 3
"""How many times as long as it worked the worker rests."""

T = TypeVar("T")

_NEVER_KEPT: Final = (
    (b"Cache-Control", b"no-store"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Referrer-Policy", b"no-referrer"),
)


class Page:
    """The page of one mount; it knows nothing of who looks at it."""

    def __init__(self, session: Session, mountpoint: str) -> None:
        self._session = session
        self._mountpoint = mountpoint
        self._document = document()
        self._worker = _Worker()
        self._api: dict[str, Callable[[dict[str, str]], Any]] = {
            "/api/state": self._state,
            "/api/files": self._files,
            "/api/map": self._map,
        }

    async def answer(self, target: str) -> Reply:
        """Answer a request."""
        path, _, query = target.partition("?")
        if path == "/":
            return self._document
        if path not in self._api:
            return _json({"error": "the page is at /, metrics are at /metrics"}, 404)
        try:
            return _json(await self._api[path](_words(query)))
        except UsageError as exc:
            return _json({"error": str(exc)}, 400)
        except (OSError, StoreError, BadRecord) as exc:
            return _json({"error": f"the store cannot be read: {exc}"}, 503)

    async def _state(self, _words: dict[str, str]) -> Any:
        session, now = self._session, states.numbers(self._session)
        for one in states.origins(session):
            began = {"bounds": BOUNDS, "counts": one.tally.begun}
            now["origins"][one.shown]["first_byte"] = began
        return {
            "mountpoint": self._mountpoint,
            "pid": os.getpid(),
            "version": __version__,
            "store": _store(session.store),
            "files": session.vfs.tree.files,
            "counters": session.counters.as_dict(),
            **now,
        }

    async def _files(self, words: dict[str, str]) -> Any:
        search = words.get("search", "").casefold()
        offset, limit = _number(words, "offset", 0, 1 << 31), _number(words, "limit", LIMIT, LIMIT)
        found = await self._found(search, offset + limit + 1)
        shown = found[offset : offset + limit]
        opened, known = self._session.vfs.opened, [file.blob_id for file in shown]
        rows = []
        for file, (blob_id, present, fetched) in zip(
            shown, await self._worker.do(partial(_looked_at, self._session.store, shown, known)), strict=True
        ):
            blob, times = opened.get(file.inode, (None, 0))
            rows.append({
                "inode": str(file.inode), "path": file.path, "size": file.size, "blob": blob_id, "open": times,
                "flights": len(blob.flights) if blob is not None else 0, "present": present, "fetched": fetched,
            })  # fmt: skip
        total = self._session.vfs.tree.files
        return {"files": rows, "offset": offset, "more": len(found) > offset + limit, "total": total}

    async def _found(self, search: str, most: int) -> list[File]:
        """Return the first files of which a part of the path is as wanted."""
        vfs = self._session.vfs
        busy = {inode: not blob.flights for inode, (blob, _) in vfs.opened.items()}
        first = [file for inode in sorted(busy, key=busy.__getitem__) if isinstance(file := vfs.tree.node(inode), File)]
        here = {blob.blob_id for blob, _ in vfs.opened.values()}
        theirs = await self._worker.do(partial(_fetched_elsewhere, self._session.store, here))
        if theirs:
            elsewhere = [file async for file in self._files_in_turns() if _url(file) in theirs]
            first = [file for file in elsewhere if file.inode not in busy] + first
        found = [file for file in first if search in file.path.casefold()]
        before = {file.inode for file in first}
        async for file in self._files_in_turns():
            if len(found) >= most:
                break
            if file.inode not in before and search in file.path.casefold():
                found.append(file)
        return found

    async def _files_in_turns(self) -> AsyncIterator[File]:
        """Yield all files, in turns with what the kernel asks."""
        for number, node in enumerate(self._session.vfs.tree.nodes()):
            if isinstance(node, File):
                yield node
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def _map(self, words: dict[str, str]) -> Any:
        blob_id, cells = words.get("blob", ""), _number(words, "cells", 2048, CELLS)
        if not is_blob_id(blob_id):
            raise UsageError("say which blob: /api/map?blob=ID")
        return await self._worker.do(partial(_mapped, self._session.store, BlobId(blob_id), max(1, cells)))


class _Worker:
    """Does one thing at a time, in a thread, and rests in between."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._rested = 0.0

    async def do(self, function: Callable[[], T]) -> T:
        """Return what `function` returns. *Raises*: what it raises. *Cancellation*: not while it runs."""
        async with self._turn:
            await trio.sleep_until(self._rested)
            began = trio.current_time()
            try:
                return await trio.to_thread.run_sync(function)
            finally:
                now = trio.current_time()
                self._rested = now + REST * (now - began)


def document() -> Reply:
    """Return the page, joined, and with a policy that lets it run and ask for what it is made of, and nothing else."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = (here / "index.html").read_text(encoding="utf-8")
    text = text.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = ((b"Content-Security-Policy", policy.encode()), *_NEVER_KEPT)
    return Reply(200, "text/html; charset=utf-8", text.encode(), headers)


def _hash(text: str) -> str:
    """Return what a policy calls a script. *Source*: Content Security Policy Level 3, hash-source."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(content: Any, status: int = 200) -> Reply:
    body = json.dumps(content, separators=(",", ":")).encode()
    return Reply(status, "application/json", body, _NEVER_KEPT)


def _words(query: str) -> dict[str, str]:
    """Return what a query says. *Raises*: UsageError."""
    try:
        found = parse_qs(query, errors="surrogateescape", max_num_fields=8)
    except ValueError:
        raise UsageError("there is too much in this query") from None
    return {name: values[-1] for name, values in found.items()}


def _number(words: dict[str, str], name: str, default: int, most: int) -> int:
    """Return a number of a query, no larger than `most`. *Raises*: UsageError."""
    text = words.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise UsageError(f"{name} is not a number")
    return min(int(text), most)


def _store(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": str(store.layout.path),
        "degraded": store.trouble.reason if store.trouble.degraded else None,
    }
    with suppress(OSError, StoreError):
        quota = store.quota.look()
        found |= {
            "used": quota.used,
            "max_cache": quota.max_cache or None,
            "min_free": quota.min_free or None,
        }
    return found


def _url(file: File) -> str:
    return urls.redact(file.entry.url or "")


def _fetched_elsewhere(store: Store, here: Collection[BlobId]) -> set[str]:
    """Return the URLs of blobs that other processes fetch, but for those that are open here. Blocks."""
    found = set()
    for row in store.catalogue.blobs(LAST_USED):
        if row.blob_id not in here and row.url:
            with suppress(OSError, BadRecord):
                if is_fetched(store.layout, row.blob_id):
                    found.add(row.url)
    return found


def _looked_at(
    store: Store, files: Sequence[File], known: Sequence[BlobId | None]
) -> list[tuple[BlobId | None, int | None, bool]]:
    """Return for each file its blob, as far as it was ever asked for, and what `glance` says of that. Blocks."""
    looked_at = []
    for file, blob_id in zip(files, known, strict=True):
        if blob_id is None and file.entry.url is not None and (noted := store.catalogue.known(file.entry.url)):
            blob_id = blob_id_for(noted.url, noted.version, file.entry.digest)
        present, fetched = None, False
        if blob_id is not None:
            present = 0
            with suppress(OSError, BadRecord):
                present, fetched = glance(store.layout, blob_id)
        looked_at.append((blob_id, present, fetched))
    return looked_at


def _mapped(store: Store, blob_id: BlobId, most: int) -> dict[str, Any]:
    """Return a map as the page is sent it. Blocks. *Raises*: as `survey`."""
    try:
        found: BlockMap = survey(store.layout, blob_id)
    except FileNotFoundError:
        return {"blob": blob_id, "there": False}
    each, cells = found.cells(most)
    return {
        "blob": blob_id,
        "there": True,
        **found.as_dict(),
        "each": each,
        "present": [cell.present for cell in cells],
        "hot": [cell.hot for cell in cells],
        "fetching": [cell.fetching for cell in cells],
    }
