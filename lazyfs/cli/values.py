"""What the options of the commands take: sizes, times, places."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyfs import records, sizes
from lazyfs.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class BlockSize(click.ParamType[int]):
    """A size that blocks can have: bytes, or a number with K, M, G, T."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a block size."""
        try:
            size = value if isinstance(value, int) else sizes.parse_size(value)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)
        if not records.valid_block_size(size):
            self.fail(f"{value!r} is not a power of two from 64K to 8M", param, ctx)
        return size


class Size(click.ParamType[int]):
    """A number of bytes, or a number with K, M, G, T."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a size."""
        try:
            return value if isinstance(value, int) else sizes.parse_size(value)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)


class Within(click.FloatRange):
    """A number within bounds, which nan is not, whatever it is compared with."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not in the range {self._describe_range()}", param, ctx)
        return number


class Seconds(click.ParamType[float]):
    """A time that can be waited for; `infinite` is a word for one without an end."""

    name = "seconds"

    def __init__(self, infinite: str = "") -> None:
        self._infinite = infinite

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number of seconds, or the word for an infinite one."""
        if self._infinite and value in (self._infinite, math.inf):
            return math.inf
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            more = f", or {self._infinite}" if self._infinite else ""
            self.fail(f"{value!r} is not a number of seconds, 0 or more{more}", param, ctx)
        return seconds


class Mountpoint(click.ParamType[Path]):
    """A path that is not looked at, as `click.Path` would: who looks at a mount that is stuck waits for ever."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete to mounts that there are."""
        from lazyfs.cli import completing

        return completing.words(("mount",), ctx, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Take it as it is, but for a variable of a script that was never set: that would be where it stands."""
        if not value:
            self.fail("it is empty; name a directory", param, ctx)
        return Path(value)


class Word(click.ParamType[str]):
    """What is taken as it is; its kinds say what it may be completed to: `mount`, `blob`, `path`."""

    name = "text"

    def __init__(self, *kinds: str) -> None:
        self._kinds = kinds

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete to what there is of its kinds."""
        from lazyfs.cli import completing

        return completing.words(self._kinds, ctx, incomplete)


class Address(click.ParamType[tuple[str, int]]):
    """Where to listen: `PORT` on loopback, or `ADDR:PORT` with a numeric address, that of IPv6 in brackets."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Read an address and a port."""
        from lazyfs.configuration.keys import read_address  # only here, since few say one

        if isinstance(value, tuple):
            return value
        try:
            return read_address(value)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)
