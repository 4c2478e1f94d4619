"""The names under a mount, and their inodes.  Pure: no input or output, nothing waits.

The inode number is a hash of the path and of the version that the name stands for: a new version is a new inode,
and the kernel may keep pages and attributes of the old one for as long as it likes. The number of a name does not
depend on what else is there or on the order of arrival: a daemon that is started anew gives the same ones.

A node is *visible* when its size is known; until then it is announced, and `readdir` leaves it out. If the kernel
looks an announced file up, it gets a stand-in (`Pending`) with an inode of its own, behind which the file is and stays:
a file is of one version all its life, so what is read by way of its stand-in never mixes versions either. A node that
was taken out of its directory keeps its inode until the kernel has forgotten it (`forget`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

import xxhash

from lazyfs.entries import Entry, Kind, Refusal, unsafe
from lazyfs.given import GivenBlob
from lazyfs.urls import redact
from lazyfs.versions import BlobId, Known, blob_id_for

ROOT_INODE: Final = 1


class Node:
    """A name under the mount."""

    __slots__ = ("inode", "lookups", "name", "parent")

    def __init__(self, name: str, parent: Directory | None) -> None:
        self.name = name
        self.parent = parent
        self.inode = 0  # 0 until it is visible
        self.lookups = 0  # references that the kernel holds

    @property
    def path(self) -> str:
        """The path under the mount, without a leading slash; empty for the root."""
        parts = []
        node: Node | None = self
        while node is not None and node.name:
            parts.append(node.name)
            node = node.parent
        return "/".join(reversed(parts))

    @property
    def attached(self) -> bool:
        """Whether it is in the tree: its directory has it under its name, and is in the tree itself."""
        node: Node = self
        while node.parent is not None:
            if node.parent.children.get(node.name) is not node:
                return False
            node = node.parent
        return True

    @property
    def visible(self) -> bool:
        """Whether `readdir` shows it."""
        return True


class Directory(Node):
    """A directory; with `urls`, one that those indexes list."""

    __slots__ = ("changes", "children", "in_order", "listed", "listed_at", "removed", "urls")

    def __init__(self, name: str, parent: Directory | None) -> None:
        super().__init__(name, parent)
        self.children: dict[str, Node] = {}
        self.changes = 0  # how often it has had other names
        self.in_order: Sequence[Node] | None = None  # the visible ones, as inorder.py has them; None: not yet
        self.urls: list[str] = []
        self.listed: dict[str, set[str]] = {}  # which names each index brought, by the index's URL; no others are its
        self.removed: set[str] = set()  # names taken away by hand, which no index brings back
        self.listed_at: float | None = None  # trio's clock; None until every index has been listed once

    @property
    def version(self) -> str:
        """What tells it apart from another directory that had its path before."""
        return ""

    def changed(self) -> None:
        """Note that it has other names, or shows others."""
        self.changes += 1
        self.in_order = None


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("entry",)

    def __init__(self, name: str, parent: Directory, entry: Entry) -> None:
        super().__init__(name, parent)
        self.entry = entry

    @property
    def target(self) -> str:
        """Where it leads, as the manifest says."""
        return self.entry.symlink or ""


class File(Node):
    """A file; `size` and `mtime_ns` are None while they are not known, `known` until its origin was asked."""

    __slots__ = ("entry", "known", "mtime_ns", "pending", "size")

    def __init__(self, name: str, parent: Directory, entry: Entry) -> None:
        super().__init__(name, parent)
        self.entry = entry
        self.size = entry.size
        self.mtime_ns = entry.mtime_ns
        self.known: Known | None = None
        self.pending: Pending | None = None  # what stands for it in the kernel, if it was looked up too early

    @property
    def blob_id(self) -> BlobId | None:
        """The blob that it stands for; None until its origin was asked."""
        if self.entry.blob_id is not None:
            return self.entry.blob_id
        return blob_id_for(self.known.url, self.known.version, self.entry.digest) if self.known else None

    @property
    def visible(self) -> bool:
        """Whether its size is known."""
        return self.size is not None


class Pending(Node):
    """Stands for a file that was looked up before its size was known, for as long as the kernel remembers it."""

    __slots__ = ("file",)

    def __init__(self, file: File) -> None:
        super().__init__(file.name, file.parent)
        self.file = file

    @property
    def visible(self) -> bool:
        """Never: no directory has it."""
        return False


class Tree:
    """All names of a mount. `files` counts the visible ones, `size` adds up their bytes."""

    def __init__(self) -> None:
        self.root = Directory("", None)
        self.root.inode = ROOT_INODE
        self.files = 0
        self.size = 0
        # Invariant: every visible attached node, and every detached one with lookups, is in here under its inode.
        self._inodes: dict[int, Node] = {ROOT_INODE: self.root}

    def node(self, inode: int) -> Node | None:
        """Return the node of an inode number."""
        return self._inodes.get(inode)

    def nodes(self) -> list[Node]:
        """Return all nodes that have an inode, as they are now."""
        return list(self._inodes.values())

    def find(self, path: str) -> Node | None:
        """Return the node at a path; the root for an empty one."""
        node: Node | None = self.root
        for part in filter(None, path.split("/")):
            node = node.children.get(part) if isinstance(node, Directory) else None
        return node

    def add(self, entry: Entry, base: Directory | None = None) -> Node | Refusal:
        """Add a name below `base`, with the directories on its way; the first to come keeps a name."""
        if reason := unsafe(entry.path):
            return Refusal(entry.path, reason)
        *parents, name = entry.path.split("/")
        directory = base or self.root
        for part in parents:
            node = directory.children.get(part)
            if node is None:
                node = self._attach(Directory(part, directory))
            if not isinstance(node, Directory):
                return Refusal(entry.path, f"{node.path!r} is a file, not a directory")
            directory = node
        there = directory.children.get(name)
        if entry.kind is Kind.DIRECTORY:
            return self._add_directory(entry, name, directory, there)
        if there is not None:
            return Refusal(entry.path, "the name is taken by an earlier entry")
        if entry.kind is Kind.SYMLINK:
            return self._attach(Symlink(name, directory, entry))
        return self._attach(File(name, directory, entry))

    def know(self, file: File, known: Known) -> None:
        """Record what an origin says of a file; one that was only announced becomes visible."""
        announced = not file.visible
        self._learn(file, known)
        if announced and file.attached:
            self._show(file, file.blob_id or "")

    def stand_in(self, file: File) -> Pending:
        """Return what stands for a file that is not visible yet; it goes when the kernel has forgotten it."""
        if file.pending is None:
            file.pending = Pending(file)
            self._number(file.pending, "pending")
        return file.pending

    def adopt(self, inode: int, path: str, given: GivenBlob) -> File:
        """Return a node, without a name in the tree, for an inode that the kernel knows from another daemon."""
        *parents, name = path.split("/")
        directory = self.find("/".join(parents))
        node = File(name, directory if isinstance(directory, Directory) else self.root, _entry_of(path, given))
        self._learn(node, given.known)
        node.inode, node.lookups = inode, 1  # at least; how often it was looked up nobody knows any more
        self._inodes[inode] = node
        return node

    def replace(self, old: File, known: Known) -> File:
        """Put a new version of a file in the place of an attached one, under a new inode."""
        assert old.parent is not None
        self.detach(old)
        new = File(old.name, old.parent, dataclasses.replace(old.entry, size=None, mtime_ns=None))
        self._learn(new, known)
        old.parent.children[new.name] = new
        self._show(new, new.blob_id or "")
        return new

    def _learn(self, file: File, known: Known) -> None:
        file.known, file.size = known, known.version.size
        if file.mtime_ns is None:
            file.mtime_ns = known.version.mtime_ns

    def detach(self, node: Node) -> None:
        """Take a name, and all below it, out of the tree; inodes that the kernel knows stay until it forgets them."""
        if node.parent is None:
            raise ValueError("the root cannot be removed")
        for inner in list(below(node)):
            if isinstance(inner, File) and inner.visible:
                self.files -= 1
                self.size -= inner.size or 0
            if inner.lookups == 0:
                self._inodes.pop(inner.inode, None)
        del node.parent.children[node.name]
        node.parent.changed()

    def remember(self, node: Node) -> None:
        """Count one look-up that the kernel has been told of."""
        node.lookups += 1

    def forget(self, inode: int, lookups: int) -> bool:
        """Take back look-ups, and say whether none is left; a detached node goes with its last one."""
        node = self._inodes.get(inode)
        if node is None:
            return True
        node.lookups = max(0, node.lookups - lookups)
        if node.lookups == 0 and not node.attached:
            del self._inodes[inode]
            if isinstance(node, Pending):
                node.file.pending = None
        return node.lookups == 0

    def place(self, node: Node) -> Node | Refusal:
        """Put a node that was made elsewhere into its directory, unless the name is taken."""
        assert node.parent is not None
        if node.name in node.parent.children:
            return Refusal(node.path, "the name is taken by an earlier entry")
        return self._attach(node)

    def graft(self, directory: Directory, children: dict[str, Node], nodes: dict[int, Node]) -> None:
        """Add all that is below a directory, which has nothing yet, at once: its children, and all nodes by inode.

        One whose inode the kernel still has from a node of the same path, which was detached, takes that one's place.
        They count neither as files nor by their size: their bytes are those of other files.
        """
        for number in nodes.keys() & self._inodes.keys():
            node, there = nodes[number], self._inodes[number]
            if type(node) is type(there) and node.path == there.path and not there.attached:
                node.lookups = there.lookups
                continue
            del nodes[number]
            while node.inode in self._inodes or node.inode in nodes:
                node.inode = node.inode % (1 << 63) + 2
            nodes[node.inode] = node
        directory.children = children
        directory.changed()
        self._inodes.update(nodes)

    def _add_directory(self, entry: Entry, name: str, parent: Directory, there: Node | None) -> Node | Refusal:
        if there is None:
            there = self._attach(Directory(name, parent))
        if not isinstance(there, Directory):
            return Refusal(entry.path, "the name is taken by an earlier entry")
        if entry.url is not None and entry.url not in there.urls:
            there.urls.append(entry.url)
        return there

    def _attach(self, node: Node) -> Node:
        assert node.parent is not None
        node.parent.children[node.name] = node
        node.parent.changed()
        if node.visible and node.attached:  # a listing may come in for a directory that was taken away meanwhile
            self._show(node, _announced_version(node))
        return node

    def _show(self, node: Node, version: str) -> None:
        """Make a node visible."""
        self._number(node, version)
        assert node.parent is not None
        node.parent.changed()
        if isinstance(node, File):
            self.files += 1
            self.size += node.size or 0

    def _number(self, node: Node, version: str) -> None:
        """Give a node its inode number."""
        number = inode_number(node.path, version)
        while number in self._inodes:  # one in 10^13 for a million names
            number = number % (1 << 63) + 2
        node.inode = number
        self._inodes[number] = node


def _entry_of(path: str, given: GivenBlob) -> Entry:
    fixed = None if given.digest else given.blob_id
    return Entry(path, url=given.url, mirrors=given.mirrors, digest=given.digest, blob_id=fixed)


def cookie(name: str) -> int:
    """Return a name's place in its directory: stable under additions, removals and a new daemon. 3 and above."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) >> 2 | 3


def _announced_version(node: Node) -> str:
    """What tells apart the versions of a node that is visible before its origin was asked."""
    if isinstance(node, File):
        return node.entry.digest or f"{node.entry.size} {node.entry.mtime_ns} {redact(node.entry.url or '')}"
    if isinstance(node, Directory):
        return node.version
    return node.target if isinstance(node, Symlink) else ""


def inode_number(path: str, version: str) -> int:
    """Return the inode number of a path and a version of what it names: 63 bits, neither 0 nor the root's."""
    text = f"{path}\0{version}".encode("utf-8", "surrogateescape")
    return (xxhash.xxh3_64_intdigest(text) >> 1) | 2


def below(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    yield node
    if isinstance(node, Directory):
        for child in node.children.values():
            yield from below(child)
