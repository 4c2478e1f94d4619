"""Names and inodes, against a model that is a dictionary."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from lazyfs.entries import Entry, Kind, Refusal
from lazyfs.tree import ROOT_INODE, Directory, File, Node, Symlink, Tree, cookie
from lazyfs.versions import Known, Version

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
sizes = st.none() | st.integers(0, 3)


def known(size: int, version: int) -> Known:
    return Known("http://h/x", Version(size, f'"{version}"'))


class Trees(RuleBasedStateMachine):
    """Names come, are learnt, replaced, removed and forgotten; the model has what is attached, by path."""

    nodes: Bundle[Node] = Bundle("nodes")  # also those that have been removed since

    @initialize()
    def begin(self) -> None:
        self.tree = Tree()
        self.model: dict[str, Node] = {}
        self.ever: dict[int, Node] = {}  # by inode number, as long as the kernel may know it

    @rule(target=nodes, path=paths, kind=st.sampled_from(Kind), size=sizes)
    def add(self, path: str, kind: Kind, size: int | None) -> Any:
        node = self.tree.add(Entry(path, kind, "http://h/x", size=size, symlink="to"))
        parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
        blocked = any(not isinstance(self.model.get(parent, Directory("", None)), Directory) for parent in parents)
        taken = self.model.get(path)
        again = isinstance(taken, Directory) and kind is Kind.DIRECTORY
        if not blocked:
            self.model |= {parent: found for parent in parents if (found := self.tree.find(parent))}
        if blocked or (taken is not None and not again):
            assert isinstance(node, Refusal)
            return multiple()
        assert isinstance(node, Node)
        assert isinstance(node, {Kind.FILE: File, Kind.DIRECTORY: Directory, Kind.SYMLINK: Symlink}[kind])
        assert taken in (None, node)
        self.model[path] = node
        return multiple(node, *(self.model[parent] for parent in parents))

    @rule(node=nodes, name=names)
    def list_too_late(self, node: Node, name: str) -> None:
        """A listing comes in for a directory that was taken away."""
        if isinstance(node, Directory) and not node.attached:
            self.tree.add(Entry(name, size=1), node)

    @rule(node=nodes, size=st.integers(0, 3), version=st.integers(0, 2))
    def learn(self, node: Node, size: int, version: int) -> None:
        """An origin answers; perhaps only after the name was taken away."""
        if isinstance(node, File) and (node.size is None or node.size == size):
            self.tree.know(node, known(size, version))

    @rule(target=nodes, node=nodes, size=st.integers(0, 3), version=st.integers(0, 2))
    def replace(self, node: Node, size: int, version: int) -> Any:
        now = known(size, version)
        if not (isinstance(node, File) and node.attached and node.visible) or now == node.known:
            return multiple()
        new = self.tree.replace(node, now)
        assert new.inode != node.inode
        self.model[new.path] = new
        return new

    @rule(node=nodes)
    def remove(self, node: Node) -> None:
        if node.attached:
            path = node.path
            self.tree.detach(node)
            self.model = {p: n for p, n in self.model.items() if p != path and not p.startswith(path + "/")}

    @rule(node=nodes)
    def look_up(self, node: Node) -> None:
        """The kernel looks a name up: only visible ones, which are attached, are told of."""
        if node.attached and node.visible:
            self.tree.remember(node)
            self.ever[node.inode] = node

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if self.ever:
            inode = data.draw(st.sampled_from(sorted(self.ever)))
            lookups = data.draw(st.integers(1, self.ever[inode].lookups))
            self.tree.forget(inode, lookups)
            if self.ever[inode].lookups == 0:
                del self.ever[inode]

    @invariant()
    def names_are_as_in_the_model(self) -> None:
        for path, node in self.model.items():
            assert self.tree.find(path) is node
            assert node.path == path
            assert node.attached

    @invariant()
    def inodes_are_those_of_the_visible_and_the_remembered(self) -> None:
        due = {node.inode: node for node in self.model.values() if node.visible} | self.ever | {1: self.tree.root}
        assert self.tree._inodes == due
        assert all(self.tree.node(inode) is node for inode, node in due.items())

    @invariant()
    def counters_count(self) -> None:
        files = [node for node in self.model.values() if isinstance(node, File) and node.visible]
        assert self.tree.files == len(files)
        assert self.tree.size == sum(file.size or 0 for file in files)


TestTrees = Trees.TestCase
TestTrees.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def tree_of(paths: list[str]) -> Tree:
    tree = Tree()
    for path in paths:
        tree.add(Entry(path, url=f"http://h/{path}", size=len(path)))
    return tree


def test_an_inode_does_not_depend_on_what_came_before() -> None:
    paths = [f"{directory}/{name}" for directory in "ab" for name in "xyz"]
    trees = tree_of(paths), tree_of(paths[::-1])
    numbers = [{path: node.inode for path in [*paths, "a"] if (node := tree.find(path))} for tree in trees]
    assert numbers[0] == numbers[1]
    assert len({*numbers[0].values(), ROOT_INODE}) == 8


def test_a_new_version_is_a_new_inode_and_an_old_one_comes_back() -> None:
    tree = Tree()
    first = tree.add(Entry("f", url="http://h/f"))
    assert isinstance(first, File)
    tree.know(first, known(1, 1))
    second = tree.replace(first, known(1, 2))
    third = tree.replace(second, known(1, 1))
    assert first.inode == third.inode != second.inode


def test_cookies_are_stable_and_above_those_of_dots() -> None:
    found = [cookie(f"{number}") for number in range(1000)]
    assert min(found) >= 3
    assert max(found) < 2**63
    assert len(set(found)) == 1000
