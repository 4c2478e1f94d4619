"""Removal in two steps, and what killed removers leave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lazyfs.store import trash
from lazyfs.store.layout import Layout, open_layout
from tests.unit.stores import BLOB, BLOCK, SIZE, directory, fill, in_processes, layout, opened

__all__ = ["layout"]


def make(layout: Layout) -> None:
    with opened(layout) as blob:
        fill(blob)


def in_trash(layout: Layout) -> list[str]:
    return os.listdir(layout.trash)


def test_a_blob_in_use_stays(layout: Layout) -> None:
    with opened(layout) as blob:
        fill(blob)
        assert trash.stage(layout, BLOB) is None
        assert blob.present_bytes() == SIZE
    assert directory(layout).exists()


def test_a_blob_goes_in_two_steps(layout: Layout) -> None:
    make(layout)
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    assert not directory(layout).exists()
    assert in_trash(layout) == [staged.name]
    with opened(layout) as blob:  # a reader that comes meanwhile has a new one
        assert blob.present_bytes() == 0
        assert trash.sweep(layout) == 0  # it is not left over: its lock is held
        trash.delete(layout, staged)
    assert in_trash(layout) == []
    assert directory(layout).exists()


def test_a_large_blob_goes_in_as_many_steps_as_it_has_data(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [0, 1 << 30, (1 << 30) + trash.STEP + BLOCK, 1 << 40]
    with opened(layout, (1 << 42) - 1) as blob:
        for place in places:
            blob.write(place // BLOCK, bytes(BLOCK))
    cuts: list[int] = []
    truncate = os.ftruncate

    def cut(fd: int, size: int) -> None:
        cuts.append(size)
        truncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", cut)
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    trash.delete(layout, staged)
    assert cuts == [1 << 40, (1 << 30) + trash.STEP, 1 << 30]
    assert in_trash(layout) == []


def test_what_is_not_there_is_not_removed(layout: Layout) -> None:
    assert trash.stage(layout, BLOB) is None


@pytest.mark.parametrize("left", [{"data", "map", "lock"}, {"map", "lock"}, {"lock"}, set()])
def test_leftovers_of_a_killed_remover_are_swept(layout: Layout, left: set[str]) -> None:
    make(layout)
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    for name in {"data", "map", "lock"} - left:
        (layout.path / "trash" / staged.name / name).unlink()
    os.close(staged.lock)  # as its death would
    assert trash.sweep(layout) == 1
    assert trash.sweep(layout) == 0
    assert in_trash(layout) == []


def strange_file(entry: Path) -> None:
    entry.write_bytes(b"x")


def strange_link(entry: Path) -> None:
    entry.symlink_to(entry.parent.parent / "blobs")


def strange_lock(entry: Path) -> None:
    (entry / "lock").mkdir(parents=True)


def strange_data(entry: Path) -> None:
    (entry / "data" / "deep").mkdir(parents=True)
    (entry / "lock").symlink_to("elsewhere")


@pytest.mark.parametrize("strange", [strange_file, strange_link, strange_lock, strange_data])
def test_what_is_no_blob_is_swept_too(layout: Layout, strange: Callable[[Path], None]) -> None:
    make(layout)
    strange(layout.path / "trash" / "strange")
    assert trash.sweep(layout) == 1
    assert in_trash(layout) == []
    assert directory(layout).exists()


def test_an_opener_that_comes_too_late_does_not_stop_the_deletion(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the directory open, and makes a lock in it just before the directory goes."""
    make(layout)
    staged = trash.stage(layout, BLOB)
    assert staged is not None
    rmdir = os.rmdir

    def late(name: str, *, dir_fd: int) -> None:
        monkeypatch.undo()
        (layout.path / "trash" / name / "lock").touch()
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", late)
    trash.delete(layout, staged)
    trash.sweep(layout)
    assert in_trash(layout) == []


def _open_and_remove(path: Path) -> int:
    layout, removed = open_layout(path), 0
    for _ in range(50):
        make(layout)
        if (staged := trash.stage(layout, BLOB)) is not None:
            trash.delete(layout, staged)
            removed += 1
        trash.sweep(layout)
    return removed


def test_racing_removers(tmp_path: Path) -> None:
    assert sum(in_processes(3, _open_and_remove, tmp_path / "store")) > 0
    layout = open_layout(tmp_path / "store")
    trash.sweep(layout)
    assert in_trash(layout) == []
    layout.close()
