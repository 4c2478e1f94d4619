"""A Debian as one installs it, on a disk to boot from: made by mmdebstrap from the archives that apt knows here.

Its packages are Debian's standard ones, OpenSSH, Python and the kernel for clouds, some 550 MB of which a boot reads a
part. systemd is its init: what it reads, and in which order, is what most machines read. In software emulation it is up
after some 20 s. The disk is an ext4 without partitions and has a quarter more room than is used.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from tests.boot.qemu import MARKER
from tests.mounts import run

PACKAGES: Final = "systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,openssh-server,python3,curl"

KERNEL, INITRD, RAW, QCOW2 = "vmlinuz", "initrd.img", "debian.raw", "debian.qcow2"

_UNIT: Final = f"""[Unit]
Description=Say that the machine is up, and power it off
After=multi-user.target

[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/console
ExecStart=/bin/echo {MARKER}
ExecStartPost=/bin/systemctl --no-block --force poweroff

[Install]
WantedBy=graphical.target
"""

_PATIENCE: Final = 1200.0
"""Seconds for mmdebstrap, which takes one here where the archive is near."""


@dataclass(frozen=True)
class Debian:
    """What was made: a directory to be served, with a kernel, an initrd and the disk in two forms."""

    served: Path

    def path(self, name: str) -> Path:
        """Return the path of one of them."""
        return self.served / name

    def size(self, disk: str) -> int:
        """Return the bytes of a disk with what is needed to boot from it: what there is to download."""
        return sum(self.path(name).stat().st_size for name in (KERNEL, INITRD, disk))


def debian(directory: Path, variant: str) -> Debian:
    """Return the Debian in a directory; the first time it is made there."""
    served = directory / f"debian-{variant}"
    if not served.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=directory) as work:
            _make(Path(work), variant)
            (Path(work) / "served").rename(served)
    return Debian(served)


def _make(work: Path, variant: str) -> None:
    """Make all of it in `served` there."""
    tree, served, sources = work / "tree", work / "served", work / "sources"
    served.mkdir()
    sources.write_text(apt_sources())
    options = [f"--variant={variant}", f"--include={PACKAGES}", "--mode=root"]
    run(["mmdebstrap", *options, release(), tree, sources], _PATIENCE)
    unit = tree / "etc/systemd/system/booted.service"
    unit.write_text(_UNIT)
    run(["systemctl", "--root", tree, "enable", unit.name])
    (tree / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    for name in (KERNEL, INITRD):
        (found,) = (tree / "boot").glob(f"{name}-*")
        shutil.copy(found, served / name)
    used = int(run(["du", "-s", "--block-size=1M", tree]).stdout.split()[0])
    run(["mkfs.ext4", "-q", "-d", tree, served / RAW, f"{used * 5 // 4}M"], _PATIENCE)
    run(["qemu-img", "convert", "-O", "qcow2", served / RAW, served / QCOW2], _PATIENCE)
    shutil.rmtree(tree)


def apt_sources() -> str:
    """Return apt's sources of Debian itself, in the form of one line each."""
    line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    found = run(["apt-get", "indextargets", "--format", line, "Created-By: Packages", "Origin: Debian"]).stdout
    assert found, "apt has no source of Debian, or was never updated: apt-get update"
    return found


def release() -> str:
    """Return what this Debian calls itself; that is what is made, too."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME="))


def default_directory() -> Path:
    """Return where it is kept if nobody says where: in the user's cache directory."""
    return platformdirs.user_cache_path("lazyfs-boot")
