"""A small system to boot: busybox and the modules of Debian's kernel for clouds, which mounts its root by itself.

That kernel has NVMe and ext4 built in, so there is no initrd; its modules are what is on the disk and not read.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from tests.boot.qemu import MARKER, Machine
from tests.mounts import run

KERNEL: Final = "linux-image-cloud-amd64"
"""Debian's package that depends on the kernel of the day."""

KERNEL_FILE, DISK_FILE = "vmlinuz", "disk.ext4"

_INIT: Final = f"""#!/bin/busybox sh
sums=$(/bin/busybox sha256sum /lib/modules/*/kernel/drivers/virtio/*)
/bin/busybox test -n "$sums" && echo {MARKER}
/bin/busybox mount -t proc none /proc
echo b >/proc/sysrq-trigger
"""
"""It writes nothing, and ends at once, by a reset: what a machine syncs and when differs from one time to the next, and
may need of the disk what was never read before."""

_DOWNLOADS: Final = 60.0
"""Seconds for apt-get to fetch 27 MB."""


def kernel_package(directory: Path) -> Path | None:
    """Return the package with Debian's kernel of the day; apt-get fetches it, unless the directory has it.

    None where apt knows no such kernel.
    """
    if shutil.which("apt-get") is None:
        return None
    depends = run(["apt-cache", "show", "--no-all-versions", KERNEL], check=False).stdout
    found = re.search(r"^Depends: (linux-image-\S+)", depends, re.MULTILINE)
    if found is None:
        return None
    if not any(directory.glob(f"{found[1]}_*.deb")):
        run(["env", "-C", directory, "apt-get", "download", "-q", found[1]], _DOWNLOADS)
    (package,) = directory.glob(f"{found[1]}_*.deb")
    return package


def make(package: Path, work: Path, served: Path) -> None:
    """Make the kernel and the disk in `served`."""
    run(["dpkg-deb", "-x", package, work])
    (kernel,) = (work / "boot").glob("vmlinuz-*")
    kernel.rename(served / KERNEL_FILE)
    for name in ("bin", "dev", "proc", "sbin"):
        (work / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is not installed; tools/test installs it"
    shutil.copy(busybox, work / "bin" / "busybox")
    (work / "sbin" / "init").write_text(_INIT)
    (work / "sbin" / "init").chmod(0o755)
    run(["mkfs.ext4", "-q", "-d", work, served / DISK_FILE, "160M"])


def machine(mount: str) -> Machine:
    """Return the machine whose kernel and disk are in a directory."""
    return Machine(f"{mount}/{KERNEL_FILE}", f"{mount}/{DISK_FILE}", device="nvme", root="/dev/nvme0n1", written=False)
