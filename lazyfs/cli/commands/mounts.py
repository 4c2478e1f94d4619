"""mount, umount, upgrade, add, remove: what becomes of mounts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lazyfs.cli.commands.options import fetching_options, store_path
from lazyfs.cli.values import Address, Mountpoint, Size, Word
from lazyfs.errors import UsageError
from lazyfs.options import WatchOptions


@click.command()
@fetching_options
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
@click.argument("sources", nargs=-1, required=True, type=Word("path"), metavar="SOURCE...")
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
    settings = settings_of(store_path(options["store"]), sources, options)
    if options["no_profile"] and options["profiles"]:
        raise click.UsageError("--profile is of no use with --no-profile")
    watch = WatchOptions(options["metrics"], options["log_format"] == "json", options["log_level"])
    of_mounts = {name: options[name] for name in ("scrub_rate", "passthrough", "takeover", "user")}
    profiles = tuple(map(mounting.profile_place, options["profiles"]))
    settings = replace(settings, watch=watch, profile=not options["no_profile"], profiles=profiles, **of_mounts)
    mounting.mount(sources, mountpoint, settings, frozenset(fuse_options), foreground=options["foreground"])


@click.command()
@click.option("--lazy", "-l", is_flag=True, help="Detach it at once; its daemon ends with the last reader.")
@click.argument("mountpoint", type=Mountpoint())
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT, also when its daemon is dead."""
    from lazyfs.cli import mounting

    mounting.unmount(mountpoint, lazy=lazy)


@click.command()
@click.option("--all", "all_of_them", is_flag=True, help="All mounts of lazyfs on this host.")
@click.argument("mountpoints", nargs=-1, type=Mountpoint(), metavar="MOUNTPOINT...")
def upgrade(mountpoints: tuple[Path, ...], all_of_them: bool) -> None:
    """Have the lazyfs that is installed now take over running mounts.

    Who reads there sees a short pause. A mount whose new daemon does not get ready goes on with the old one.
    """
    from lazyfs.cli import upgrading

    upgrading.upgrade(mountpoints, all_of_them=all_of_them)


@click.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("sources", nargs=-1, required=True, type=Word("path"), metavar="SOURCE...")
def add(mountpoint: Path, sources: tuple[str, ...]) -> None:
    """Add SOURCE... to a running mount."""
    from lazyfs.cli import mounting

    mounting.add(mountpoint, sources)


@click.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def remove(mountpoint: Path, paths: tuple[str, ...]) -> None:
    """Remove names from a running mount.

    PATH is relative to the mountpoint. Who has a file open reads on.
    """
    from lazyfs.cli import mounting

    mounting.remove(mountpoint, paths)


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
