"""What a process holds of a store at this moment, as the kernel tells: which is what its death cuts short."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lazyfs import records

_FAR: Final = 1 << 62
_NAMES: Final = {_FAR: "in use", _FAR + 1: "set-up", _FAR + 2: "gate", _FAR + 3: "pass"}
_WAL_WRITE: Final = 120  # sqlite.org/walformat.html#locks

_LOCK: Final = re.compile(r"^lock:\s+\d+: (?:OFDLCK|POSIX)\s+ADVISORY\s+(READ|WRITE) -?\d+ \S+ (\d+) (\d+|EOF)$", re.M)


@dataclass(frozen=True)
class _Held:
    """A run of bytes of a file that is locked."""

    start: int
    stop: int


def holding(pid: int, store: Path, contents: Mapping[int, Path]) -> Counter[str]:
    """Say what a process holds, and how many of each; stop it first for what is true at one moment.

    `contents` has, for each size of a blob, the file with its bytes.
    """
    found = Counter[str]()
    for path, locks in _locks(pid, store):
        if path.name == "lock":
            names = {_NAMES.get(lock.start) for lock in locks}
            blocks = [block for lock in locks if lock.start < _FAR for block in range(lock.start, lock.stop)]
            found.update(name for name in names if name in ("set-up", "gate", "pass"))
            if "in use" in names:
                found["blocks locked"] += len(blocks)
                found.update(_state_of(path.parent, block, contents) for block in blocks)
            else:  # only who evicts opens a blob without a claim to it
                found["evictions"] += bool(blocks)
                found["making room"] += not names
        elif path.name == "quota":
            found["quota"] += any(lock.start == _FAR for lock in locks)
        elif path.name == "catalogue.db-shm":
            found["catalogue"] += any(lock.start <= _WAL_WRITE < lock.stop for lock in locks)
    return +found


def files_of(pid: int, below: Path) -> list[str]:
    """Return the files below a directory that a process has open."""
    found = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                name = os.readlink(f"/proc/{pid}/fd/{fd}")
                if name.startswith(f"{below}/"):
                    found.append(name)
    return found


def _locks(pid: int, store: Path) -> Iterator[tuple[Path, list[_Held]]]:
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/{pid}/fd/{fd}")
                if path.startswith(f"{store}/"):
                    said = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    yield Path(path), [_held(match) for match in _LOCK.finditer(said)]


def _held(match: re.Match[str]) -> _Held:
    start, last = int(match[2]), match[3]
    return _Held(start, _FAR * 2 if last == "EOF" else int(last) + 1)


def _state_of(directory: Path, block: int, contents: Mapping[int, Path]) -> str:
    """Say how far a locked block has come."""
    try:
        with (directory / "map").open("rb") as file:
            header = records.unpack_map_header(file.read(records.MAP_HEADER_SIZE))
            file.seek(records.MAP_HEADER_SIZE + block * records.ENTRY_SIZE)
            (entry,) = records.unpack_entries(file.read(records.ENTRY_SIZE), 1)
        pieces = []
        for path in (directory / "data", contents[header.size]):
            with path.open("rb") as file:
                file.seek(block * header.block_size)
                pieces.append(file.read(header.block_size))
    except (OSError, records.BadRecord):
        return "gone"
    if entry != records.MISSING:
        return "recorded"
    if pieces[0] == pieces[1]:
        return "written, not recorded"
    return "half written" if any(pieces[0]) else "not written"
