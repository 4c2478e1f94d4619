"""The commands and their options; what they do is in the modules of `lazyfs.cli`, imported when a command runs."""

from __future__ import annotations

import click

from lazyfs import __version__
from lazyfs.cli.commands import blobs, hosts, mounts, stores


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="lazyfs %(version)s")
def commands() -> None:
    """Mount files from HTTP servers. Only what is read is fetched, once for every process on the host."""


for command in (
    mounts.mount,
    mounts.umount,
    mounts.upgrade,
    mounts.add,
    mounts.remove,
    blobs.fetch,
    stores.status,
    blobs.list_blobs,
    stores.gc,
    blobs.rm,
    blobs.pin,
    blobs.unpin,
    blobs.profile,
    stores.fsck,
    hosts.doctor,
    hosts.pack,
    hosts.install_units,
    hosts.config,
    hosts.completion,
    hosts.demo,
):
    commands.add_command(command)
