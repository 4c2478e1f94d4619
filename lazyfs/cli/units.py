"""install-units: what mount(8) and systemd need to know lazyfs; puts it into place, shows it, or removes it again.

    /usr/sbin/mount.lazyfs, mount.fuse.lazyfs    links to our mount.lazyfs: mount(8) looks for its helpers there
    /etc/systemd/system/lazyfs@.service          a service for each mount that /etc/lazyfs/NAME.conf describes
    /etc/lazyfs/                                 the place for those; what is in it is the user's, and stays

Nothing that is not ours is overwritten or removed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from lazyfs.errors import LazyfsError, UsageError

HELPERS: Final = ("mount.lazyfs", "mount.fuse.lazyfs")
"""Names for the type as one writes it, and as the kernel's table has it."""

UNIT: Final = "etc/systemd/system/lazyfs@.service"
CONFIGURATION: Final = "etc/lazyfs"

MARK: Final = "# Made by lazyfs install-units"
"""How our unit begins."""

TEMPLATE: Final = (
    MARK
    + """, which writes it anew. For changes of your own: systemctl edit lazyfs@.service
#
# lazyfs@NAME.service is the mount that /etc/lazyfs/NAME.conf describes:
#
#     MOUNTPOINT=/mnt/images
#     SOURCES=https://example.org/images/
#     OPTIONS=--max-cache 20G --allow-other

[Unit]
Description=lazyfs mount %i
Wants=network-online.target
After=network-online.target
Before=remote-fs.target
# An origin that is not there yet is tried until it is.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=all
EnvironmentFile=/etc/lazyfs/%i.conf
ExecStart={lazyfs} mount --foreground $OPTIONS -- $SOURCES ${{MOUNTPOINT}}
# Only a daemon that was killed leaves anything to unmount.
ExecStopPost=-{lazyfs} umount --lazy ${{MOUNTPOINT}}
Restart=on-failure
RestartSec=5
# 2: wrongly called, which trying again does not mend.
RestartPreventExitStatus=2
KillMode=mixed
# Readers have 5 s to finish.
TimeoutStopSec=20
LimitNOFILE=524288
LimitCORE=0

# Others must see the mount. So nothing here gives the service a view of its own of the file systems, as
# ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices=, ProtectKernelModules= and many more would.
NoNewPrivileges=yes
# To mount, and to come to the store and its user; the daemon itself then keeps none of them.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_SETPCAP CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SETUID CAP_SETGID CAP_KILL
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=remote-fs.target
"""
)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be at a path: a link, a file with this text, or, with neither, a directory."""

    path: Path
    link: Path | None = None
    text: str | None = None

    def is_there(self) -> bool:
        """Say whether it is there, just so."""
        if self.link is not None:
            return self.path.is_symlink() and self.path.readlink() == self.link
        if self.text is not None:
            return self.path.is_file() and self.is_ours() and self.path.read_text(errors="replace") == self.text
        return self.path.is_dir()

    def is_ours(self) -> bool:
        """Say whether what is there may be replaced or removed: an older one of ours."""
        if self.link is not None:
            return self.path.is_symlink() and self.path.readlink().name == self.link.name
        if self.text is not None:
            return not self.path.is_symlink() and self.path.read_text(errors="replace").startswith(MARK)
        return self.path.is_dir()

    def put(self) -> None:
        """Put it there, in one step: nobody finds half of it. *Raises*: OSError."""
        if self.link is None and self.text is None:
            self.path.mkdir(parents=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        if self.link is not None:
            new.symlink_to(self.link)
        elif self.text is not None:
            new.write_text(self.text)
            new.chmod(0o644)
        new.replace(self.path)

    def remove(self) -> None:
        """Remove it. *Raises*: OSError."""
        if self.link is None and self.text is None:
            self.path.rmdir()
        else:
            self.path.unlink()

    def __str__(self) -> str:
        return f"{self.path} -> {self.link}" if self.link else f"{self.path}{'' if self.text else '/'}"


def install(root: Path, *, dry: bool) -> None:
    """Put all of it into place below `root`, and say so; `dry` only says. *Raises*: LazyfsError."""
    pieces = _pieces(root)
    for piece in pieces:
        with _explained(piece):
            if os.path.lexists(piece.path) and not piece.is_ours():
                raise UsageError(f"{piece.path} is there, and not of lazyfs's making; move it away first")
    for piece in pieces:
        with _explained(piece):
            if piece.is_there():
                click.echo(f"there already: {piece}")
                continue
            if not dry:
                piece.put()
        click.echo(f"{'would make' if dry else 'made'} {piece}")
        if dry and piece.text is not None:
            click.echo("\n".join(f"    {line}".rstrip() for line in piece.text.splitlines()))
    if not dry:
        click.echo("now: systemctl daemon-reload")
        click.echo(f"then describe each mount in {root / CONFIGURATION}/NAME.conf, as the unit says, and: ", nl=False)
        click.echo("systemctl enable --now lazyfs@NAME")
        click.echo("or write lines of the type lazyfs into /etc/fstab")


def remove(root: Path, *, dry: bool) -> None:
    """Remove what `install` made, but for a directory that the user has put something into. *Raises*: LazyfsError."""
    found = False
    for piece in _pieces(root):
        with _explained(piece):
            if not os.path.lexists(piece.path) or not piece.is_ours():
                continue
            if piece.path.is_dir() and any(piece.path.iterdir()) and not piece.link:
                click.echo(f"left: {piece}, which has something in it")
                continue
            found = True
            if not dry:
                piece.remove()
        click.echo(f"{'would remove' if dry else 'removed'} {piece.path}")
    if not found:
        click.echo("there is nothing to remove")
    elif not dry:
        click.echo("now: systemctl daemon-reload")


@contextlib.contextmanager
def _explained(piece: Piece) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise LazyfsError(f"{piece.path}: {exc.strerror}; it takes root, or --root DIR with a DIR of yours") from exc
    except OSError as exc:
        raise LazyfsError(f"{piece.path}: {exc.strerror or exc}") from exc


def _pieces(root: Path) -> list[Piece]:
    """Return what there is to install. *Raises*: LazyfsError."""
    apart = (root / "sbin").is_dir() and not (root / "sbin").is_symlink()  # from /usr/sbin, as it once was everywhere
    place = root / ("sbin" if apart else "usr/sbin")
    unit = TEMPLATE.format(lazyfs=shlex.quote(str(_command("lazyfs"))))
    return [
        *(Piece(place / helper, link=_command("mount.lazyfs")) for helper in HELPERS),
        Piece(root / UNIT, text=unit),
        Piece(root / CONFIGURATION),
    ]


def _command(name: str) -> Path:
    """Return where a command of this installation is: beside the one that runs. *Raises*: LazyfsError."""
    for directory in (Path(sys.argv[0]).absolute().parent, Path(sysconfig.get_path("scripts"))):
        if (directory / name).is_file() and os.access(directory / name, os.X_OK):
            return directory / name
    raise LazyfsError(f"the command {name} is not beside this one; install the package again, with pip")
