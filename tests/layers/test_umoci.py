"""The merged tree of an image of three layers, beside what `umoci unpack` makes of the same image."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lazyfs.layers import packed
from lazyfs.layers.members import Member, Type
from lazyfs.layers.merge import IMPLIED, Directory, merge, walk
from tests.layers import everything, samples, seeing, writing
from tests.layers.everything import run
from tests.layers.reading import from_estargz, from_shared, from_tar, from_zstd_chunked


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three layers of a tree with one of everything, uncompressed."""
    return everything.layers(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def unpacked(layers: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, seeing.Seen]:
    """What umoci unpacks."""
    work = tmp_path_factory.mktemp("umoci")
    writing.layout(work / "image", layers)
    run("umoci", "raw", "unpack", "--image", work / "image:latest", work / "rootfs")
    return seeing.on_disk(str(work / "rootfs"))


DISTURBED = {"", "opaque/deep"}
"""Directories that umoci changes after it has set their times: it makes, or removes, something there."""


def assert_same(found: dict[str, seeing.Seen], root: Directory, wanted: dict[str, seeing.Seen]) -> None:
    implied = {path for path, node in walk(root) if node.member == IMPLIED}
    assert implied == {"implied", "implied/here"}
    for path in implied | DISTURBED:
        found[path], wanted[path] = (replace(side[path], mtime_ns=0) for side in (found, wanted))
    assert sorted(found) == sorted(wanted)
    assert [(path, seen, wanted[path]) for path, seen in found.items() if seen != wanted[path]] == []


@pytest.mark.parametrize(
    "form", [from_tar, from_estargz, from_shared, from_zstd_chunked], ids=lambda form: form.__name__
)
def test_the_merged_tree_is_what_umoci_unpacks(
    form: Callable[[bytes], tuple[list[Member], bytes]], layers: list[bytes], unpacked: dict[str, seeing.Seen]
) -> None:
    forms = [form(layer) for layer in layers]
    root = merge(packed.unpack(packed.pack(members)) for members, _ in forms)
    found = seeing.merged(root, [seeing.stored_in(blob) for _, blob in forms])
    assert_same(found, root, dict(unpacked))


def test_random_images_are_merged_as_umoci_unpacks_them(tmp_path: Path) -> None:
    """Where umoci takes an image, we do, and see the same, but for when directories were changed, which umoci loses."""
    taken = 0
    while taken < 20:
        seed = random.SystemRandom().randrange(10**9)
        work = tmp_path / str(seed)
        layers = samples.image(random.Random(seed))
        writing.layout(work / "image", layers)
        words = ("umoci", "raw", "unpack", "--image", f"{work}/image:latest", f"{work}/rootfs")
        if subprocess.run(words, capture_output=True, timeout=60, check=False).returncode != 0:
            continue  # a file where a directory is wanted, a hard link to nothing
        taken += 1
        root = merge(from_tar(layer)[0] for layer in layers)
        found = seeing.merged(root, [seeing.stored_in(layer) for layer in layers])
        assert timeless(found) == timeless(seeing.on_disk(f"{work}/rootfs")), f"seed {seed}"


def timeless(tree: dict[str, seeing.Seen]) -> dict[str, seeing.Seen]:
    return {path: replace(seen, mtime_ns=0) if seen.type is Type.DIRECTORY else seen for path, seen in tree.items()}
