"""What a command orders of a mount's daemon, and what the daemon tells the command while that waits.

An order may be read by another lazyfs than the one that wrote it: the next daemon of a mount is what is installed then.
So it is written down by names: what the reader does not know is left out, and what it misses is as by default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from lazyfs import control, urls
from lazyfs.errors import one_line
from lazyfs.given import GivenBlob
from lazyfs.options import (
    ClientOptions,
    CredentialOptions,
    Limits,
    OriginOptions,
    RegistryOptions,
    Settings,
    TransportOptions,
    WatchOptions,
)
from lazyfs.sources.spec import Form, Source
from lazyfs.versions import Version

READY: Final = "ready"
"""What the daemon tells its caller when the mount answers."""

REMARK: Final = "remark: "
"""What lines begin with that the caller is to show; the mount goes on."""


@dataclass(frozen=True, slots=True)
class Mount:
    """What to mount where; `mountpoint` is absolute, `options` go to FUSE; in the `foreground`, stderr is the log."""

    mountpoint: str
    sources: tuple[Source, ...]
    settings: Settings
    options: frozenset[str] = frozenset()
    foreground: bool = False

    @property
    def socket(self) -> str:
        """The name of the daemon's socket; running.py knows the directory."""
        return control.socket_name(self.mountpoint)

    @property
    def shown_as(self) -> str:
        """What the kernel's table has as its source."""
        return f"lazyfs#{self.settings.store}"

    @property
    def made_of(self) -> str:
        """Its sources as one word, the same for the same ones."""
        return made_of(self.sources)

    @property
    def log(self) -> str:
        """The name of its log, beside that."""
        return self.socket.replace(".sock", ".log")


def made_of(sources: tuple[Source, ...]) -> str:
    """Return a word that stands for some sources and tells nothing of them: their URLs may hold secrets."""
    return urls.key(repr([(source.form.value, source.name, source.place) for source in sources]))


_KNOWN: Final = {
    known.__name__: known
    for known in (
        Mount, Source, GivenBlob, Version, Settings, Limits, ClientOptions, CredentialOptions, TransportOptions,
        OriginOptions, WatchOptions, RegistryOptions,
    )
}  # fmt: skip


def pack(mount: Mount) -> bytes:
    """Write an order down. It may hold secrets."""
    return json.dumps(_plain(mount)).encode()


def unpack(content: bytes) -> Mount:
    """Read what `pack` has written. *Raises*: ValueError, TypeError, when that is no order."""
    return cast("Mount", _rebuilt(json.loads(content)))


def pack_source(source: Source) -> Any:
    """Write a source down, as JSON can carry it."""
    return _plain(source)


def unpack_source(packed: Any) -> Source:
    """Read what `pack_source` has written."""
    return cast("Source", _rebuilt(packed))


def _plain(value: Any) -> Any:
    if isinstance(value, Form):
        return {"form": value.value}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, frozenset):
        return {"set": [_plain(each) for each in sorted(value)]}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, "fields": fields}
    return value


def _rebuilt(plain: Any) -> Any:
    match plain:
        case list():
            return tuple(_rebuilt(each) for each in plain)
        case {"form": value}:
            return Form(value)
        case {"path": text}:
            return Path(text)
        case {"set": values}:
            return frozenset(_rebuilt(each) for each in values)
        case {"is": name, "fields": fields}:
            known = _KNOWN[name]
            names = {field.name for field in dataclasses.fields(known)}
            return known(**{name: _rebuilt(value) for name, value in fields.items() if name in names})
        case _:
            return plain


def remark(caller: int, line: str) -> None:
    """Have the caller show a line."""
    _tell(caller, REMARK + line)


def report(caller: int, line: str) -> None:
    """Tell the caller how it went, and hang up; the descriptor's number stays taken, so nothing later is told twice."""
    _tell(caller, line)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, caller, inheritable=False)
    os.close(null)


def _tell(caller: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(caller, one_line(line).encode("utf-8", "surrogateescape") + b"\n")
