"""The order of a directory's names: the same whatever came first, kept while it holds, and made in pieces."""

from __future__ import annotations

import random

import pytest
import trio

from lazyfs import inorder
from lazyfs.entries import Entry, Kind
from lazyfs.inorder import behind, in_order
from lazyfs.tree import Directory, File, Node, Tree, cookie
from lazyfs.versions import Known, Version


@pytest.fixture(params=[3, 10_000], ids=["in pieces", "at once"])
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A thousand names, in an order of their own."""
    monkeypatch.setattr(inorder, "AT_ONCE", request.param)
    names = [f"name-{number}" for number in range(1000)]
    random.Random(1).shuffle(names)
    tree = Tree()
    for name in names:
        tree.add(Entry(name, size=1))
    return tree


def names(nodes: object) -> list[str]:
    assert isinstance(nodes, list)
    return [node.name for node in nodes if isinstance(node, Node)]


def expected(directory: Directory) -> list[str]:
    return sorted((name for name, node in directory.children.items() if node.visible), key=cookie)


def test_by_the_names_alone(tree: Tree) -> None:
    assert names(trio.run(in_order, tree.root)) == expected(tree.root)


def test_behind_a_cookie_also_of_a_name_that_is_gone(tree: Tree) -> None:
    nodes = trio.run(in_order, tree.root)
    assert behind(nodes, 0) == range(1000)
    gone = nodes[500]
    tree.detach(gone)
    fewer = trio.run(in_order, tree.root)
    assert fewer[behind(fewer, cookie(gone.name))[0]] is nodes[501]
    assert not behind(nodes, cookie(nodes[-1].name))


def test_it_is_kept_until_the_names_change(tree: Tree) -> None:
    async def main() -> None:
        file = tree.add(Entry("announced"))
        assert isinstance(file, File)
        before = await in_order(tree.root)
        assert await in_order(tree.root) is before
        tree.know(file, Known("http://h/x", Version(1)))
        learnt = await in_order(tree.root)
        assert names(learnt) == expected(tree.root)
        assert len(learnt) == len(before) + 1
        tree.replace(file, Known("http://h/x", Version(2)))
        assert file not in await in_order(tree.root)
        tree.add(Entry("new", Kind.DIRECTORY))
        assert names(await in_order(tree.root)) == expected(tree.root)
        assert len(before) == 1000, "who has it goes on with it"

    trio.run(main)


def test_names_that_come_while_it_is_made(monkeypatch: pytest.MonkeyPatch, tree: Tree) -> None:
    monkeypatch.setattr(inorder, "AT_ONCE", 3)

    async def main() -> None:
        late: list[str] = []

        async def come() -> None:
            while True:
                late.append(f"late-{len(late)}")
                tree.add(Entry(late[-1], size=1))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            found = names(await in_order(tree.root))
            nursery.cancel_scope.cancel()
        assert len(late) > 100
        assert sorted(set(found).difference(late)) == sorted(f"name-{number}" for number in range(1000))
        assert names(await in_order(tree.root)) == expected(tree.root)

    trio.run(main)
