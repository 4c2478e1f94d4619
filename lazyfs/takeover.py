"""Whether a mount can outlive its daemon, and if not, why not.

It takes a kernel that sends those requests again which the dead daemon had read, and the C part, which shakes hands in
the kernel's stead.

*Source*: Linux 6.9, include/uapi/linux/fuse.h, FUSE_NOTIFY_RESEND.
"""

from __future__ import annotations

import os
import re
from typing import Final

from lazyfs import native

SINCE: Final = (6, 9)


def refusal(*, wanted: bool) -> str | None:
    """Return why not; None when it can."""
    if not wanted:
        return "--no-takeover was given"
    if native.LIBRARY is None:
        return native.MISSING
    if kernel() < SINCE:
        return f"the kernel cannot: that takes Linux {SINCE[0]}.{SINCE[1]}"
    return None


def kernel() -> tuple[int, ...]:
    """Return the kernel's version, the first two numbers of it."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
