"""status and ls: what the store has, and what its mounts are doing."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lazyfs import control, mountinfo, privileges, records
from lazyfs.cli.mounting import absolute, ask, mounted_at, socket_of, store_of
from lazyfs.cli.saying import complain
from lazyfs.errors import StoreError, one_line
from lazyfs.sizes import format_size
from lazyfs.store import Store, running
from lazyfs.store import layout as layouts
from lazyfs.versions import BlobId


def status(mountpoint: Path | None, store_path: Path, *, as_json: bool) -> None:
    """Print the store and its mounts; with a mountpoint, that mount and its store. *Raises*: LazyfsError."""
    if mountpoint is not None:
        mounted = mounted_at(absolute(mountpoint))
        store_path = store_of(mounted)
        mounts = [ask(mounted, "status")]
    else:
        mounts, silent = mounts_of(store_path)
        for line in silent:
            complain(line)
    described = describe(store_path)
    if as_json:
        click.echo(json.dumps({"store": described, "mounts": mounts}, indent=2))
        return
    click.echo(store_line(described))
    if not mounts:
        click.echo("no mounts")
    for mount in mounts:
        _print_mount(mount)


def describe(store_path: Path) -> dict[str, Any]:
    """Return what `--json` shows of a store. *Raises*: StoreError."""
    with opened(store_path) as store:
        return {
            "path": str(store_path),
            "format": records.FORMAT,
            "blobs": len(store.catalogue.blobs()),
            "bytes_on_disk": store.bytes_on_disk(),
            "max_cache": store.quota.look().max_cache or None,
            "min_free": store.quota.look().min_free or None,
            "degraded": store.trouble.reason or None,
        }


def store_line(described: dict[str, Any]) -> str:
    """Return the line that shows a store."""
    blobs = counted(described["blobs"], "blob")
    bound = f" of {format_size(described['max_cache'])} at the most" if described["max_cache"] else ""
    degraded = f"; it cannot be written: {described['degraded']}" if described["degraded"] else ""
    on_disk = format_size(described["bytes_on_disk"])
    return f"store {described['path']}: {blobs}, {on_disk} on disk{bound}{degraded}"


def list_blobs(store_path: Path, *, as_json: bool) -> None:
    """Print the blobs of the store, the last used first. *Raises*: LazyfsError."""
    with opened(store_path) as store:
        rows: list[dict[str, Any]] = [
            {
                "blob": blob.blob_id,
                "url": blob.url,
                "size": blob.size,
                "cached": (cached := _present(store, blob.blob_id)),
                "complete": cached == blob.size,
                "pinned": layouts.is_pinned(store.layout, blob.blob_id),
                "last_used": blob.last_used,
            }
            for blob in store.catalogue.blobs()
        ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = [
        [
            str(row["blob"])[:20],
            format_size(row["size"]),
            (f"{row['cached'] * 100 // row['size']} %" if row["size"] else "100 %") + ", pinned" * row["pinned"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["last_used"])),
            row["url"],
        ]
        for row in rows
    ]
    print_table(["BLOB", "SIZE", "CACHED", "LAST USED", "URL"], table)


def _present(store: Store, blob_id: BlobId) -> int:
    try:
        return store.present_bytes(blob_id)
    except OSError as exc:
        raise StoreError(f"blob {blob_id}: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def opened(store_path: Path) -> Iterator[Store]:
    """Open a store that is there. *Raises*: StoreError, when there is none."""
    with as_owner(store_path), contextlib.closing(Store.open(store_path)) as store:
        yield store


@contextlib.contextmanager
def as_owner(store_path: Path) -> Iterator[None]:
    """Look at a store as the user whose it is, when root does: there are daemons that run as others (`--user`).

    *Raises*: StoreError, when there is none.
    """
    try:
        status = store_path.lstat()
    except OSError:
        raise StoreError(f"there is no store at {store_path}; name one with --store") from None
    if os.geteuid() != 0 or status.st_uid == 0:
        yield
        return
    with privileges.acting_as(status.st_uid, status.st_gid):
        yield


def mounts_of(store_path: Path, op: str = "status") -> tuple[list[dict[str, Any]], list[str]]:
    """Ask every mount of the store for something; return what they say, and a line for each that does not answer.

    A socket that nobody listens on is what a killed daemon left.
    """
    found, silent = [], []
    mounted_with = {
        os.path.realpath(socket_of(mounted)): mounted
        for mounted in mountinfo.mounts()
        if mounted.fstype == mountinfo.FSTYPE
    }
    for socket in running.sockets(store_path):
        mounted = mounted_with.get(os.path.realpath(socket))
        try:
            found.append(ask(mounted, op) if mounted else control.call(socket, op))
        except control.ControlError as exc:
            if mounted is None and isinstance(exc, control.Unreachable):
                with contextlib.suppress(OSError):
                    socket.unlink()
            else:
                silent.append(str(exc))
    return found, silent


def _print_mount(mount: dict[str, Any]) -> None:
    counters = mount["counters"]
    click.echo(f"\n{mount['mountpoint']}: {counted(mount['files'], 'file')}, daemon {mount['pid']}")
    click.echo(
        f"  read      {format_size(counters['read_bytes'])} in {counted(counters['reads'], 'read')},"
        f" {counted(counters['errors'], 'error')}"
    )
    click.echo(
        f"  origin    {format_size(counters['origin_bytes'])} in {counted(counters['origin_requests'], 'request')},"
        f" {counters['retries']} {'retry' if counters['retries'] == 1 else 'retries'}"
    )
    click.echo(
        f"  blocks    {counters['blocks_fetched']} fetched, {counters['blocks_awaited']} awaited from other processes,"
        f" {counters['blocks_hit']} hit, {counters['blocks_bypassed']} not kept,"
        f" {counters['blocks_scrubbed']} scrubbed, {counters['blocks_corrupt']} corrupt"
    )
    past = mount["passthrough"]
    now, ever = past["open"], counters["passthrough_opens"]
    shown = f"{now} open now, {ever} so far" if past["on"] else f"off: {past['reason']}"
    click.echo(f"  past it   {shown}")
    if takeover := mount.get("takeover"):  # a daemon that was started before an upgrade may not say so
        restarts = counted(counters["daemon_restarts"], "restart")
        shown = f"on, {restarts}" if takeover["on"] else f"off: {takeover['reason']}"
        click.echo(f"  takeover  {shown}")
    if mount["degraded"]:
        click.echo(
            f"  store     degraded: {mount['degraded']}; what it lacks is fetched and not kept, until it is better"
        )
    if mount.get("metrics"):
        click.echo(f"  page      http://{mount['metrics']}/, metrics at http://{mount['metrics']}/metrics")
    if "runs_as" in mount:  # as above
        rights = ", ".join(mount["runs_as"]["capabilities"]) or "without capabilities"
        click.echo(f"  runs as   {mount['runs_as']['user']}, {rights}")
    click.echo(f"  log       {mount['log']}")
    if mount["problems"]:
        click.echo(f"  not shown {counted(mount['problems'], 'name')}:")
        for name, reason in list(mount["reasons"].items())[:20]:
            click.echo(one_line(f"    {name}: {reason}"))


def counted(number: int, what: str) -> str:
    """Return a number of things, in the plural where it is one."""
    return f"{number} {what}{'s' * (number != 1)}"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print rows below their heads, in columns; a row is a line, whatever is in a name."""
    table = [[one_line(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
