"""The nodes of an image's tree: what they are, their numbers, and who keeps one when another image comes."""

from __future__ import annotations

from collections.abc import Sequence

from lazyfs.entries import Refusal
from lazyfs.layers.layer import Layer
from lazyfs.layers.members import Member, Type
from lazyfs.layers.merge import merge
from lazyfs.rootfs.nodes import ImageDirectory, ImageFile, ImageLink, ImageRoot, grow, image_node, mode_of, root_of
from lazyfs.tree import Tree

LOWER = [
    Member("usr", Type.DIRECTORY, 0o751),
    Member("usr/tool", Type.FILE, 0o4755, size=5),
    Member("usr/again", Type.LINK, target="usr/tool"),
    Member("link", Type.SYMLINK, 0o644, target="usr"),
    Member("null", Type.CHARACTER, 0o666, device=(1, 3)),
]
UPPER = [Member("usr/more/file", Type.FILE, size=1)]


def layer(number: int) -> Layer:
    """Return a layer that is known by a number."""
    return Layer(f"sha256:{number:064x}", 1, "", ("http://host/",))


def grown(tree: Tree, layers: Sequence[tuple[int, list[Member]]]) -> ImageRoot:
    """Show the tree of an image, all of it."""
    root = ImageRoot("rootfs", tree.root, tuple(layer(number) for number, _ in layers))
    assert tree.place(root) is root
    all_of_it = grow(root, merge(members for _, members in layers))
    tree.graft(root, all_of_it.children, all_of_it.nodes)
    root.member, root.links, root.grown = all_of_it.member, all_of_it.links, True
    return root


def test_an_images_names_are_nodes() -> None:
    """Hard links are one file; link counts are those of a file system."""
    tree = Tree()
    root = grown(tree, [(1, LOWER), (2, UPPER)])
    tool, again = tree.find("rootfs/usr/tool"), tree.find("rootfs/usr/again")
    assert {type(tool), type(again)} == {ImageFile, ImageLink}
    assert tool is not None
    assert again is not None
    assert tool.inode == again.inode
    assert image_node(tool) is image_node(again)
    file = tree.node(tool.inode)
    assert isinstance(file, ImageFile)
    assert (file.links, mode_of(file.member), file.layer) == (2, 0o104755, layer(1))
    usr = tree.find("rootfs/usr")
    assert isinstance(usr, ImageDirectory)
    assert (usr.links, root.links) == (3, 3)
    link = tree.find("rootfs/link")
    assert isinstance(link, ImageFile)
    assert mode_of(link.member) == 0o120777
    assert root_of(again) is root_of(usr) is root
    assert (tree.files, tree.size) == (0, 0)


def test_look_ups_of_all_names_count_for_the_file() -> None:
    """It goes when the kernel has forgotten them all, and not before."""
    tree = Tree()
    root = grown(tree, [(1, LOWER)])
    tool, again = tree.find("rootfs/usr/tool"), tree.find("rootfs/usr/again")
    assert tool is not None
    assert again is not None
    tree.remember(tool)
    tree.remember(again)
    tree.detach(root)
    assert not tree.forget(tool.inode, 1)
    assert tree.node(tool.inode) is not None
    assert tree.forget(tool.inode, 1)
    assert tree.node(tool.inode) is None


def test_numbers_are_the_same_in_another_daemon_and_whatever_else_there_is() -> None:
    """A file's tell its path and its layer, a directory's its path and the image."""
    one, other = Tree(), Tree()
    grown(one, [(1, LOWER)])
    grown(other, [(1, LOWER), (2, UPPER)])
    for path, same in (("usr/tool", True), ("usr/again", True), ("null", True), ("usr", False)):
        numbers = [node.inode for tree in (one, other) if (node := tree.find(f"rootfs/{path}")) is not None]
        assert len(numbers) == 2
        assert (numbers[0] == numbers[1]) is same


def test_what_two_images_have_in_common_stays_known_to_the_kernel() -> None:
    """The new node takes over the number, with the look-ups; the old one is nobody's any more."""
    tree = Tree()
    before = grown(tree, [(1, LOWER)])
    old = tree.find("rootfs/null")
    assert old is not None
    tree.remember(old)
    tree.remember(before)
    tree.detach(before)
    grown(tree, [(1, LOWER), (2, UPPER)])
    new = tree.find("rootfs/null")
    assert new is not None
    assert new is not old
    assert tree.node(old.inode) is new
    assert (new.inode, new.lookups) == (old.inode, 1)
    assert tree.node(before.inode) is before
    assert tree.forget(new.inode, 1)
    assert tree.node(new.inode) is new  # it has a name


def test_a_name_that_is_taken_stays_so() -> None:
    """The first to come keeps it."""
    tree = Tree()
    grown(tree, [(1, LOWER)])
    assert isinstance(tree.place(ImageRoot("rootfs", tree.root, ())), Refusal)
