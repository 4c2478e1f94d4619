"""status, gc, fsck: the store and its mounts as they are, and how they are kept in order."""

from __future__ import annotations

from pathlib import Path

import click

from lazyfs.cli.commands.options import json_option, store_option, store_option_at_least, store_path
from lazyfs.cli.values import Mountpoint, Size, Within


@click.command()
@store_option_at_least
@json_option("one object; with --watch, one on each line")
@click.option("--watch", is_flag=True, help="Go on, and show what happens in each second.")
@click.option("--interval", type=Within(0.1, 3600), metavar="SECONDS",
              help="How often, with --watch; 1 if not said.")  # fmt: skip
@click.option("--why", is_flag=True, help="Show what was fetched last, and what for.")
@click.argument("mountpoint", required=False, type=Mountpoint())
def status(
    mountpoint: Path | None, store: Path | None, as_json: bool, watch: bool, interval: float | None, why: bool
) -> None:
    """Show the store and its mounts, or one mount.

    \b
    Examples:
      lazyfs status
      lazyfs status --watch /mnt/x       and what happens there, each second
      lazyfs status --why /mnt/x         what was fetched last, and what for
    """
    if interval is not None and not watch:
        raise click.UsageError("--interval is of use only with --watch")
    if why and watch:
        raise click.UsageError("--why goes without --watch")
    if why:
        from lazyfs.cli import reasons

        reasons.show(mountpoint, store_path(store), as_json=as_json)
    elif watch:
        from lazyfs.cli import watching

        watching.watch(mountpoint, store_path(store), interval or 1.0, as_json=as_json)
    else:
        from lazyfs.cli import showing

        showing.status(mountpoint, store_path(store), as_json=as_json)


@click.command()
@store_option
@click.option("--max-cache", type=Size(), metavar="SIZE", help="Come within this bound, for once (0: keep nothing).")
@json_option("one object")
def gc(store: Path | None, max_cache: int | None, as_json: bool) -> None:
    """Remove what is of no use, then evict down to the bound.

    Of no use are old versions of a URL that no mount shows any longer, blobs that the catalogue has lost, what killed
    processes left, and what is known of names that nobody asked for in 90 days. Blobs that are pinned stay whole. Those
    in use are not removed, but blocks of them may be evicted. Exit status 1: the bound is out of reach.

    \b
    Examples:
      lazyfs gc
      lazyfs gc --max-cache 5G
    """
    from lazyfs.cli import collecting

    collecting.collect(store_path(store), max_cache, as_json=as_json)


@click.command()
@store_option
@click.option("--repair", is_flag=True, help="Drop what is damaged: it is fetched again when it is read.")
@json_option("one object")
def fsck(store: Path | None, repair: bool, as_json: bool) -> int:
    """Check the store, and every block in it.

    Mounts may go on meanwhile. Each line says what is not as it should be: damaged, mended, or left over by a process
    that was killed, which hurts nobody. Exit status 0: the store is sound, with --repair it is so afterwards; 1: there
    is damage.

    \b
    Examples:
      lazyfs fsck
      lazyfs fsck --repair
    """
    from lazyfs.cli import checking

    return checking.fsck(store_path(store), repair=repair, as_json=as_json)
