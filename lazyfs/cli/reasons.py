"""status --why: what mounts have fetched last, and what for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from lazyfs.cli.mounting import absolute, ask, mounted_at
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import mounts_of, print_table
from lazyfs.sizes import format_size

HEADS: Final = ["TIME", "TOOK", "BYTES", "OF", "FROM BYTE", "CAUSE", "ORIGIN"]


def show(mountpoint: Path | None, store_path: Path, *, as_json: bool) -> None:
    """Print the last fetches of the store's mounts, or of one mount, the oldest first. *Raises*: LazyfsError."""
    if mountpoint is not None:
        mounts = [ask(mounted_at(absolute(mountpoint)), "why")]
    else:
        mounts, silent = mounts_of(store_path, "why")
        for line in silent:
            complain(line)
    if as_json:
        click.echo(json.dumps({"mounts": mounts}, indent=2))
        return
    if not mounts:
        click.echo("no mounts")
    for mount in mounts:
        click.echo(f"{mount['mountpoint']}: {'the last fetches' if mount['fetches'] else 'nothing was fetched'}")
        if mount["fetches"]:
            print_table(HEADS, list(map(_row, mount["fetches"])))


def _row(fetch: dict[str, Any]) -> list[str]:
    at = time.strftime("%H:%M:%S", time.localtime(fetch["time"])) + f".{int(fetch['time'] * 1000) % 1000:03}"
    took = f"{fetch['seconds']:.3f} s{' so far' * fetch['under_way']}"
    who = f" by {fetch['command'] or 'process'} ({fetch['pid']})" if fetch["pid"] else ""
    origin = fetch["error"] or fetch["origin"] or "-"
    of = fetch["path"] or fetch["blob"][:20]
    return [at, took, format_size(fetch["bytes"]), of, str(fetch["offset"]), fetch["cause"] + who, origin]
