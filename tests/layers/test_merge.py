"""Layers on each other, by OCI's rules. What umoci makes of the same is in test_umoci.py."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.errors import LayerError
from lazyfs.layers.members import Member, Type
from lazyfs.layers.merge import IMPLIED, Directory, Node, merge, walk


def file(path: str, mode: int = 0o644) -> Member:
    return Member(path, Type.FILE, mode)


def directory(path: str, mode: int = 0o755) -> Member:
    return Member(path, Type.DIRECTORY, mode, mtime_ns=1)


def link(path: str, target: str) -> Member:
    return Member(path, Type.LINK, target=target)


def symlink(path: str, target: str) -> Member:
    return Member(path, Type.SYMLINK, target=target)


def out(path: str) -> Member:
    parent, slash, name = path.rpartition("/")
    return file(f"{parent}{slash}.wh.{name}")


def opaque(path: str) -> Member:
    return file(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def tree(*layers: list[Member]) -> dict[str, Node]:
    """Return the nodes by path, the root excepted."""
    return {path: node for path, node in walk(merge(layers)) if path}


def names(*layers: list[Member]) -> list[str]:
    return sorted(tree(*layers))


def refusal(*layers: list[Member], most: int = 100) -> str:
    with pytest.raises(LayerError) as caught:
        merge(layers, most=most)
    return str(caught.value)


def test_no_layers_are_an_empty_tree() -> None:
    root = merge([])
    assert (root.member, root.layer, root.links, root.children) == (IMPLIED, -1, 2, {})


def test_nodes_know_their_layer_and_parents_are_implied() -> None:
    found = tree([file("a/b/c")], [file("a/d"), directory("a/b", 0o700)])
    assert {path: node.layer for path, node in found.items()} == {"a": -1, "a/b": 1, "a/b/c": 0, "a/d": 1}
    assert (found["a"].member, found["a/b"].member.mode) == (IMPLIED, 0o700)


def test_the_root_has_attributes_of_its_own() -> None:
    assert merge([[directory("", 0o700)], [directory("", 0o711)]]).member.mode == 0o711
    assert "layer 0, '': the root is said to be a file" in refusal([file("")])


def test_the_uppermost_file_is_the_one() -> None:
    found = tree([file("a", 0o600), file("a", 0o601)], [file("a", 0o602)])
    assert (found["a"].member.mode, found["a"].layer, found["a"].links) == (0o602, 1, 1)


@pytest.mark.parametrize("upper", [file("a"), symlink("a", "x"), Member("a", Type.FIFO)])
def test_what_is_no_directory_takes_the_place_of_one(upper: Member) -> None:
    assert names([directory("a"), file("a/b")], [upper]) == ["a"]
    assert names([directory("a"), file("a/b"), upper]) == ["a"]


def test_a_directory_takes_the_place_of_a_file_and_keeps_what_a_directory_has() -> None:
    assert names([file("a")], [directory("a"), file("a/b")]) == ["a", "a/b"]
    assert names([file("a")], [file("a/b")]) == ["a", "a/b"]
    assert names([file("a/b")], [directory("a")], [directory("a")]) == ["a", "a/b"]


def test_whiteouts() -> None:
    lower = [file("a/b"), file("a/c/d"), file("e")]
    assert names(lower, [out("a/b")]) == ["a", "a/c", "a/c/d", "e"]
    assert names(lower, [out("a")]) == ["e"]
    assert names(lower, [out("a/c")], [out("e"), out("e")]) == ["a", "a/b"]
    assert names(lower, [out("nothing"), out("no/thing"), out("e/thing")]) == names(lower)
    assert names(lower, [opaque("a")]) == ["a", "e"]
    assert names(lower, [opaque("")]) == []
    assert tree(lower, [out("e")])["a"].layer == -1


@pytest.mark.parametrize(
    "upper", list(permutations([opaque("a"), file("a/new"), file("a/c/new"), link("a/link", "e"), out("a/c/d")]))
)
def test_a_layer_never_takes_away_what_is_its_own(upper: tuple[Member, ...]) -> None:
    lower = [directory("a", 0o700), file("a/b"), file("a/c/d"), file("a/c/x/y"), file("e")]
    found = tree(lower, list(upper))
    assert sorted(found) == ["a", "a/c", "a/c/new", "a/link", "a/new", "e"]
    assert (found["a"].member.mode, found["e"].links) == (0o700, 2)


@pytest.mark.parametrize("upper", list(permutations([out("a"), file("a/new")])))
def test_a_whiteout_beside_what_it_hides(upper: tuple[Member, ...]) -> None:
    assert names([file("a/old")], list(upper)) == ["a", "a/new"]


def test_whiteouts_of_no_name_are_refused() -> None:
    for name in (".wh.", ".wh..", ".wh...", "a/.wh.."):
        assert "whiteout of no name" in refusal([file(name)])


def test_hard_links_share_a_node() -> None:
    found = tree([file("a"), link("b", "a"), link("d/c", "b")])
    assert found["a"] is found["b"] is found["d/c"]
    assert found["a"].links == 3


def test_hard_links_into_lower_layers() -> None:
    found = tree([file("a", 0o600), file("x")], [link("b", "a")], [file("a", 0o700), link("a2", "a"), out("x")])
    assert (found["b"].member.mode, found["b"].layer, found["b"].links) == (0o600, 0, 1)
    assert found["a"] is found["a2"]
    assert (found["a"].links, sorted(found)) == (2, ["a", "a2", "b"])
    assert tree([symlink("s", "nowhere")], [link("t", "s")])["t"].member.type is Type.SYMLINK


def test_hard_links_that_lead_nowhere() -> None:
    assert refusal([link("a", "b/c")]) == "layer 0, 'a': the hard link's target 'b/c' is not there"
    assert "is a directory" in refusal([directory("d"), link("a", "d")])
    assert "not there" in refusal([file("a")], [out("a"), link("b", "a")])


def test_links_on_the_way_are_followed_and_never_out_of_the_tree() -> None:
    lower = [
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("usr/out", "../../../etc"),
        symlink("abs", "/usr/./"),
    ]
    found = tree(lower, [file("lib/x"), file("usr/out/y"), file("abs/lib/z"), link("hard", "lib/x")])
    assert sorted(set(found) - {"lib", "usr/out", "abs"}) == [
        "etc", "etc/y", "hard", "usr", "usr/lib", "usr/lib/x", "usr/lib/z"
    ]  # fmt: skip
    assert found["hard"] is found["usr/lib/x"]
    assert found["lib"].member.type is Type.SYMLINK
    assert "usr/lib/x" not in tree(lower, [file("lib/x")], [out("lib/x")])
    assert names([symlink("a", "new/dir")], [file("a/b")]) == ["a", "new", "new/dir", "new/dir/b"]
    assert names([symlink("a", "no/../x")], [file("a/b")]) == ["a", "x", "x/b"]


def test_a_directory_of_the_layer_takes_the_place_of_a_link() -> None:
    assert names([file("usr/x"), symlink("a", "usr")], [directory("a"), out("a/x"), file("a/y")]) == [
        "a", "a/y", "usr", "usr/x"
    ]  # fmt: skip


def test_links_that_lead_around_are_refused() -> None:
    assert "lead around" in refusal([symlink("a", "b"), symlink("b", "a"), file("a/x")])
    assert "lead around" in refusal([symlink("a", "a/a/a"), file("a/x")])
    long = "/".join(["d", ".."] * 1000)
    chain = [directory("d"), *(symlink(f"s{n}", f"{long}/s{n + 1}") for n in range(39)), directory("s39")]
    assert "lead around" in refusal([*chain, *(file(f"s0/{n}") for n in range(400))], most=1000)


def test_links_that_lead_to_what_no_member_could_be_called_are_refused() -> None:
    assert "256 bytes" in refusal([symlink("a", "x" * 256), file("a/b")])
    deep = "/".join(["d"] * 1500)
    assert "too long" in refusal([symlink("a", deep), symlink("b", f"a/{deep}"), file("b/c")], most=10_000)


def test_links_of_directories() -> None:
    root = merge([[directory("a/b"), file("a/c"), directory("d")]])
    assert {path: node.links for path, node in walk(root) if isinstance(node, Directory)} == {
        "": 4, "a": 3, "a/b": 2, "d": 2
    }  # fmt: skip


def test_bounds() -> None:
    assert "more than 100 names" in refusal([file(str(n)) for n in range(101)])
    assert "more than 100 names" in refusal([file("d/" * 100 + "f")])


def test_many_whiteouts_of_a_deep_tree_are_quick() -> None:
    """Each directory is gone through once, however many whiteouts are above it."""
    deep = ["/".join(["d"] * n) for n in range(1, 1000)]
    wide = [file(f"{deep[-1]}/{n}") for n in range(500)]
    upper = [file(f"{deep[-1]}/new"), *(opaque(path) for path in reversed(deep)), *(out(path) for path in deep)] * 3
    root = merge([wide, [*upper, *wide[:10]]])
    assert sum(1 for _ in walk(root)) == 1 + 999 + 11


# --- a model that does the same with sets of paths, in the plainest way

parts = st.sampled_from(["a", "b"])
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
members = st.one_of(
    st.builds(file, paths), st.builds(directory, paths), st.builds(out, paths), st.builds(opaque, paths)
)  # fmt: skip


def model(layers: list[list[Member]]) -> dict[str, int]:
    """Return the layer of each path."""
    there: dict[str, tuple[int, Type]] = {}
    for index, layer in enumerate(layers):
        ours: set[str] = set()
        for member in layer:
            parent, _, name = member.path.rpartition("/")
            if name.startswith(".wh."):
                hidden = [p for p in there if f"{p}/".startswith(f"{parent}/" if parent else "")]
                if name != ".wh..wh..opq":
                    path = f"{parent}/{name[4:]}".removeprefix("/")
                    hidden = [p for p in there if f"{p}/".startswith(f"{path}/")]
                elif there.get(parent, (0, Type.DIRECTORY))[1] is Type.DIRECTORY:
                    hidden = [p for p in hidden if p != parent]
                else:
                    hidden = []
                for path in hidden:
                    if path not in ours:
                        del there[path]
                continue
            above = [member.path[:at] for at, letter in enumerate(member.path) if letter == "/"]
            for path in above:
                if there.get(path, (0, Type.FILE))[1] is not Type.DIRECTORY:
                    there[path] = -1, Type.DIRECTORY
            if member.type is not Type.DIRECTORY or there.get(member.path, (0, Type.FILE))[1] is not Type.DIRECTORY:
                for path in [p for p in there if p.startswith(f"{member.path}/")]:
                    del there[path]
            there[member.path] = index, member.type
            ours |= {member.path, *above}
    return {path: index for path, (index, _) in there.items()}


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.lists(members, max_size=6), max_size=4))
def test_merging_is_as_in_the_model(layers: list[list[Member]]) -> None:
    assert {path: node.layer for path, node in tree(*layers).items()} == model(layers)
