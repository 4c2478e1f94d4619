"""The names of an image's merged tree as nodes of a mount's.  Pure.

They are added all at once, and never change: an image whose tag has moved is another image, with other nodes. The inode
number of a file is a hash of its path and of the layer that it comes from, so what a new image has in common with the
old one keeps its pages in the kernel; that of a directory is one of its path and of all layers, so that nobody who is
in the old one finds names of the new one there. Another daemon gives the same numbers.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lazyfs.layers import merge
from lazyfs.layers.layer import Layer
from lazyfs.layers.members import Member, Type
from lazyfs.tree import Directory, Node, inode_number

_TYPES: Final = {
    Type.FILE: stat.S_IFREG,
    Type.DIRECTORY: stat.S_IFDIR,
    Type.CHARACTER: stat.S_IFCHR,
    Type.BLOCK: stat.S_IFBLK,
    Type.FIFO: stat.S_IFIFO,
}


class ImageDirectory(Directory):
    """A directory of an image."""

    __slots__ = ("links", "member")

    def __init__(self, name: str, parent: Directory, member: Member, links: int) -> None:
        super().__init__(name, parent)
        self.member = member
        self.links = links


class ImageRoot(ImageDirectory):
    """Where an image's tree begins; what is in it is not known until somebody looks (`grown`).

    `layers` are the lowest first.
    """

    __slots__ = ("grown", "layers")

    def __init__(self, name: str, parent: Directory, layers: tuple[Layer, ...]) -> None:
        super().__init__(name, parent, merge.IMPLIED, 2)
        self.layers = layers
        self.grown = False

    @property
    def version(self) -> str:
        """The digests of its layers."""
        return " ".join(layer.digest for layer in self.layers)


class ImageFile(Node):
    """Anything of an image that is no directory; `links` are the names that it has."""

    __slots__ = ("layer", "links", "member")

    def __init__(self, name: str, parent: Directory, member: Member, layer: Layer, links: int) -> None:
        super().__init__(name, parent)
        self.member = member
        self.layer = layer
        self.links = links


class ImageLink(Node):
    """A further name of a file: a hard link. Its inode is the file's, and so are the kernel's look-ups."""

    __slots__ = ("file",)

    def __init__(self, name: str, parent: Directory, file: ImageFile) -> None:
        self.file = file
        self.name = name
        self.parent = parent

    @property
    def inode(self) -> int:  # type: ignore[override]
        """The file's."""
        return self.file.inode

    @property
    def lookups(self) -> int:
        """The file's."""
        return self.file.lookups

    @lookups.setter
    def lookups(self, value: int) -> None:
        self.file.lookups = value


ImageNode = ImageDirectory | ImageFile


def image_node(node: Node) -> ImageNode | None:
    """Return what of an image a node is; None for what is of none."""
    if isinstance(node, ImageLink):
        return node.file
    return node if isinstance(node, ImageDirectory | ImageFile) else None


def root_of(node: Node) -> ImageRoot:
    """Return the root of the tree that a node of an image is in."""
    while not isinstance(node, ImageRoot):
        assert node.parent is not None
        node = node.parent
    return node


def mode_of(member: Member) -> int:
    """Return type and permissions as `st_mode` has them: on Linux, all symbolic links have the same."""
    return stat.S_IFLNK | 0o777 if member.type is Type.SYMLINK else _TYPES[member.type] | member.mode


@dataclass(slots=True)
class Grown:
    """What is below an image's root: its own attributes, its children, and all nodes by inode."""

    member: Member
    links: int
    children: dict[str, Node] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)


def grow(root: ImageRoot, merged: merge.Directory) -> Grown:
    """Make the nodes of an image; `root` is not changed. May be called in any thread."""
    grown = Grown(merged.member, merged.links)
    version = root.version
    files: dict[merge.Node, ImageFile] = {}  # those that have several names
    waiting: list[tuple[ImageDirectory, dict[str, Node], merge.Directory]] = [(root, grown.children, merged)]
    while waiting:
        directory, children, there = waiting.pop()
        for name, child in there.children.items():
            node = children[name] = _node(name, directory, child, files, root.layers)
            if isinstance(node, ImageLink):
                continue
            if isinstance(node, ImageFile):
                number = inode_number(node.path, node.layer.digest)
            else:
                assert isinstance(child, merge.Directory)
                waiting.append((node, node.children, child))
                number = inode_number(node.path, version)
            while number in grown.nodes:
                number = number % (1 << 63) + 2
            node.inode = number
            grown.nodes[number] = node
    return grown


def _node(
    name: str, parent: ImageDirectory, merged: merge.Node, files: dict[merge.Node, ImageFile], layers: Sequence[Layer]
) -> ImageDirectory | ImageFile | ImageLink:
    if isinstance(merged, merge.Directory):
        return ImageDirectory(name, parent, merged.member, merged.links)
    file = files.get(merged)
    if file is not None:
        return ImageLink(name, parent, file)
    file = ImageFile(name, parent, merged.member, layers[merged.layer], merged.links)
    if merged.links > 1:
        files[merged] = file
    return file
