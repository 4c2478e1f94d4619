"""gc: remove from a store what is of no use, and come within its bounds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import click

from lazyfs import control, mountinfo
from lazyfs.cli.mounting import socket_of
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import counted, opened
from lazyfs.errors import StoreError
from lazyfs.sizes import format_size
from lazyfs.store import gc, running
from lazyfs.versions import BlobId

ASKED_AT_ONCE: Final = 5000
"""Blobs that a mount is asked about in one request."""

TOLERANCE: Final = 16 * 1024 * 1024
"""Bytes over the bound that are no failure: file systems keep a little for what was punched out."""

_OF_A_MOUNT = re.compile(r"([0-9a-f]{16})\.(?:sock|log|log\.1)")


def collect(store_path: Path, max_cache: int | None, *, as_json: bool) -> None:
    """Collect, and print what that did. *Raises*: LazyfsError, also when a bound is out of reach."""
    with opened(store_path) as store:
        try:
            done = gc.collect(store, lambda blob_ids: _led_to(store_path, blob_ids), max_cache)
            files = sum(_tidy_run(place) for place in running.directories(store_path) if place.is_dir())
            left = store.bytes_on_disk()
        except OSError as exc:
            raise StoreError(f"the store {store_path}: {exc.strerror or exc}") from exc
        bound = max_cache if max_cache is not None else store.quota.look().max_cache or None
    if as_json:
        described = {
            "old_versions": done.old_versions,
            "orphans": done.orphans,
            "listed": done.listed,
            "leftovers": done.leftovers,
            "rows": done.rows,
            "run_files": files,
            "bytes_freed": done.freed,
            "bytes_evicted": done.evicted,
            "bytes_on_disk": left,
            "kept": +done.kept,
        }
        click.echo(json.dumps(described, indent=2))
    else:
        _print(done, files, left)
    if bound is not None and left > bound + TOLERANCE:
        pinned = f", {counted(done.kept['pinned'], 'blob')} pinned" if done.kept["pinned"] else ""
        much = f"{format_size(left)} are left in the store {store_path}, more than {format_size(bound)}"
        raise StoreError(f"{much}: nothing more may go{pinned}; see: lazyfs ls, lazyfs unpin")


def _print(done: gc.Collected, files: int, left: int) -> None:
    parts = [
        counted(done.old_versions, "old version"),
        counted(done.orphans, "orphan"),
        f"{counted(done.leftovers, 'leftover')} of a removal",
        f"{counted(done.rows, 'row')} of the catalogue",
        f"{counted(files, 'file')} of mounts that are gone",
    ]
    removed = [part for part in parts if not part.startswith("0 ")]
    click.echo(f"removed {', '.join(removed) or 'nothing'}; freed {format_size(done.freed)}")
    if done.listed:
        click.echo(f"listed {counted(done.listed, 'blob')} again that the catalogue had lost")
    click.echo(f"evicted {format_size(done.evicted)}; {format_size(left)} are left")
    if kept := [f"{number} {why}" for why, number in done.kept.items() if number]:
        click.echo(f"kept, although it might have gone: {', '.join(kept)}")


def _led_to(store_path: Path, blob_ids: list[BlobId]) -> set[BlobId]:
    """Return those of some blobs to which names of mounts lead; all, when a mount does not say."""
    found: set[BlobId] = set()
    for socket in running.sockets(store_path):
        if control.is_dead(socket):
            continue
        try:
            for start in range(0, len(blob_ids), ASKED_AT_ONCE):
                found.update(control.call(socket, "led_to", blobs=blob_ids[start : start + ASKED_AT_ONCE]))
        except control.ControlError as exc:
            complain(f"old versions stay, since a mount does not say which it needs: {exc}")
            return set(blob_ids)
    return found


def _tidy_run(run: Path) -> int:
    """Remove the sockets and logs of mounts that are gone, and return how many files that were."""
    there: dict[str, Any] = {}
    for path in run.iterdir():
        if match := _OF_A_MOUNT.fullmatch(path.name):
            there.setdefault(match[1], []).append(path)
    mounted = {socket_of(each).stem for each in mountinfo.mounts() if each.fstype == mountinfo.FSTYPE}
    gone = [stem for stem in there if stem not in mounted and control.is_dead(run / f"{stem}.sock")]
    removed = 0
    for stem in gone:
        if not any(map(running.is_written, there[stem])):
            for path in there[stem]:
                path.unlink(missing_ok=True)
                removed += 1
    return removed
