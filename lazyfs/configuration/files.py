"""A configuration file: whether it may be believed, what it says, and what is wrong with it, by file, line and key.

    max-cache = "20G"                        keys of commands

    [origin."https://example.org"]           those of one origin
    header-file = "example.headers"

A file may name a command that is run, and who is trusted: so it has to belong to who reads it, or to root, and nobody
else may write it. Nothing of a value is in a message that may be a secret.

*Source*: TOML 1.0; OpenSSH's readconf.c (SSHCONF_CHECKPERM), for whose files are believed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lazyfs import urls
from lazyfs.configuration.keys import OF_COMMANDS, OF_NAMED, OF_ORIGINS, Key, read_origin
from lazyfs.errors import Misconfigured, UsageError
from lazyfs.options import Place

ORIGIN: Final = "origin"
"""The table of tables, one for each origin."""

_TABLE: Final = re.compile(r"""\s*\[\s*origin\s*\.\s*(?:"([^"\\]*)"|'([^']*)')\s*\]""")
_KEY: Final = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")

_REMEDY: Final = "name another with --config, or none: --config /dev/null"
_PRIVATE: Final = "others may read this file: chmod 600 it, or put the secret into a header-file of its own"


@dataclass(frozen=True, slots=True)
class Said:
    """A value, and who says it: a file and line, or a variable."""

    value: Any
    by: str


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says, by the names of keys."""

    values: dict[str, Said] = field(default_factory=dict)
    origins: dict[Place, dict[str, Said]] = field(default_factory=dict)


def read_file(path: Path, *, wanted: bool = False) -> Layer | None:
    """Return what a file says; None when it is not there, and need not. *Raises*: Misconfigured; it says what to do."""
    try:
        found = path.stat()
    except OSError as exc:
        if not wanted and isinstance(exc, (FileNotFoundError, NotADirectoryError, PermissionError)):
            return None  # nor is anything of ours in somebody else's home
        raise Misconfigured(f"{path} cannot be read: {exc.strerror}; {_REMEDY}") from None
    if stat.S_ISCHR(found.st_mode):
        return Layer()  # /dev/null: the usual way to have none
    try:
        with path.open("rb") as file:  # which refuses directories
            found = os.fstat(file.fileno())
            _check(path, found)
            content = file.read()
    except OSError as exc:
        raise Misconfigured(f"{path} cannot be read: {exc.strerror}; {_REMEDY}") from None
    return _File(path, _text(path, content), found.st_mode).layer()


def _check(path: Path, found: os.stat_result) -> None:
    """Refuse a file that somebody else may write. *Raises*: Misconfigured."""
    if found.st_uid not in (0, os.geteuid()):
        whose = f"belongs to another user ({found.st_uid}), who could have it say anything"
        raise Misconfigured(f"{path} {whose}: chown it, or name another with --config (/dev/null: none)")
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o022:
        raise Misconfigured(f"{path} may be written by others, who could have it say anything: chmod go-w {path}")


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
    raise Misconfigured(f"{path}, line {line}: it is not text (UTF-8)")  # out here: the cause would hold the content


class _File:
    """A file that is read."""

    def __init__(self, path: Path, text: str, mode: int) -> None:
        self._path = path
        self._text = text
        self._mode = mode
        self._lines = _lines(text)

    def layer(self) -> Layer:
        """Return what it says. *Raises*: Misconfigured."""
        content = self._parsed()
        layer = Layer()
        origins = content.pop(ORIGIN, {})
        if not isinstance(origins, dict):
            raise Misconfigured(
                f'{self._by("", ORIGIN)}: origin: write a table for each, [origin."https://example.org"]'
            )
        for name, said in content.items():
            self._take("", name, said, OF_COMMANDS.keys() - OF_NAMED, OF_COMMANDS, layer.values)
        for name, table in origins.items():
            known = urls.redact(name) if "://" in name else name.rpartition("@")[2]  # a user may be in front of it
            by, shown = self._by(name, ""), f'[origin."{known}"]'
            try:
                place = read_origin(name)
            except UsageError as exc:
                raise Misconfigured(f"{by}: {shown}: {exc}") from None
            if not isinstance(table, dict):
                raise Misconfigured(f"{by}: {shown}: it takes a table of keys")
            if place in layer.origins:
                raise Misconfigured(f"{by}: {shown}: it is there twice, in another spelling")
            own = layer.origins[place] = {}
            for key, said in table.items():
                self._take(name, key, said, OF_ORIGINS.keys(), OF_ORIGINS, own)
            self._check_origin(place, own)
        return layer

    def _parsed(self) -> dict[str, Any]:
        import tomllib  # only where there is a file

        try:
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as exc:
            match = re.fullmatch(r"(.*) \(at (?:line ([0-9]+), column [0-9]+|end of document)\)", str(exc), re.DOTALL)
        reason, line = (match[1], match[2]) if match else ("it cannot be read", None)
        if reason.startswith("Cannot declare"):
            reason = "a table is there twice"  # which it would quote
        line = line or str(self._text.count("\n") + 1)
        raise Misconfigured(f"{self._path}, line {line}: this is not TOML: {reason[:1].lower()}{reason[1:]}")

    def _take(
        self, table: str, name: str, said: Any, allowed: Iterable[str], keys: Mapping[str, Key], values: dict[str, Said]
    ) -> None:
        by = self._by(table, name)
        if name not in allowed:
            raise Misconfigured(f"{by}: {name}: {_unknown(name, allowed, of_origin=bool(table))}")
        try:
            values[name] = Said(keys[name].value(said, self._path.absolute().parent), by)
        except UsageError as exc:
            raise Misconfigured(f"{by}: {name}: {str(exc).removeprefix(f'{name}: ')}") from None

    def _check_origin(self, place: Place, own: Mapping[str, Said]) -> None:
        """Refuse what does not go together."""
        proxy = own.get("proxy")
        secret = own.get("header") or (proxy if proxy is not None and "@" in proxy.value else None)
        if secret is not None and self._mode & 0o044:
            raise Misconfigured(f"{secret.by}: {'header' if secret is own.get('header') else 'proxy'}: {_PRIVATE}")
        if "mirrors" in own and place[1].startswith("*."):
            raise Misconfigured(f"{own['mirrors'].by}: mirrors: these are of one host, and not of all below a domain")

    def _by(self, table: str, name: str) -> str:
        line = self._lines.get((table, name))
        return f"{self._path}, line {line}" if line else str(self._path)


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Return where tables of origins begin and where their keys are, as far as a look at each line can tell."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        if match := _TABLE.match(line):
            table = match[1] or match[2] or ""
            found.setdefault((table, ""), number)
        elif match := _KEY.match(line):
            found.setdefault((table, match[1]), number)
    return found


def _unknown(name: str, allowed: Iterable[str], *, of_origin: bool) -> str:
    """Say what to do about a key that is none there."""
    import difflib  # only where something is wrong

    if not of_origin and name in OF_ORIGINS:
        return 'it is for one origin: write it below a line [origin."https://example.org"]'
    if of_origin and name in OF_COMMANDS:
        return "it is not for one origin: write it above the first line in brackets"
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), allowed, 1)
    return f"there is no such key{f'; did you mean {nearest[0]}?' if nearest else ': remove it, or see lazyfs config'}"
