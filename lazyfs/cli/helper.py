"""mount.lazyfs: what mount(8) starts for the type `lazyfs`, for a line of /etc/fstab for example.

    mount.lazyfs SOURCE MOUNTPOINT [-fnsv] [-N NAMESPACE] [-o OPTS] [-t TYPE]

It reads mount(8)'s words and becomes `lazyfs mount`. OPTS are, with commas between them:

- the options of `lazyfs mount`, without their dashes: `max-cache=20G`, `offline`; `_` may stand for `-`. What may be
  given several times there may be so here;
- `source=SOURCE`: one more source;
- `run_as=NAME`, which `lazyfs mount` also calls `--user`: in /etc/fstab `user` says who may mount;
- FUSE's options, such as `allow_other` or `noexec`;
- what mount(8) and /etc/fstab have for all kinds of mounts, most of which means nothing here.

A comma in a value is written `\\,`, or the value stands in double quotes: both are what mount(8) itself keeps together.

*Source*: mount(8), "EXTERNAL HELPERS" and "EXIT STATUS"; libmount's optstr.c and context_mount.c.
"""

from __future__ import annotations

import ctypes
import getopt
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from lazyfs import cli
from lazyfs.cli import streams
from lazyfs.errors import LazyfsError, UsageError

STATUSES: Final = cli.Statuses(failed=32, misused=1, interrupted=8)
"""As mount(8) has them."""

SAYS_NOTHING: Final = frozenset({
    "defaults", "rw", "ro", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "comment", "nosuid", "nodev", "exec", "atime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime",
    "nostrictatime", "lazytime", "nolazytime", "async", "sync", "dirsync", "iversion", "noiversion", "mand", "nomand",
    "silent", "loud",
})  # fmt: skip
"""Options for all kinds of mounts that change nothing here: said to others, always so, or about writing."""

OF_FUSE: Final = frozenset({
    "allow_root", "auto_unmount", "default_permissions", "noexec", "noatime", "suid", "dev",
    "context", "fscontext", "defcontext", "rootcontext", "fsname", "subtype", "max_read",
})  # fmt: skip
"""Options that go to FUSE, or that `lazyfs mount` refuses there with a word about them."""

NOT_HERE: Final = frozenset({"foreground", "help", "user"})
"""Options of `lazyfs mount` that are none of a mount's, or mean something else to mount(8)."""

CLONE_NEWNS: Final = 0x20000

_PIECE = re.compile(r'\\([,"])|"((?:[^"\\]|\\.)*)"|(,)|(.)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """What mount(8) asks for."""

    source: str
    mountpoint: str
    options: tuple[str, ...] = ()
    fake: bool = False
    sloppy: bool = False
    namespace: str = ""


def main() -> NoReturn:
    """Mount, as mount(8) wants it. Exit status 0: mounted, also when that was so before; else as mount(8) has them."""
    streams.prepare()
    try:
        call = read_call(sys.argv[1:])
        if call.namespace:
            _enter(call.namespace)
        sources, words = translated(call)
        if call.fake or _is_there(sources, words, call.mountpoint):
            sys.exit(0)
    except BaseException as exc:
        status = cli.explained(exc, STATUSES, "mount.lazyfs")
        sys.exit(STATUSES.misused if isinstance(exc, UsageError) else status)
    cli.run(["mount", *words, "--", *sources, call.mountpoint], STATUSES, "mount.lazyfs")


def read_call(words: list[str]) -> Call:
    """Read the words that mount(8) gives. *Raises*: UsageError."""
    try:
        flags, places = getopt.gnu_getopt(words, "fnsvN:o:t:")
    except getopt.GetoptError as exc:
        raise UsageError(f"{exc}; it is for mount(8) to call: mount -t lazyfs SOURCE MOUNTPOINT [-o OPTS]") from None
    if len(places) != 2:
        raise UsageError("it wants a source and a mountpoint: mount -t lazyfs SOURCE MOUNTPOINT [-o OPTS]")
    given = dict(flags)
    options = tuple(option for flag, text in flags if flag == "-o" for option in split(text))
    return Call(places[0], places[1], options, "-f" in given, "-s" in given, given.get("-N", ""))


def split(text: str) -> Iterator[str]:
    r"""Yield the options in a list of them; `\,` and `\"` are the character itself, as is all between double quotes."""
    option = ""
    for match in _PIECE.finditer(text):
        escaped, quoted, comma, plain = match.groups()
        if not comma:
            option += escaped or plain or re.sub(r'\\([,"])', r"\1", quoted or "")
        elif option:
            yield option
            option = ""
    if option:
        yield option


def translated(call: Call) -> tuple[list[str], list[str]]:
    """Return the sources and the options of `lazyfs mount` that a call stands for. *Raises*: UsageError."""
    sources, words = [call.source], []
    takes_value = _options_of_mount()
    for option in call.options:
        name, equals, value = option.partition("=")
        ours = name.replace("_", "-")
        if name == "source" and value:
            sources.append(value)
        elif ours in takes_value:
            if takes_value[ours] != bool(equals):
                wanted = f"a value: {name}=VALUE" if takes_value[ours] else "no value"
                raise UsageError(f"the option {name} takes {wanted}")
            words.append(f"--{ours}={value}" if equals else f"--{ours}")
        elif name in OF_FUSE:
            words.append(f"-o{option}")
        elif not (name in SAYS_NOTHING or name.startswith(("x-", "X-")) or call.sloppy):
            raise UsageError(f"there is no option {name!r}; see: lazyfs mount --help")
    return sources, words


def _options_of_mount() -> dict[str, bool]:
    """Return the names of the options of `lazyfs mount`, without dashes, and whether they take a value."""
    import click

    from lazyfs.cli.commands.mounts import mount

    return {
        spelled.removeprefix("--"): not option.is_flag
        for option in mount.params
        if isinstance(option, click.Option)
        for spelled in (*option.opts, *option.secondary_opts)
        if spelled.startswith("--") and spelled.removeprefix("--") not in NOT_HERE
    }


def _is_there(sources: list[str], words: list[str], mountpoint: str) -> bool:
    """Say whether just this is mounted there, so that `mount -a` may be said again. *Raises*: LazyfsError.

    mount(8) cannot tell: the source that it finds in its table is not the one that the line in /etc/fstab has.
    """
    from lazyfs import control, mountinfo
    from lazyfs.cli import mounting
    from lazyfs.order import made_of

    mounted = mountinfo.mount_at(mounting.absolute(Path(mountpoint)))
    if mounted is None or mounted.fstype != mountinfo.FSTYPE:
        return False
    try:
        running = mounting.ask(mounted, "made_of")
    except control.ControlError:
        return False  # it is dead, and mounting cleans it up; or it is stuck, and mounting says so
    return bool(running == made_of(mounting.read_sources(sources, _store(words))))


def _store(words: list[str]) -> Path:
    """Return the store that `lazyfs mount` would take with these options. *Raises*: Misconfigured."""
    from lazyfs import configuration
    from lazyfs.options import default_path

    said = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    configured = configuration.load(said.get("config")).values.get("store")
    return Path(said["store"]) if "store" in said else configured.value if configured else default_path()


def _enter(namespace: str) -> None:
    """Go to the mount namespace that `mount -N` names. *Raises*: LazyfsError. *Source*: setns(2)."""
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise LazyfsError(f"the namespace {namespace} cannot be opened: {exc.strerror}") from exc
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNS) != 0:
        raise LazyfsError(f"the namespace {namespace} cannot be entered: {os.strerror(ctypes.get_errno())}")
    os.close(descriptor)
