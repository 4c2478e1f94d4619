"""What one daemon of a mount leaves to the next: open files, and inodes whose number that would not give anew.

A request that is sent again has the number that it had: the kernel does so with what was not answered.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from lazyfs import journal
from lazyfs.entries import Entry
from lazyfs.errors import InodeUnknown, NameMissing
from lazyfs.journal import Journal
from lazyfs.options import Settings
from lazyfs.session import Session, open_session
from lazyfs.sources.spec import parse_source
from lazyfs.tree import File, Pending
from tests.unit.test_session import ROOT, _run, _session, asked_about


@asynccontextmanager
async def daemon(path: Path, written: int, url: str) -> AsyncIterator[Session]:
    """Be the next daemon of a mount."""
    async with open_session(Settings(path / "store")) as session:
        legacy = journal.read(written)
        session.vfs.inherit(legacy)
        session.vfs.keep_journal(Journal(written, legacy, os.close))
        await session.add(parse_source(url))
        session.vfs.complete.set()
        yield session


@asynccontextmanager
async def one_file(path: Path) -> AsyncIterator[tuple[Callable[[], AbstractAsyncContextManager[Session]], int]]:
    """Serve one file; yields who gives the next daemon of its mount, and their journal."""
    written = os.memfd_create("journal")
    async with _session(path) as (_, origin):
        origin.file("/file", 5, "1")
        yield partial(daemon, path, written, f"{origin.url}/file"), written


def test_what_is_asked_again_is_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with one_file(tmp_path) as (next_daemon, _):
            async with next_daemon() as session:
                inode = (await session.vfs.lookup(ROOT, "file")).inode
                await session.vfs.open(inode, 10)
                await session.vfs.open(inode, 12)  # and dies before it has answered
            async with next_daemon() as session:
                assert session.vfs.files.counted(12)
                assert not session.vfs.files.counted(14)
                await session.vfs.open(inode, 12)
                assert session.vfs.opened[inode][1] == 2
                session.vfs.release(inode, 16)  # and dies before it has answered
            async with next_daemon() as session:
                assert session.vfs.files.counted(16), "it is not to be closed a second time"
                await session.vfs.files.recall(inode)
                assert session.vfs.opened[inode][1] == 1
                session.vfs.release(inode, 18)
                assert not session.vfs.opened
                with pytest.raises(NameMissing):
                    await session.vfs.files.recall(inode)

    _run(main)


def test_our_own_opens_are_not_left_to_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with one_file(tmp_path) as (next_daemon, written):
            async with next_daemon() as session:
                inode = (await session.vfs.lookup(ROOT, "file")).inode
                await session.vfs.open(inode)
                await session.vfs.open(inode, 10)
                session.vfs.release(inode)
                assert journal.read(written).opened[inode].times == 1
            async with next_daemon() as session:
                session.vfs.release(inode, 12)
                assert not journal.read(written).opened

    _run(main)


def test_a_file_that_is_closed_while_it_is_recalled(tmp_path: Path) -> None:
    async def main() -> None:
        async with one_file(tmp_path) as (next_daemon, _):
            async with next_daemon() as session:
                inode = (await session.vfs.lookup(ROOT, "file")).inode
                await session.vfs.open(inode, 10)
            async with next_daemon() as session:
                reopened = session.vfs.files._reopen

                async def slowly(given):  # type: ignore[no-untyped-def]
                    blob = await reopened(given)
                    session.vfs.release(inode, 12)
                    return blob

                session.vfs.files._reopen = slowly
                with pytest.raises(NameMissing):
                    await session.vfs.files.recall(inode)
                assert not session.blobs.opened

    _run(main)


def test_a_new_version_keeps_the_number_that_the_kernel_was_told(tmp_path: Path) -> None:
    async def main() -> None:
        written = os.memfd_create("journal")
        async with _session(tmp_path) as (_, origin):
            origin.page("/a/", "file", behind=" 2026-01-01 00:00 5")
            origin.file("/a/file", 5, "1")
            async with daemon(tmp_path, written, f"{origin.url}/a/") as session:
                file = await session.vfs.lookup(ROOT, "file")
                await session.vfs.open(file.inode)
                origin.file("/a/file", 6, "2")
                await asked_about(session, file)
                changed = await session.vfs.lookup(ROOT, "file")
                assert changed.inode != file.inode
            async with daemon(tmp_path, written, f"{origin.url}/a/") as session:
                found = await session.vfs.settled(changed.inode)
                assert isinstance(found, File)
                assert (found.path, found.size) == ("file", 6)
                with pytest.raises(InodeUnknown):
                    session.vfs.node(12345)
                session.vfs.forget(changed.inode, 1)
                assert not journal.read(written).aliases

    _run(main)


def test_what_stood_for_a_file_goes_on_to(tmp_path: Path) -> None:
    async def main() -> None:
        written = os.memfd_create("journal")
        async with _session(tmp_path) as (_, origin):
            origin.file("/file", 5, "1")
            origin.file("/late", 7, "1")
            late = Entry("late", url=f"{origin.url}/late")
            async with daemon(tmp_path, written, f"{origin.url}/file") as session:
                origin.gate = trio.Event()
                session.vfs.announce([late])
                stand_in = await session.vfs.lookup_soon(ROOT, "late")
                assert isinstance(stand_in, Pending)
                origin.gate.set()
            async with daemon(tmp_path, written, f"{origin.url}/file") as session:
                session.vfs.announce([late])
                found = await session.vfs.settled(stand_in.inode)
                assert isinstance(found, File)
                assert found.size == 7
                assert await session.vfs.open(stand_in.inode, 10) == stand_in.inode

    _run(main)
