"""The commands and their options; what they do is in the modules beside, imported when a command runs."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lazyfs import __version__, records
from lazyfs.cli.values import Address, BlockSize, Mountpoint, Seconds, Size
from lazyfs.errors import UsageError
from lazyfs.options import WatchOptions, default_path


def _store_option(function: Any) -> Any:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="DIR",
        envvar="LAZYFS_STORE",
        help="The backing store, shared by every process that names it.",
    )(function)


def _fetching_options(function: Any) -> Any:
    """The options of whatever asks origins."""
    for option in reversed(
        (
            click.option("--block-size", type=BlockSize(), default=records.DEFAULT_BLOCK_SIZE, metavar="SIZE",
                         help="The unit of presence, for blobs new to the store (64K to 8M, a power of two)."),
            click.option("--max-cache", type=Size(), metavar="SIZE",
                         help="Bytes of blob data in the store at the most, over all its processes (0: no bound)."),
            click.option("--min-free", type=Size(), metavar="SIZE",
                         help="Bytes to leave free on the store's file system."),
            click.option("--header", "headers", multiple=True, metavar="'K: V'",
                         help="Sent to the origins that the sources name, and to no other."),
            click.option("--header-file", "header_files", metavar="FILE", multiple=True,
                         type=click.Path(path_type=Path),
                         help="The same from a file, a header a line: keeps secrets off the command line."),
            click.option("--credential-command", metavar="CMD",
                         help="Ask this for what an origin wants to know of you; it speaks git's credential protocol."),
            click.option("--netrc-file", metavar="FILE", type=click.Path(path_type=Path), envvar="NETRC",
                         default=Path("~/.netrc"), help="Look here otherwise; ~/.netrc if not said."),
            click.option("--mirror", "mirrors", multiple=True, metavar="FROM=TO",
                         help="For URLs that start with FROM, also try the same path under TO."),
            click.option("--ca-file", metavar="FILE", type=click.Path(path_type=Path),
                         help="Trust these authorities for TLS."),
            click.option("--client-cert", metavar="FILE", type=click.Path(path_type=Path),
                         help="Show this certificate to the origins that the sources name."),
            click.option("--client-key", metavar="FILE", type=click.Path(path_type=Path),
                         help="Its key, when that is not in the same file."),
            click.option("--proxy", metavar="URL",
                         help="Ask origins through this HTTP proxy; env: through those that the environment names."),
            click.option("--platform", metavar="OS/ARCH[/VARIANT]",
                         help="Which image of an index (oci://): this machine's if not said."),
            click.option("--plain-http", is_flag=True,
                         help="Ask registries on other hosts, too, without TLS."),
            click.option("--offline", is_flag=True, help="Never touch the network: serve what the store has."),
            click.option("--read-timeout", type=Seconds(), default=60.0, metavar="SECONDS",
                         help="A read that cannot be served by then fails with EIO (0: wait for ever)."),
            click.option("--revalidate", type=Seconds("never"), default=60.0, metavar="SECONDS",
                         help="Ask again after that whether a name has changed (0: at each open; or never)."),
            click.option("--hedge", type=click.FloatRange(0, 100), default=3.0, metavar="PERCENT",
                         help="Requests that may be sent a second time when they are slow."),
        )
    ):  # fmt: skip
        function = option(function)
    return _store_option(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="lazyfs %(version)s")
def commands() -> None:
    """Mount files from HTTP servers. Only what is read is fetched, once for every process on the host."""


@commands.command()
@_fetching_options
@click.option("--foreground", "-f", is_flag=True, help="Stay, and log to stderr.")
@click.option("--allow-other", is_flag=True, help="Let other users read the mount.")
@click.option("--scrub", "scrub_rate", type=Size(), default="4M", metavar="SIZE",
              help="Bytes a second at which blobs that nobody has open are checked (0: not at all).")  # fmt: skip
@click.option("--passthrough/--no-passthrough", default=True,
              help="Have the kernel read what is whole straight from the store, where it can.")  # fmt: skip
@click.option("--takeover/--no-takeover", default=True,
              help="Have the next daemon take the mount over when one dies or hangs.")  # fmt: skip
@click.option("--profile", "profiles", metavar="FILE|URL", multiple=True,
              help="Take this boot profile in: what it names is fetched in front of who reads.")  # fmt: skip
@click.option("--no-profile", is_flag=True, help="Neither record what is read first, nor fetch what was.")
@click.option("--metrics", type=Address(), metavar="[ADDR:]PORT",
              help="Serve metrics for Prometheus there, on loopback if no address is said (port 0: any).")  # fmt: skip
@click.option("--user", "--run-as", "user", metavar="NAME",
              help="Have the daemon run as this user, who owns the store (for root).")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="What lines of the log are.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              help="What is logged: this, and what is worse.")  # fmt: skip
@click.option("-o", "mount_options", multiple=True, metavar="OPTS", help="Options for FUSE, with commas between them.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("mountpoint", type=Mountpoint())
def mount(sources: tuple[str, ...], mountpoint: Path, **options: Any) -> None:
    """Mount SOURCE... at MOUNTPOINT, read-only.

    Returns when the mount answers; its daemon goes on in the background. SOURCE is a file's URL or NAME=URL, a
    directory index (a URL that ends in a slash), a manifest (FILE.toml, FILE.jsonl, or its URL), or an image in a
    registry (oci://HOST/REPO:TAG).

    \b
    lazyfs mount https://example.org/disk.img /mnt/x
    lazyfs mount https://example.org/images/ /mnt/images
    """
    from lazyfs.cli import mounting
    from lazyfs.cli.settings import settings_of

    fuse_options = {word for text in options["mount_options"] for word in text.split(",") if word}
    if refused := sorted(fuse_options & {"rw", "suid", "dev"}):
        raise click.BadParameter(f"{refused[0]}: a mount is always ro,nosuid,nodev", param_hint="'-o'")
    if ours := sorted({"fsname", "max_read", "subtype"} & {word.partition("=")[0] for word in fuse_options}):
        raise click.BadParameter(f"{ours[0]} is lazyfs's own to set", param_hint="'-o'")
    if options["allow_other"]:
        fuse_options.add("allow_other")
    if options["user"] is not None:
        _go_home_of(options["user"])
    settings = settings_of(_store_path(options["store"]), sources, options)
    if options["no_profile"] and options["profiles"]:
        raise click.UsageError("--profile is of no use with --no-profile")
    watch = WatchOptions(options["metrics"], options["log_format"] == "json", options["log_level"])
    of_mounts = {name: options[name] for name in ("scrub_rate", "passthrough", "takeover", "user")}
    profiles = tuple(map(mounting.profile_place, options["profiles"]))
    settings = replace(settings, watch=watch, profile=not options["no_profile"], profiles=profiles, **of_mounts)
    mounting.mount(sources, mountpoint, settings, frozenset(fuse_options), foreground=options["foreground"])


@commands.command()
@click.option("--lazy", "-l", is_flag=True, help="Detach it at once; its daemon ends with the last reader.")
@click.argument("mountpoint", type=Mountpoint())
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT, also when its daemon is dead."""
    from lazyfs.cli import mounting

    mounting.unmount(mountpoint, lazy=lazy)


@commands.command()
@click.option("--all", "all_of_them", is_flag=True, help="All mounts of lazyfs on this host.")
@click.argument("mountpoints", nargs=-1, type=Mountpoint(), metavar="MOUNTPOINT...")
def upgrade(mountpoints: tuple[Path, ...], all_of_them: bool) -> None:
    """Have the lazyfs that is installed now take over running mounts.

    Who reads there sees a short pause. A mount whose new daemon does not get ready goes on with the old one.
    """
    from lazyfs.cli import upgrading

    upgrading.upgrade(mountpoints, all_of_them=all_of_them)


@commands.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
def add(mountpoint: Path, sources: tuple[str, ...]) -> None:
    """Add SOURCE... to a running mount."""
    from lazyfs.cli import mounting

    mounting.add(mountpoint, sources)


@commands.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def remove(mountpoint: Path, paths: tuple[str, ...]) -> None:
    """Remove names from a running mount.

    PATH is relative to the mountpoint. Who has a file open reads on.
    """
    from lazyfs.cli import mounting

    mounting.remove(mountpoint, paths)


@commands.command()
@_fetching_options
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
    settings = settings_of(_store_path(options["store"]), sources, options)
    fetching.fetch(sources, settings, output, digest)


@commands.command()
@_store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, one a line.")
@click.option("--watch", is_flag=True, help="Go on, and show what happens in each second.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), metavar="SECONDS",
              help="How often, with --watch; 1 if not said.")  # fmt: skip
@click.option("--why", is_flag=True, help="Show what was fetched last, and what for.")
@click.argument("mountpoint", required=False, type=Mountpoint())
def status(
    mountpoint: Path | None, store: Path | None, as_json: bool, watch: bool, interval: float | None, why: bool
) -> None:
    """Show the store and its mounts, or one mount."""
    if interval is not None and not watch:
        raise click.UsageError("--interval is of use only with --watch")
    if why and watch:
        raise click.UsageError("--why goes without --watch")
    if why:
        from lazyfs.cli import reasons

        reasons.show(mountpoint, _store_path(store), as_json=as_json)
    elif watch:
        from lazyfs.cli import watching

        watching.watch(mountpoint, _store_path(store), interval or 1.0, as_json=as_json)
    else:
        from lazyfs.cli import showing

        showing.status(mountpoint, _store_path(store), as_json=as_json)


@commands.command("ls")
@_store_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_blobs(store: Path | None, as_json: bool) -> None:
    """List the blobs in the store."""
    from lazyfs.cli import showing

    showing.list_blobs(_store_path(store), as_json=as_json)


@commands.command()
@_store_option
@click.option("--max-cache", type=Size(), metavar="SIZE", help="Come within this bound, for once (0: keep nothing).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gc(store: Path | None, max_cache: int | None, as_json: bool) -> None:
    """Remove what is of no use, then evict down to the store's bound.

    Of no use are old versions of a URL that no mount shows any longer, blobs that the catalogue has lost, what killed
    processes left, and what is known of names that nobody asked for in 90 days. Blobs that are pinned stay whole. Those
    in use are not removed, but blocks of them may be evicted. Exit status 1: the bound is out of reach.
    """
    from lazyfs.cli import collecting

    collecting.collect(_store_path(store), max_cache, as_json=as_json)


@commands.command()
@_store_option
@click.argument("blobs", nargs=-1, required=True, metavar="BLOB|URL...")
def rm(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Remove blobs from the store.

    BLOB is an id, or as much of it as ls shows; a URL means all its versions. What is in use or pinned is refused.
    """
    from lazyfs.cli import keeping

    keeping.remove_blobs(blobs, _store_path(store))


@commands.command()
@_store_option
@click.argument("blobs", nargs=-1, required=True, metavar="PATH|BLOB|URL...")
def pin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Keep blobs from eviction and removal.

    What of them is in the store stays, and so does what comes in later; nothing is fetched now. PATH is a file under a
    mount, BLOB as for rm.
    """
    from lazyfs.cli import keeping

    keeping.pin(blobs, _store_path(store))


@commands.command()
@_store_option
@click.argument("blobs", nargs=-1, required=True, metavar="PATH|BLOB|URL...")
def unpin(store: Path | None, blobs: tuple[str, ...]) -> None:
    """Let blobs be evicted and removed again."""
    from lazyfs.cli import keeping

    keeping.unpin(blobs, _store_path(store))


@commands.group()
def profile() -> None:
    """Boot profiles: which parts of a blob are read first, recorded by mounts, and fetched ahead at the next time.

    PATH is a file under a mount, BLOB an id, or as much of it as ls shows.
    """


@profile.command("show")
@_store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("blob", metavar="PATH|BLOB")
def show_profile(store: Path | None, blob: str, as_json: bool) -> None:
    """Show the profile of a blob."""
    from lazyfs.cli import profiling

    profiling.show(blob, _store_path(store), as_json=as_json)


@profile.command("export")
@_store_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write it there, not to stdout.")  # fmt: skip
@click.argument("blob", metavar="PATH|BLOB")
def export_profile(store: Path | None, blob: str, output: Path | None) -> None:
    """Write the profile of a blob down, for other hosts."""
    from lazyfs.cli import profiling

    profiling.export(blob, _store_path(store), output)


@profile.command("import")
@_store_option
@click.argument("file", type=click.Path(path_type=Path))
def import_profile(store: Path | None, file: Path) -> None:
    """Take a profile from elsewhere into the store."""
    from lazyfs.cli import profiling

    profiling.take_in(file, _store_path(store))


@commands.command()
@_store_option
@click.option("--repair", is_flag=True, help="Drop what is damaged: it is fetched again when it is read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fsck(store: Path | None, repair: bool, as_json: bool) -> int:
    """Check the store, and every block in it.

    Mounts may go on meanwhile. Each line says what is not as it should be: damaged, mended, or left over by a process
    that was killed, which hurts nobody. Ends with 1 when there is damage, and with 0 when the store is sound, with
    --repair when it is sound afterwards.
    """
    from lazyfs.cli import checking

    return checking.fsck(_store_path(store), repair=repair, as_json=as_json)


@commands.command()
@click.option("--force", is_flag=True, help="Replace IMAGE if it is there.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("image", type=click.Path(path_type=Path))
def pack(directory: Path, image: Path, force: bool) -> None:
    """Make an EROFS image of the directory DIR, with mkfs.erofs.

    It keeps names, modes, owners, times, hard links, devices and attributes. It is not compressed, and is made to be
    served and mounted lazily. The same tree gives the same image.
    """
    from lazyfs.cli import packing

    packing.pack(directory, image, force=force)


@commands.command("install-units")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Put it below DIR, as if that were /.",
)
@click.option("--print", "dry", is_flag=True, help="Only say what would be done.")
@click.option("--remove", "away", is_flag=True, help="Remove it again.")
def install_units(root: Path, dry: bool, away: bool) -> None:  # fmt: skip
    """Have mount(8), /etc/fstab and systemd know lazyfs.

    Puts links to mount.lazyfs where mount(8) looks for it, and the service template lazyfs@.service where systemd
    does. What is there already and not of lazyfs's making is left alone.
    """
    from lazyfs.cli import units

    (units.remove if away else units.install)(root.absolute(), dry=dry)


@commands.command()
def demo() -> None:
    """Show the main job, with an origin of its own.

    It mounts a file, lists it, reads a part of it and then all of it, mounts it again on the same store, stops the
    origin, reads once more, and unmounts. What it made is gone afterwards.
    """
    from lazyfs.cli import demo

    demo.run()


def _go_home_of(name: str) -> None:
    """Have `~` in what follows mean the home of the user that the daemon runs as. *Raises*: click.BadParameter."""
    from lazyfs import privileges

    try:
        user = privileges.user_called(name)
    except UsageError as exc:
        raise click.BadParameter(str(exc), param_hint="'--user'") from None
    if os.geteuid() != 0:
        raise click.BadParameter("only root can run a daemon as another user", param_hint="'--user'")
    os.environ["HOME"] = user.home
    for name in [name for name in os.environ if name.startswith("XDG_")]:  # directories of who has called
        del os.environ[name]


def _store_path(given: Path | None) -> Path:
    """Return the store's absolute path, given, or the default."""
    return (given or default_path()).expanduser().absolute()
