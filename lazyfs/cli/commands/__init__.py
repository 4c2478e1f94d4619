"""The commands and their options; what they do is in the modules of `lazyfs.cli`, imported when a command runs."""

from __future__ import annotations

import click

from lazyfs import __version__
from lazyfs.cli.commands import blobs, hosts, mounts, stores
from lazyfs.cli.commands.helping import Group

AFTER_ALL = """
\b
Exit status:
  0    done
  1    failed, which one line on stderr explains; for fsck: there is damage
  2    wrongly called
  130  interrupted

\b
Environment:
  LAZYFS_STORE        the store, where --store does not say
  LAZYFS_TRACEBACK=1  show where a defect of lazyfs itself was met
  NO_COLOR=1          no colours, even on a terminal
"""


@click.group(
    cls=Group,
    epilog=AFTER_ALL,
    context_settings={"help_option_names": ["-h", "--help"]},
    sections={
        "Mounts": (mounts.mount, mounts.umount, mounts.add, mounts.remove, mounts.upgrade),
        "What is in the store": (
            blobs.fetch,
            blobs.list_blobs,
            blobs.show_map,
            blobs.pin,
            blobs.unpin,
            blobs.rm,
            blobs.profile,
        ),
        "The store": (stores.status, stores.gc, stores.fsck),
        "This host": (
            hosts.doctor,
            hosts.config,
            hosts.demo,
            hosts.pack,
            hosts.install_units,
            hosts.completion,
        ),  # fmt: skip,
    },
)
@click.version_option(__version__, "-V", "--version", message="lazyfs %(version)s")
def commands() -> None:
    """Mount files from HTTP servers: only what is read is fetched, once for every process on the host.

    \b
    Examples:
      lazyfs mount https://example.org/images/ /mnt/x
      lazyfs status             what the mounts are doing
      lazyfs umount /mnt/x
      lazyfs mount --help       each command has examples
    """
