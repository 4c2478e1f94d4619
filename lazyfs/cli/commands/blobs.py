"""fetch, ls, map, pin, unpin, rm, profile: what becomes of blobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lazyfs.cli.commands.helping import Command, Group, Option
from lazyfs.cli.commands.options import fetching_options, json_option, store_option, store_path
from lazyfs.cli.values import Within, Word


@click.command(cls=Command)
@click.option("-o", "--output", cls=Option, group="What is fetched", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the one file that is fetched here, too; - is stdout.")  # fmt: skip
@click.option("--digest", cls=Option, group="What is fetched", metavar="sha256:HEX",
              help="Check the one file that is fetched.")  # fmt: skip
@fetching_options
@json_option("a list of objects, one for each file that was fetched")
@click.argument("sources", nargs=-1, required=True, type=Word("mount", "path"), metavar="SOURCE|PATH...")
def fetch(sources: tuple[str, ...], output: Path | None, digest: str | None, as_json: bool, **options: Any) -> None:
    """Make files complete in the store.

    SOURCE is as for lazyfs mount, PATH a file under a mount. Any number of processes that fetch the same file at once
    cost the origin its bytes once. Exit status 1: not all of it could be fetched.

    \b
    Examples:
      lazyfs fetch https://example.org/disk.img
      lazyfs fetch /mnt/x/disk.img                           through the mount
      lazyfs fetch -o disk.img https://example.org/disk.img  and write it out
    """
    from lazyfs.cli import fetching
    from lazyfs.cli.settings import settings_of
    from lazyfs.versions import is_digest

    if digest is not None and not is_digest(digest):
        raise click.BadParameter("a digest is sha256: and 64 hexadecimal digits", param_hint="'--digest'")
    if as_json and str(output) in ("-", "/dev/stdout"):
        raise click.UsageError("--json goes to stdout: write the file elsewhere with --output")
    settings = settings_of(store_path(options["store"]), sources, options)
    fetching.fetch(sources, settings, output, digest, as_json=as_json)


@click.command("ls")
@store_option
@json_option("a list of objects")
def list_blobs(store: Path | None, as_json: bool) -> None:
    """List the blobs in the store, the last used first.

    \b
    Examples:
      lazyfs ls
      lazyfs ls --json | jq -r '.[] | select(.complete) | .url'
    """
    from lazyfs.cli import showing

    showing.list_blobs(store_path(store), as_json=as_json)


@click.command("map")
@store_option
@click.option("--watch", is_flag=True, help="Go on, and show it in each second.")
@click.option("--interval", type=Within(0.1, 3600), metavar="SECONDS",
              help="How often, with --watch; 1 if not said.")  # fmt: skip
@click.option("--svg", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a picture there; - is stdout.")  # fmt: skip
@json_option("an object; with --watch, one a line")
@click.option("--width", type=click.IntRange(22, 1000), metavar="N", help="Characters in a line; the terminal's.")
@click.argument("blob", type=Word("blob", "mount", "path"), metavar="PATH|BLOB|URL")
def show_map(
    blob: str,
    store: Path | None,
    watch: bool,
    interval: float | None,
    svg: Path | None,
    as_json: bool,
    width: int | None,
) -> None:
    """Show which blocks of a file are in the store.

    Missing, present, hot (wanted again after a while, so that eviction spares it), or being fetched, by whichever
    process. PATH is a file under a mount, which is not touched; BLOB is as for rm.

    \b
    Examples:
      lazyfs map /mnt/x/disk.img
      lazyfs map --watch /mnt/x/disk.img
      lazyfs map --svg map.svg https://example.org/disk.img
    """
    from lazyfs.cli import mapping

    if interval is not None and not watch:
        raise click.UsageError("--interval is of use only with --watch")
    if svg is not None and (watch or as_json):
        raise click.UsageError("--svg goes without --watch and --json")
    if watch:
        mapping.watch(blob, store_path(store), interval or 1.0, as_json=as_json, width=width)
    else:
        mapping.show(blob, store_path(store), as_json=as_json, svg=svg, width=width)


@click.command()
@store_option
@json_option("a list of objects, one for each blob that was pinned")
@click.argument("blobs", nargs=-1, required=True, type=Word("blob", "mount", "path"), metavar="PATH|BLOB|URL...")
def pin(store: Path | None, blobs: tuple[str, ...], as_json: bool) -> None:
    """Keep blobs from eviction and removal.

    What of them is in the store stays, and so does what comes in later; nothing is fetched now. PATH is a file under a
    mount, BLOB an id, or as much of it as lazyfs ls shows; a URL means all its versions.

    \b
    Examples:
      lazyfs pin /mnt/x/disk.img
      lazyfs pin https://example.org/disk.img
    """
    from lazyfs.cli import keeping

    keeping.pin(blobs, store_path(store), as_json=as_json)


@click.command()
@store_option
@json_option("a list of objects, one for each blob that was unpinned")
@click.argument("blobs", nargs=-1, required=True, type=Word("blob", "mount", "path"), metavar="PATH|BLOB|URL...")
def unpin(store: Path | None, blobs: tuple[str, ...], as_json: bool) -> None:
    """Let blobs be evicted and removed again.

    PATH, BLOB and URL are as for lazyfs pin.

    \b
    Examples:
      lazyfs unpin /mnt/x/disk.img
    """
    from lazyfs.cli import keeping

    keeping.unpin(blobs, store_path(store), as_json=as_json)


@click.command()
@store_option
@json_option("a list of objects, one for each blob that was removed")
@click.argument("blobs", nargs=-1, required=True, type=Word("blob"), metavar="BLOB|URL...")
def rm(store: Path | None, blobs: tuple[str, ...], as_json: bool) -> None:
    """Remove blobs from the store.

    BLOB is an id, or as much of it as lazyfs ls shows; a URL means all its versions. What is in use or pinned stays,
    and the line says by whom. Exit status 1: not all of them were removed.

    \b
    Examples:
      lazyfs rm url-b5570640dc711d6c
      lazyfs rm https://example.org/disk.img
    """
    from lazyfs.cli import keeping

    keeping.remove_blobs(blobs, store_path(store), as_json=as_json)


@click.group(cls=Group)
def profile() -> None:
    """Show boot profiles, write them down, or take them in.

    A profile says which parts of a blob are read first. Mounts record it, and fetch those parts ahead the next time.
    PATH is a file under a mount, BLOB an id, or as much of it as lazyfs ls shows.

    \b
    Examples:
      lazyfs profile export -o disk.profile /mnt/x/disk.img
      lazyfs profile import disk.profile      on another host
    """


@profile.command("show")
@store_option
@json_option("one object")
@click.argument("blob", type=Word("blob", "mount", "path"), metavar="PATH|BLOB")
def show_profile(store: Path | None, blob: str, as_json: bool) -> None:
    """Show the profile of a blob.

    \b
    Examples:
      lazyfs profile show /mnt/x/disk.img
    """
    from lazyfs.cli import profiling

    profiling.show(blob, store_path(store), as_json=as_json)


@profile.command("export")
@store_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it there; - is stdout, as if not said.")  # fmt: skip
@click.argument("blob", type=Word("blob", "mount", "path"), metavar="PATH|BLOB")
def export_profile(store: Path | None, blob: str, output: Path | None) -> None:
    """Write the profile of a blob down, for other hosts.

    \b
    Examples:
      lazyfs profile export -o disk.profile /mnt/x/disk.img
    """
    from lazyfs.cli import profiling

    profiling.export(blob, store_path(store), output)


@profile.command("import")
@store_option
@click.argument("file", type=click.Path(path_type=Path))
def import_profile(store: Path | None, file: Path) -> None:
    """Take a profile from elsewhere into the store.

    \b
    Examples:
      lazyfs profile import disk.profile
    """
    from lazyfs.cli import profiling

    profiling.take_in(file, store_path(store))
