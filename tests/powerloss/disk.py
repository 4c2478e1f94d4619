"""A disk that forgets: what may be left of a recorded run when the power goes.

Whatever was synced is there. Of the rest each operation may have reached the disk or not, in any order, and of a write
any of its 512-byte sectors; a size may come without the bytes, or the bytes without the size. With names there are two
kinds of file system:

    strict      a name is there for certain when its directory was synced; of the others any may be lost
    journalled  names come in order, and each sync of anything brings all of them before it (ext4)

A rename is there or not, never in halves: that is all that both kinds have in common with it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.powerloss.recording import Kind, Op

SECTOR: Final = 512


@dataclass(eq=False)
class File:
    """A file: its bytes as of the last sync, and what was done to it since."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Op] = field(default_factory=list)

    def sync(self) -> None:
        """Let all that was done so far be on the disk."""
        self.synced = self.after(lambda op: op.content)
        self.since = []

    def after(self, survives: Callable[[Op], bytes | None]) -> bytearray:
        """Return the bytes when, of what was done since the last sync, this survives; None for an op that does not."""
        found = bytearray(self.synced)
        for op in self.since:
            if (content := survives(op)) is not None:
                _apply(found, op, content)
        return found


def _apply(content: bytearray, op: Op, written: bytes) -> None:
    if op.kind is Kind.TRUNCATE:
        del content[op.start :]
        content.extend(bytes(op.start - len(content)))
    elif op.kind is Kind.PUNCH:
        stop = min(op.start + op.length, len(content))
        content[op.start : stop] = bytes(max(0, stop - op.start))
    else:
        content.extend(bytes(max(0, op.start - len(content))))
        content[op.start : op.start + len(written)] = written


@dataclass(eq=False)
class Directory:
    """A directory: what its names lead to, now and as of the last sync."""

    now: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)


Node = File | Directory


@dataclass(frozen=True)
class Change:
    """A name that a node had is gone, or one that it has now is new, or both at once."""

    node: Node
    gone: tuple[Directory, str] | None = None
    new: tuple[Directory, str] | None = None

    def is_in(self, directory: Node) -> bool:
        """Say whether it is a change of this directory."""
        return any(place is not None and place[0] is directory for place in (self.gone, self.new))

    def make(self, names: Callable[[Directory], dict[str, Node]]) -> None:
        """Make the change to the names that `names` returns of a directory, of which others may be lost."""
        if self.gone is not None and names(self.gone[0]).get(self.gone[1]) is self.node:
            del names(self.gone[0])[self.gone[1]]
        if self.new is not None:
            names(self.new[0])[self.new[1]] = self.node


class Disk:
    """A store on a disk, after some of the recorded operations."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._root = Directory()
        self._since: list[Change] = []
        self._written: dict[int, File] = {}  # since their last sync
        self.marks: set[str] = set()  # what the program has come to
        self.lost = 0  # operations, and sectors of writes, that did not survive, in all images made so far

    @property
    def at_risk(self) -> int:
        """How many operations would be lost if all were that were not synced."""
        return len(self._since) + sum(len(file.since) for file in self._written.values())

    def do(self, op: Op) -> None:
        """Take in the next operation."""
        if op.kind is Kind.MARK:
            self.marks.add(op.path)
            return
        node = self._find(op.path)
        if op.kind is Kind.SYNC and node is not None:
            self._sync(node)
        elif op.kind in (Kind.WRITE, Kind.TRUNCATE, Kind.PUNCH) and isinstance(node, File):
            node.since.append(op)
            self._written[id(node)] = node
        elif op.kind in (Kind.CREATE, Kind.MKDIR) and op.path:
            made = File() if op.kind is Kind.CREATE else Directory()
            self._change(Change(made, new=self._place(op.path)))
        elif op.kind is Kind.RENAME and node is not None:
            self._change(Change(node, self._place(op.path), self._place(os.fsdecode(op.content).strip("/"))))
        elif op.kind in (Kind.UNLINK, Kind.RMDIR) and node is not None:
            self._change(Change(node, gone=self._place(op.path)))

    def _find(self, path: str) -> Node | None:
        """Return what a path leads to; None when it was deleted, and is open still."""
        node: Node | None = self._root
        for name in path.split("/") if path else ():
            node = node.now.get(name) if isinstance(node, Directory) else None
        return node

    def _place(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        directory = self._find(above)
        assert isinstance(directory, Directory), path
        return directory, name

    def _change(self, change: Change) -> None:
        change.make(lambda directory: directory.now)
        self._since.append(change)

    def _sync(self, node: Node) -> None:
        if isinstance(node, File):
            node.sync()
            self._written.pop(id(node), None)
        for change in self._since:
            if not self._strict or change.is_in(node):
                change.make(lambda directory: directory.synced)
        self._since = [change for change in self._since if self._strict and not change.is_in(node)]

    def image(self, dice: random.Random, to: Path) -> None:
        """Write out, as a directory, what may be there when the power goes now."""
        names: dict[int, dict[str, Node]] = {}

        def names_of(directory: Directory) -> dict[str, Node]:
            return names.setdefault(id(directory), dict(directory.synced))

        chance = dice.choice((0.0, 0.5, 0.9, 1.0))
        kept = dice.randint(0, len(self._since)) if chance < 1 else len(self._since)
        for number, change in enumerate(self._since):
            if dice.random() < chance if self._strict else number < kept:
                change.make(names_of)
            else:
                self.lost += 1
        self._write_out(self._root, to, names_of, dice)

    def _write_out(
        self, directory: Directory, to: Path, names_of: Callable[[Directory], dict[str, Node]], dice: random.Random
    ) -> None:
        to.mkdir(mode=0o700)
        for name, node in sorted(names_of(directory).items()):
            if isinstance(node, Directory):
                self._write_out(node, to / name, names_of, dice)
            else:
                (to / name).write_bytes(self._content(node, dice))
                (to / name).chmod(0o600)

    def _content(self, file: File, dice: random.Random) -> bytes:
        """Return the bytes of a file of which some are lost."""
        way = dice.choice(("all", "none", "the last", "any", "any", "sectors", "sectors"))
        kept = dice.randint(0, len(file.since))
        chance = dice.choice((0.1, 0.5, 0.9))
        place = iter(range(len(file.since)))

        def survives(op: Op) -> bytes | None:
            number = next(place)
            there = {"all": True, "none": False, "the last": number < kept}.get(way, dice.random() < chance)
            self.lost += not there
            if way == "sectors" and op.kind is Kind.WRITE:
                return None
            return op.content if there else None

        found = file.after(survives)
        if way == "sectors":
            for op in file.since:
                self._write_torn(found, op, dice, chance)
        length = len(file.after(lambda op: op.content))
        if way in ("any", "sectors") and dice.random() < 0.5:  # the size that it came to, or had
            length = dice.choice((len(file.synced), length))
            del found[length:]
            found.extend(bytes(length - len(found)))
        return bytes(found)

    def _write_torn(self, content: bytearray, op: Op, dice: random.Random, chance: float) -> None:
        """Let some sectors of a write survive; each lies in one that has one fate."""
        if op.kind is not Kind.WRITE:
            return
        stop = op.start + len(op.content)
        for sector in range(op.start // SECTOR, -(-stop // SECTOR)):
            if dice.random() < chance:
                first, last = max(op.start, sector * SECTOR), min(stop, (sector + 1) * SECTOR)
                _apply(content, Op(Kind.WRITE, op.path, first), op.content[first - op.start : last - op.start])
            else:
                self.lost += 1
