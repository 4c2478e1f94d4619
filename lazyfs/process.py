"""What a daemon changes about its own process: what others see of it, and how much it may open."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from pathlib import Path
from typing import Final

OPEN_FILES: Final = 1 << 17
"""Descriptors that are enough for some 70,000 open blobs."""


def show_as(*words: str) -> None:
    """Have `ps` show these words instead of the command line, which may hold header values and signed URLs.

    Overwrites the memory that /proc/PID/cmdline shows; Python has copied its own arguments from there. What is longer
    than the command line was is cut. *Source*: proc_pid_stat(5), fields 48 and 49.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, stop = int(fields[45]), int(fields[46])  # the first field after the name is the third
    shown = os.fsencode("\0".join(words))[: max(0, stop - start - 1)]
    if shown:
        ctypes.memset(start, 0, stop - start)
        ctypes.memmove(start, shown, len(shown))


def open_as_many_files_as_allowed() -> None:
    """Raise the limit of open files to the hard one, and that one too where we may: a blob takes up to five."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, max(hard, OPEN_FILES)):
        with contextlib.suppress(ValueError, OSError):  # it takes CAP_SYS_RESOURCE
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
