"""mount, umount, upgrade, add, remove: what becomes of mounts."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from lazyfs.cli.commands.helping import Command, Option
from lazyfs.cli.commands.options import fetching_options, json_option, store_path
from lazyfs.cli.values import Address, Mountpoint, Size, Word
from lazyfs.errors import UsageError
from lazyfs.options import WatchOptions

mount_option, way_option, watch_option = (
    partial(click.option, cls=Option, group=group) for group in ("The mount", "How it serves", "Watching it")
)


@click.command(cls=Command)
@mount_option("--foreground", "-f", is_flag=True, help="Stay, and log to stderr.")
@mount_option("--allow-other", is_flag=True, help="Let other users read the mount.")
@mount_option("--user", "--run-as", "user", metavar="NAME",
              help="Have the daemon run as this user, who owns the store (for root).")  # fmt: skip
@mount_option("-o", "mount_options", multiple=True, metavar="OPTS", help="Options for FUSE, with commas between them.")
@fetching_options
@way_option("--profile", "profiles", metavar="FILE|URL", multiple=True,
            help="Take this boot profile in: what it names is fetched in front of who reads.")  # fmt: skip
@way_option("--no-profile", is_flag=True, help="Neither record what is read first, nor fetch what was.")
@way_option("--scrub", "scrub_rate", type=Size(), default="4M", metavar="SIZE",
            help="Bytes a second at which blobs that nobody has open are checked; 4M if not said (0: not at all).",
            )  # fmt: skip
@way_option("--passthrough/--no-passthrough", default=True,
            help="Have the kernel read what is whole straight from the store, where it can.")  # fmt: skip
@way_option("--takeover/--no-takeover", default=True,
            help="Have the next daemon take the mount over when one dies or hangs.")  # fmt: skip
@watch_option("--metrics", type=Address(), metavar="[ADDR:]PORT",
              help="Serve metrics and a page there; on loopback if no address is said (port 0: any).")  # fmt: skip
@watch_option("--log-format", type=click.Choice(["text", "json"]), default="text", help="What lines of the log are.")
@watch_option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              help="What is logged: this, and what is worse; info if not said.")  # fmt: skip
@click.argument("sources", nargs=-1, required=True, type=Word("path"), metavar="SOURCE...")
@click.argument("mountpoint", type=Mountpoint())
def mount(sources: tuple[str, ...], mountpoint: Path, **options: Any) -> None:
    """Mount sources at a directory, read-only.

    It returns when the mount answers; a daemon goes on in the background. A mount that fails leaves nothing mounted.
    MOUNTPOINT is a directory that is there. A SOURCE is one of

    \b
      URL                      one file, called what the URL ends in
      URL/                     what the index there lists, to any depth
      FILE.jsonl, FILE.toml    what a manifest lists; its URL will do, too
      oci://HOST/REPO:TAG      an image in a registry, or REPO@sha256:HEX
      BLOB                     a blob of the store, as lazyfs ls shows it
      PATH                     the blob of a file under another mount

    NAME=SOURCE gives it the name NAME.

    \b
    Examples:
      lazyfs mount https://example.org/disk.img /mnt/x
      lazyfs mount --max-cache 20G https://example.org/images/ /mnt/images
      lazyfs mount oci://docker.io/debian:stable /mnt/debian
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
    """Unmount a mount, also when its daemon is dead.

    It returns when the daemon has ended, so nothing uses the store any longer. A mount that is busy is left as it is,
    and the line says who keeps it so.

    \b
    Examples:
      lazyfs umount /mnt/x
      lazyfs umount --lazy /mnt/x      detach it now, whoever reads there
    """
    from lazyfs.cli import mounting

    mounting.unmount(mountpoint, lazy=lazy)


@click.command()
@click.option("--all", "all_of_them", is_flag=True, help="All mounts of lazyfs on this host.")
@json_option("a list of objects, one for each mount that was upgraded")
@click.argument("mountpoints", nargs=-1, type=Mountpoint(), metavar="MOUNTPOINT...")
def upgrade(mountpoints: tuple[Path, ...], all_of_them: bool, as_json: bool) -> None:
    """Have the lazyfs that is installed now take over mounts.

    Who reads there sees a short pause. A mount whose new daemon does not get ready goes on with the old one. Exit
    status 1: not all of them were upgraded.

    \b
    Examples:
      lazyfs upgrade --all
      lazyfs upgrade /mnt/x
    """
    from lazyfs.cli import upgrading

    upgrading.upgrade(mountpoints, all_of_them=all_of_them, as_json=as_json)


@click.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("sources", nargs=-1, required=True, type=Word("path"), metavar="SOURCE...")
def add(mountpoint: Path, sources: tuple[str, ...]) -> None:
    """Add sources to a running mount.

    SOURCE is as for lazyfs mount.

    \b
    Examples:
      lazyfs add /mnt/x https://example.org/other.img
      lazyfs add /mnt/x vm/root.img=https://example.org/root.img
    """
    from lazyfs.cli import mounting

    mounting.add(mountpoint, sources)


@click.command()
@click.argument("mountpoint", type=Mountpoint())
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def remove(mountpoint: Path, paths: tuple[str, ...]) -> None:
    """Remove names from a running mount.

    PATH is relative to MOUNTPOINT. Who has a file open reads on, and nothing is removed from the store.

    \b
    Examples:
      lazyfs remove /mnt/x other.img vm/root.img
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
