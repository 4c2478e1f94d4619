"""Which processes have which files open, as far as this one may see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def open_files() -> Iterator[tuple[Path, str]]:
    """Yield each process's directory in /proc with the path of each file that it has open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    yield process, str(fd.readlink())
