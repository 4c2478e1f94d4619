"""File systems on images for tests: mounted by loop or from the file itself, and overlays on top of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.mounts import on_mount, run
from tests.outlive import loads


@contextlib.contextmanager
def mounted(kind: str, source: str | Path, at: Path, *options: str) -> Iterator[Path]:
    """Mount something at a new directory, and unmount it at the end; a loop device goes with its mount."""
    at.mkdir()
    run(["mount", "-t", kind, "-o", ",".join(options), source, at])
    try:
        yield at
    finally:
        run(["umount", at])


@contextlib.contextmanager
def mounted_image(kind: str, image: str | Path, at: Path, *, loop: bool = True) -> Iterator[Path]:
    """Mount an image at a new directory, and unmount it at the end; without `loop`, from the file itself.

    That takes erofs, Linux 6.12, and a file that does not lie on a mount with passthrough.
    """
    at.mkdir()
    if loop:
        run(["mount", "-t", kind, "-o", "ro,loop", image, at])
    else:
        on_mount(loads.mount_file, kind, str(image), str(at))
    try:
        yield at
    finally:
        run(["umount", at])


@contextlib.contextmanager
def overlay(lower: Path, writable: Path, at: Path) -> Iterator[Path]:
    """Put a writable layer over a tree."""
    for name in ("upper", "work"):
        (writable / name).mkdir()
    layers = (f"lowerdir={lower}", f"upperdir={writable / 'upper'}", f"workdir={writable / 'work'}")
    with mounted("overlay", "overlay", at, *layers) as merged:
        yield merged
