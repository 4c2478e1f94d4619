"""A virtual machine in software emulation, booted from a disk until its init says so; it ends in every case.

What it writes goes to a qcow2 overlay, for which the disk is the backing file: nothing ever writes to that.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mounts import PATIENCE, Words, run

MARKER: Final = "lazyfs-booted"
"""What the init of every machine here prints when it is up; then it powers the machine off."""

LIMIT: Final = 300.0
"""Seconds for a boot."""

SHOWN: Final = 2000
"""Characters of the console's end that an error shows."""


class NotBooted(Exception):
    """The machine did not come up; the message has the end of what its console said."""


@dataclass(frozen=True)
class Machine:
    """What is booted: paths of a kernel, perhaps of an initrd, and of a disk, whose `form` is raw or qcow2.

    `device` is what QEMU shows the disk as, and `root` what the kernel then calls it; `written` says whether it may be.
    """

    kernel: str | Path
    disk: str | Path
    form: str = "raw"
    initrd: str | Path | None = None
    device: str = "virtio-blk-pci"
    root: str = "/dev/vda"
    written: bool = True


def boot(machine: Machine, overlay: Path, within: float = LIMIT) -> float:
    """Boot it once, with a new overlay, and wait until it is off; return the seconds until it was up.

    *Raises*: NotBooted; OSError.
    """
    overlay.unlink(missing_ok=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", machine.form, "-b", machine.disk, overlay])
    began, said, up = time.monotonic(), bytearray(), None
    process = subprocess.Popen(
        _words(machine, overlay), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        while select.select([process.stdout], [], [], max(0.0, began + within - time.monotonic()))[0]:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            said += piece
            if up is None and MARKER.encode() in said:
                up = time.monotonic() - began
        off = process.wait(max(0.1, began + within - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        off = False
    finally:
        process.stdout.close()
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a mount, and ends with that
            process.wait(PATIENCE)
    if up is None or not off:
        raise NotBooted(f"not up and off again within {within:.0f} s: {said.decode(errors='replace')[-SHOWN:]!r}")
    return up


def _words(machine: Machine, overlay: Path) -> Words:
    words: list[str | Path] = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-no-reboot", "-nic", "none"]
    words += ["-display", "none", "-monitor", "none", "-serial", "stdio"]
    words += ["-kernel", machine.kernel, *(["-initrd", machine.initrd] if machine.initrd else [])]
    mode = "rw" if machine.written else "ro"
    words += ["-append", f"root={machine.root} {mode} console=ttyS0 panic=-1 quiet"]
    words += ["-drive", f"if=none,id=disk,format=qcow2,file={overlay}"]
    return [*words, "-device", f"{machine.device},drive=disk,serial=disk"]
