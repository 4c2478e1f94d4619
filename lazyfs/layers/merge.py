"""The one tree that the layers of an image make together.  Pure.

Layers are put on each other from the bottom up, member by member, as `umoci unpack` would do it on a disk:

- A member takes the place of whatever has its name, with all below; only a directory that meets a directory keeps what
  is in it and takes the new attributes. Directories on the way that no member names are made, as root's, 0755.
- On the way to its last name, symbolic links are followed, without leaving the tree. So what a layer says of `lib/x`
  is `usr/lib/x` where a lower layer has made `lib` a link.
- `.wh.NAME` takes NAME away, `.wh..wh..opq` all that is in its directory: what lower layers have put there, never what
  this one does, before it or after.
- A hard link is another name of a node, of this layer or of a lower one. It has to come after that.

Where umoci fails, because a directory is wanted where a file is, the directory takes its place.

*Source*: OCI image-spec v1.1, layer.md; umoci oci/layer/tar_extract.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lazyfs.errors import LayerError
from lazyfs.layers import bounds
from lazyfs.layers.growth import uncollected
from lazyfs.layers.members import Member, Type

IMPLIED = Member("", Type.DIRECTORY, 0o755)
"""What is known of a directory that no layer has a member for."""
MOVES_EACH = 10
"""Steps that symbolic links may cost, on the average of as many names as a tree may have."""

_LINKS_MAX = 40  # that one look-up follows, as in the kernel
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class Node:
    """A file of the tree, with as many names as `links` counts; of a directory it counts what `stat` does.

    `layer` is the index of the layer that `member` is of; -1 is that of a directory that none names. The path in
    `member` is what the layer wrote: names are the keys of `Directory.children`.
    """

    __slots__ = ("_touched", "layer", "links", "member")

    def __init__(self, member: Member, layer: int, touched: int) -> None:
        self.member = member
        self.layer = layer
        self.links = 0
        self._touched = touched  # the last layer that has a member here or below


class Directory(Node):
    """A directory, and what is in it by name. Neither changes once the tree is made."""

    __slots__ = ("_cleared", "children")

    def __init__(self, member: Member, layer: int, touched: int) -> None:
        super().__init__(member, layer, touched)
        self.children: dict[str, Node] = {}
        self._cleared = -1  # the last layer that took away what is below; what is there now is of that layer


def merge(layers: Iterable[Iterable[Member]], *, most: int = bounds.MEMBERS_MAX) -> Directory:
    """Return the root of the tree that layers make, the bottom one first; `most` is how many names it may have.

    *Raises*: LayerError, for layers that do not fit together; what iterating over `layers` raises.
    """
    tree = _Tree(most)
    with uncollected():
        for index, layer in enumerate(layers):
            tree.put(index, layer)
        _count(tree.root)
    return tree.root


def walk(root: Directory) -> Iterator[tuple[str, Node]]:
    """Yield the path and the node of every name, directories before what is in them; the root's is empty."""
    stack: list[tuple[str, Node]] = [("", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        if isinstance(node, Directory):
            stack += [(f"{path}/{name}" if path else name, child) for name, child in node.children.items()]


def _count(root: Directory) -> None:
    """Count the links of every node."""
    stack = [root]
    root.links = 2
    while stack:
        directory = stack.pop()
        for node in directory.children.values():
            if isinstance(node, Directory):
                node.links = 2
                directory.links += 1
                stack.append(node)
            else:
                node.links += 1


class _Tree:
    """A tree that is being made."""

    def __init__(self, most: int) -> None:
        self.root = Directory(IMPLIED, -1, -1)
        self._most = self._left = most
        self._moves = MOVES_EACH * most
        self._layer = 0
        # Names that this layer made for nodes of lower ones.
        self._links: set[tuple[Directory, str]] = set()

    def put(self, index: int, layer: Iterable[Member]) -> None:
        """Put a layer on top."""
        self._layer = index
        self._links.clear()
        for member in layer:
            parent, _, name = member.path.rpartition("/")
            try:
                if name.startswith(_WHITEOUT):
                    self._white_out(parent, name)
                elif name:
                    self._add(parent, name, member)
                else:
                    self._dress(self.root, member)
            except LayerError as exc:
                raise LayerError(f"layer {index}, {bounds.shown(member.path)}: {exc}") from exc

    def _dress(self, directory: Directory, member: Member) -> None:
        if member.type is not Type.DIRECTORY:
            raise LayerError(f"the root is said to be a {member.type.value}")
        directory.member, directory.layer, directory._touched = member, self._layer, self._layer

    def _add(self, parent: str, name: str, member: Member) -> None:
        directory = self._make(parent)
        node: Node
        if member.type is Type.DIRECTORY:
            there = directory.children.get(name)
            if isinstance(there, Directory):
                self._dress(there, member)
                return
            node = Directory(member, self._layer, self._layer)
        elif member.type is Type.LINK:
            node = self._linked(member.target)
            if node.layer != self._layer:
                self._links.add((directory, name))
        else:
            node = Node(member, self._layer, self._layer)
        self._name(directory, name, node)

    def _name(self, directory: Directory, name: str, node: Node) -> None:
        self._left -= 1
        if self._left < 0:
            raise LayerError(f"the tree has more than {self._most} names")
        directory.children[name] = node

    def _linked(self, target: str) -> Node:
        parent, _, name = target.rpartition("/")
        directory = self._find(parent)
        node = directory.children.get(name) if directory else None
        if node is None or isinstance(node, Directory):
            what = "is a directory" if node else "is not there"
            raise LayerError(f"the hard link's target {bounds.shown(target)} {what}")
        return node

    def _white_out(self, parent: str, name: str) -> None:
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise LayerError("a whiteout of no name")
        directory = self._find(parent)
        if directory is None:
            return
        if name == _OPAQUE:
            self._clear(directory)
        elif (node := directory.children.get(hidden)) is not None:
            if not self._is_ours(directory, hidden, node):
                del directory.children[hidden]
            elif isinstance(node, Directory):
                self._clear(node)

    def _clear(self, top: Directory) -> None:
        """Take away what is below a directory and not of this layer. No directory is gone through twice in a layer."""
        stack = [top]
        while stack:
            directory = stack.pop()
            if directory._cleared == self._layer:
                continue
            directory._cleared = self._layer
            ours = {name: node for name, node in directory.children.items() if self._is_ours(directory, name, node)}
            directory.children = ours
            stack += [node for node in ours.values() if isinstance(node, Directory)]

    def _is_ours(self, directory: Directory, name: str, node: Node) -> bool:
        """Say whether a name is of the layer that is being put on top."""
        return node._touched == self._layer or (directory, name) in self._links

    def _find(self, path: str) -> Directory | None:
        """Return the directory at a path; None when there is none."""
        return self._way(path)[-1][1]

    def _make(self, path: str) -> Directory:
        """Return the directory at a path, and make what is missing of it."""
        parent = self.root
        for name, node in self._way(path):
            if node is None:
                node = Directory(IMPLIED, -1, self._layer)
                self._name(parent, name, node)
            node._touched = self._layer
            parent = node
        return parent

    def _way(self, path: str) -> list[tuple[str, Directory | None]]:
        """Return the names, and what they name, of the directories on the way to the end of `path`, the root first.

        Symbolic links are followed. From the first name on that names no directory, all are without a node.
        """
        way: list[tuple[str, Directory | None]] = [("", self.root)]
        if not path:
            return way
        todo = path.split("/")
        todo.reverse()
        followed = 0
        while todo:
            name = todo.pop()
            if followed:
                self._moves -= 1
                if name in ("", "."):
                    continue
                if name == "..":
                    if len(way) > 1:
                        way.pop()
                    continue
            directory = way[-1][1]
            node = directory.children.get(name) if directory else None
            if isinstance(node, Directory):
                way.append((name, node))
            elif node is None or node.member.type is not Type.SYMLINK:
                way.append((name, None))
            else:
                followed += 1
                if followed > _LINKS_MAX or self._moves < 0:
                    raise LayerError("the symbolic links on its way lead around")
                target = node.member.target
                if target[0] == "/":
                    del way[1:]
                todo += reversed(target.split("/"))
        if followed:  # else it is as long and deep as a member's path may be
            bounds.path_of("/".join(name for name, _ in way[1:]))
        return way
