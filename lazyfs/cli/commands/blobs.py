"""fetch, ls, pin, unpin, rm, profile: what becomes of blobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from lazyfs.cli.commands.options import fetching_options, store_option, store_path
from lazyfs.cli.values import Word


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
@click.argument("sources", nargs=-1, required=True, type=Word("mount", "path"), metavar="SOURCE|PATH...")
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


@click.command()
@store_option
@click.argument("blobs", nargs=-1, required=True, type=Word("blob", "mount", "path"), metavar="PATH|BLOB|URL...")
def pin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Keep blobs from eviction and removal.

    What of them is in the store stays, and so does what comes in later; nothing is fetched now. PATH is a file under a
    mount, BLOB as for rm.
    """
    from lazyfs.cli import keeping

    keeping.pin(blobs, store_path(store))


@click.command()
@store_option
@click.argument("blobs", nargs=-1, required=True, type=Word("blob", "mount", "path"), metavar="PATH|BLOB|URL...")
def unpin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Let blobs be evicted and removed again."""
    from lazyfs.cli import keeping

    keeping.unpin(blobs, store_path(store))


@click.command()
@store_option
@click.argument("blobs", nargs=-1, required=True, type=Word("blob"), metavar="BLOB|URL...")
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
@click.argument("blob", type=Word("blob", "mount", "path"), metavar="PATH|BLOB")
def show_profile(store: Path | None, blob: str, as_json: bool) -> None:
    """Show the profile of a blob."""
    from lazyfs.cli import profiling

    profiling.show(blob, store_path(store), as_json=as_json)


@profile.command("export")
@store_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it there, not to stdout.")  # fmt: skip
@click.argument("blob", type=Word("blob", "mount", "path"), metavar="PATH|BLOB")
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
