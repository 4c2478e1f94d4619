"""Which of an index's images is for which machine.  Pure.

*Source*: OCI image-spec v1.1, image-index.md ("platform"): the names are Go's GOOS and GOARCH; the variants' order is
containerd's, platforms/compare.go: an ARM processor runs what was built for an earlier one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from lazyfs.errors import UsageError

_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
    "i386": "386",
    "loongarch64": "loong64",
}
"""What machines call themselves, where that is not what images say."""

_USUAL: Final = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
"""The variant that is meant when none is said."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on; `variant` is empty when none is said."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def parse_platform(text: str) -> Platform:
    """Read `OS/ARCHITECTURE[/VARIANT]`. *Raises*: UsageError."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isprintable() and part for part in parts):
        raise UsageError(f"{text!r} is no platform: write OS/ARCHITECTURE, as in linux/amd64 or linux/arm/v7")
    return Platform(*parts)


def of_this_machine() -> Platform:
    """Return what this machine is."""
    machine = os.uname().machine
    return parse_platform(f"linux/{_MACHINES.get(machine, machine)}")


def choose(images: Sequence[tuple[Platform, T]], wanted: Platform) -> T | None:
    """Return the image that runs best on a platform, of equal ones the first; None when there is none."""
    fitting = [(rank, image) for had, image in images if (rank := _rank(had, wanted)) is not None]
    return min(fitting, key=lambda each: each[0])[1] if fitting else None


def _rank(had: Platform, wanted: Platform) -> int | None:
    """Say how far what an image wants is below what there is; None when it wants more, or something else."""
    if (had.os, had.architecture) != (wanted.os, wanted.architecture):
        return None
    mine, its = (each.variant or _USUAL.get(each.architecture, "") for each in (wanted, had))
    if mine == its:
        return 0
    numbers = [int(each[1:]) for each in (mine, its) if each[:1] == "v" and each[1:].isdecimal()]
    if len(numbers) != 2 or had.architecture not in ("arm", "arm64", "amd64"):
        return None
    return numbers[0] - numbers[1] if numbers[1] < numbers[0] else None
