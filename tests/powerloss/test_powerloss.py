"""The power goes, and whatever was not synced may be lost, reordered or torn: nothing unsound is served afterwards.

`tools/powerloss` does the same as often as one likes.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.powerloss.disk import Disk
from tests.powerloss.planting import SEEN_AS
from tests.powerloss.recording import Kind, Op, quick_directory, record
from tests.powerloss.replay import replay

REPLAYS = 40


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lazyfs-powerloss-", dir=quick_directory()) as name:
        yield Path(name)


def test_nothing_unsound_is_served_unless_the_map_is_believed(directory: Path) -> None:
    ops = record(0, "")
    outcome = replay(ops, REPLAYS, 0, directory)
    assert not outcome.found
    assert outcome.at_risk > REPLAYS / 2
    assert outcome.lost > REPLAYS
    fault = "the map is believed, whatever the bytes are"
    assert replay(ops, REPLAYS // 2, 0, directory, fault).shows(SEEN_AS[fault])


@pytest.mark.parametrize("fault", ["names are not synced", "complete is marked before the blob is synced"])
def test_a_run_with_a_fault_is_found_out(directory: Path, fault: str) -> None:
    assert replay(record(0, fault), REPLAYS, 0, directory).shows(SEEN_AS[fault])


def images(disk: Disk, directory: Path) -> set[bytes]:
    """What may be left of the one file of a disk."""
    directory.mkdir()
    dice, found = random.Random(0), set()
    for number in range(200):
        image = directory / str(number)
        disk.image(dice, image)
        found.add(b"".join(file.read_bytes() for file in image.iterdir()))
    return found


def test_a_disk_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    disk = Disk(strict=True)
    one, two, new = (bytes([letter]) * 512 for letter in b"12n")
    for op in (Op(Kind.CREATE, "f"), Op(Kind.WRITE, "f", 0, 0, one + two), Op(Kind.SYNC, "f"), Op(Kind.SYNC, "")):
        disk.do(op)
    assert images(disk, tmp_path / "synced") == {one + two}
    disk.do(Op(Kind.WRITE, "f", 512, 0, new + new))
    left = images(disk, tmp_path / "torn")
    assert {one + two, one + new + new, one + new, one + two + new} <= left
    assert all(content[:512] == one for content in left)
