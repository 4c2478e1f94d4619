"""map: which blocks of a file are in the store, as a picture in the terminal, as an SVG, or as JSON."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lazyfs import urls
from lazyfs.blockmap import KINDS, PRESENT, State
from lazyfs.cli import drawing, streams
from lazyfs.cli.drawing import ASCII, UNICODE, Named
from lazyfs.cli.mounting import mount_of, store_of
from lazyfs.cli.naming import named, under_mount
from lazyfs.cli.saying import complain
from lazyfs.cli.screen import Line, Screen, encodes
from lazyfs.cli.showing import opened
from lazyfs.errors import StoreError, UsageError
from lazyfs.records import BadRecord
from lazyfs.store import Store
from lazyfs.store.survey import survey
from lazyfs.versions import BlobId, starts_blob_id


@dataclass(frozen=True, slots=True)
class _Target:
    """What is looked at. *Units*: bytes."""

    store: Path
    blob_id: BlobId
    name: str
    url: str


def show(word: str, store_path: Path, *, as_json: bool, svg: Path | None, width: int | None) -> None:
    """Print the map of a blob, or write it down. *Raises*: LazyfsError."""
    target = _target(word, store_path)
    with opened(target.store) as store:
        now = _look(store, target)
    if svg is not None:
        streams.write_to(svg, drawing.svg(now).encode())
    elif as_json:
        click.echo(json.dumps(_described(target, now)))
    else:
        Screen().show(_lines(now, width, None))


def watch(word: str, store_path: Path, interval: float, *, as_json: bool, width: int | None) -> None:
    """Print it again and again until interrupted. *Units*: seconds. *Raises*: LazyfsError."""
    target, screen = _target(word, store_path), Screen()
    with opened(target.store) as store:
        present, at = None, time.monotonic()
        while True:
            now = _look(store, target)
            before, since = present, at
            present, at = now.map.bytes_in(*PRESENT), time.monotonic()
            if as_json:
                click.echo(json.dumps({"time": round(time.time(), 3), **_described(target, now)}))
            else:
                rate = 0.0 if before is None else max(0, present - before) / max(at - since, 1e-9)
                screen.draw(_lines(now, width, rate))
            sys.stdout.flush()
            time.sleep(interval)


def _target(word: str, store_path: Path) -> _Target:
    """Find out which blob is meant; a path is not touched, only its mount's daemon is asked. *Raises*: LazyfsError."""
    if not (starts_blob_id(word) or urls.is_http(word)):
        mounted = mount_of(Path(word))
        if mounted is None:
            raise UsageError(f"{word!r} is neither a path under a mount nor a blob as lazyfs ls shows it")
        given = under_mount(Path(word))
        return _Target(store_of(mounted), given.blob_id, word, urls.redact(given.url))
    with opened(store_path) as store:
        found = set(named(store, word))
        rows = [row for row in store.catalogue.blobs() if row.blob_id in found]  # the last used first
        if not rows:
            return _Target(store_path, min(found), word, "")
        if len(rows) > 1:
            complain(f"the store has {len(rows)} versions of {urls.redact(word)}: this is the last one used")
        url = rows[0].url
        return _Target(store_path, rows[0].blob_id, urls.last_segment(url) if url else word, url)


def _look(store: Store, target: _Target) -> Named:
    """Look at the blob as it is now. *Raises*: StoreError."""
    try:
        return Named(target.blob_id, target.name, survey(store.layout, target.blob_id))
    except FileNotFoundError:
        remedy = f"read it, or: lazyfs fetch {shlex.quote(target.name)}"
        raise StoreError(f"{target.name}: nothing of it has been read or fetched yet; {remedy}") from None
    except (BadRecord, OSError) as exc:
        remedy = f"see: lazyfs fsck --store {target.store}"
        reason = exc.strerror or exc if isinstance(exc, OSError) else exc
        raise StoreError(f"the map of {target.blob_id} cannot be read: {reason}; {remedy}") from exc


def _lines(now: Named, width: int | None, rate: float | None) -> list[Line]:
    terminal = shutil.get_terminal_size()
    rows = max(1, terminal.lines - 7) if sys.stdout.isatty() else drawing.ROWS
    glyphs = UNICODE if encodes(UNICODE.all) else ASCII
    return drawing.lines(now, width or terminal.columns - 1, min(rows, drawing.ROWS), glyphs, rate=rate)


def _described(target: _Target, now: Named) -> dict[str, Any]:
    return {
        "blob": target.blob_id,
        "name": target.name,
        "url": target.url,
        **now.map.as_dict(),
        "runs": {name: list(_pairs(now, states)) for name, states in KINDS.items()},
    }


def _pairs(now: Named, states: tuple[State, ...]) -> Iterator[tuple[int, int]]:
    return ((run.start, run.stop) for run in now.map.runs(*states))
