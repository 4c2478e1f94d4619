"""fetch, ls, map, pin, unpin, rm, profile: what becomes of blobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from lazyfs.cli.commands.options import fetching_options, store_option, store_path


@click.command()
@fetching_options
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the one file that is fetched here, too.",
)
@click.option("--digest", metavar="sha256:HEX", help="Check the one file that is fetched.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE|PATH...")
def fetch(sources: tuple[str, ...], output: Path | None, digest: str | None, **options: Any) -> None:
    """Make files complete in the store.

    SOURCE is as for mount; PATH is a file under a mount. Any number of processes that fetch the same file at once cost
    the origin its bytes once.
    """
    from lazyfs.cli import fetching
    from lazyfs.cli.settings import settings_of

    if digest is not None and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", digest):
        raise click.BadParameter("a digest is sha256: and 64 hexadecimal digits", param_hint="'--digest'")
    settings = settings_of(store_path(options["store"]), sources, options)
    fetching.fetch(sources, settings, output, digest)


@click.command("ls")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_blobs(store: Path | None, as_json: bool) -> None:
    """List the blobs in the store."""
    from lazyfs.cli import showing

    showing.list_blobs(store_path(store), as_json=as_json)


@click.command("map")
@store_option
@click.option("--watch", is_flag=True, help="Go on, and show it in each second.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), metavar="SECONDS",
              help="How often, with --watch; 1 if not said.")  # fmt: skip
@click.option("--svg", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a picture there; - is stdout.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, one a line.")
@click.option("--width", type=click.IntRange(20, 1000), metavar="N", help="Characters in a line; the terminal's.")
@click.argument("blob", metavar="PATH|BLOB|URL")
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
    lazyfs map /mnt/x/disk.img --watch
    lazyfs map https://example.org/disk.img --svg map.svg
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
@click.argument("blobs", nargs=-1, required=True, metavar="PATH|BLOB|URL...")
def pin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Keep blobs from eviction and removal.

    What of them is in the store stays, and so does what comes in later; nothing is fetched now. PATH is a file under a
    mount, BLOB as for rm.
    """
    from lazyfs.cli import keeping

    keeping.pin(blobs, store_path(store))


@click.command()
@store_option
@click.argument("blobs", nargs=-1, required=True, metavar="PATH|BLOB|URL...")
def unpin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Let blobs be evicted and removed again."""
    from lazyfs.cli import keeping

    keeping.unpin(blobs, store_path(store))


@click.command()
@store_option
@click.argument("blobs", nargs=-1, required=True, metavar="BLOB|URL...")
def rm(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Remove blobs from the store.

    BLOB is an id, or as much of it as ls shows; a URL means all its versions. What is in use or pinned is refused.
    """
    from lazyfs.cli import keeping

    keeping.remove_blobs(blobs, store_path(store))


@click.group()
def profile() -> None:
    """Boot profiles: which parts of a blob are read first, recorded by mounts, and fetched ahead at the next time.

    PATH is a file under a mount, BLOB an id, or as much of it as ls shows.
    """


@profile.command("show")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("blob", metavar="PATH|BLOB")
def show_profile(store: Path | None, blob: str, as_json: bool) -> None:
    """Show the profile of a blob."""
    from lazyfs.cli import profiling

    profiling.show(blob, store_path(store), as_json=as_json)


@profile.command("export")
@store_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it there, not to stdout.")  # fmt: skip
@click.argument("blob", metavar="PATH|BLOB")
def export_profile(store: Path | None, blob: str, output: Path | None) -> None:
    """Write the profile of a blob down, for other hosts."""
    from lazyfs.cli import profiling

    profiling.export(blob, store_path(store), output)


@profile.command("import")
@store_option
@click.argument("file", type=click.Path(path_type=Path))
def import_profile(store: Path | None, file: Path) -> None:
    """Take a profile from elsewhere into the store."""
    from lazyfs.cli import profiling

    profiling.take_in(file, store_path(store))
