"""A session over a real store and a canned origin: names that come and go, and what must not end the mount."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from lazyfs.entries import Entry
from lazyfs.errors import BlobChanged, LazyfsError, OriginBadAnswer, SourceError
from lazyfs.origin.client import Client
from lazyfs.origin.securing import Trust
from lazyfs.problems import PROBLEMS_KEPT, Problems
from lazyfs.resolve import FRESH_FOR
from lazyfs.session import Session, Settings, open_session
from lazyfs.sources.feed import local_pieces
from lazyfs.sources.spec import parse_source
from lazyfs.tree import File, Node
from lazyfs.versions import Known, Version

ROOT = 1


class Canned:
    """An origin of whole answers by path; `asked` are the requests' first lines. Each connection serves one answer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gate = trio.Event()  # answers wait for it, once it is known what they are
        self.gate.set()

    def page(self, path: str, *names: str, behind: str = "") -> None:
        """Serve an index, with a text behind each name."""
        body = "".join(f'<a href="{name}">{name}</a>{behind}\n' for name in names).encode()
        self.answers[path] = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    def file(self, path: str, size: int, etag: str, *headers: str) -> None:
        """Serve the first byte of a file."""
        lines = [f'ETag: "{etag}"', f"Content-Range: bytes 0-0/{size}", "Content-Length: 1", *headers]
        self.answers[path] = "\r\n".join(["HTTP/1.1 206 Partial", *lines, "", "x"]).encode()

    async def answer(self, stream: trio.SocketStream) -> None:
        """Answer one request, and close."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some() or b"\r\n\r\n"
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        nothing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        answer = self.answers.get(line.split(" ")[1], nothing)
        await self.gate.wait()
        await stream.send_all(answer)
        await stream.aclose()


@asynccontextmanager
async def _session(path: Path) -> AsyncIterator[tuple[Session, Canned]]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        canned = Canned(listener.socket.getsockname()[1])
        nursery.start_soon(partial(trio.serve_listeners, canned.answer, [listener]))
        async with open_session(Settings(path / "store")) as session:
            yield session, canned
        nursery.cancel_scope.cancel()


async def asked_about(session: Session, node: Node) -> None:
    """Have the origin asked whether a file has changed, and wait until that is known."""
    assert isinstance(node, File)
    assert node.known is not None
    session.resolver.doubt(node.known)
    while session.resolver.doubts(node.known.url):
        await trio.sleep(0.001)


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    trio.run(bounded)


@pytest.mark.parametrize("location", ["http://[", "ftp://x/", "http://h:99999/"])
def test_a_redirect_to_no_url_ends_nothing_but_its_name(tmp_path: Path, location: str) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.answers["/bad"] = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode()
            origin.file("/good", 5, "1")
            for name in ("bad", "good"):
                session.vfs.announce([Entry(name, url=f"{origin.url}/{name}")])
            with pytest.raises(LazyfsError):
                await session.vfs.lookup(ROOT, "bad")
            assert (await session.vfs.lookup(ROOT, "good")).visible
            while session.vfs.problems.count == 0:
                await trio.sleep(0.001)

    _run(main)


def test_an_unforeseen_failure_of_a_look_up_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            monkeypatch.setattr(Client, "probe", broken)
            session.vfs.announce([Entry("name", url=f"{origin.url}/name")])
            while session.vfs.problems.count == 0:
                await trio.sleep(0.001)
            assert "ZeroDivisionError" in session.vfs.problems.reasons["name"]

    _run(main)


def test_an_index_takes_away_only_what_it_brought(tmp_path: Path) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.page("/a/", "gone", "from-a/")
            origin.page("/b/", "from-b/")
            origin.page("/a/deep/", "x")
            for name in ("gone", "new", "deep/own", "deep/x"):
                origin.file(f"/a/{name}", 5, "1")
            origin.file("/a/named", 5, "1")
            sources = (f"{origin.url}/a/", f"{origin.url}/b/", f"dir={origin.url}/a/deep/")
            for text in (*sources, f"{origin.url}/a/deep/own", f"alias={origin.url}/a/named"):
                await session.add(parse_source(text))
            root = session.vfs.tree.root
            assert set(root.children) == {"gone", "from-a", "from-b", "dir", "own", "alias"}
            kept = {name: root.children[name] for name in ("from-a", "from-b", "dir", "own", "alias")}
            origin.page("/a/", "from-a/", "new")
            await session.vfs.listings.refresh(root)
            assert set(root.children) == {"from-a", "from-b", "dir", "own", "alias", "new"}
            assert {name: root.children[name] for name in kept} == kept

    _run(main)


def test_an_encoded_index_is_not_an_empty_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.page("/a/", "name")
            origin.answers["/a/"] = origin.answers["/a/"].replace(b"OK\r\n", b"OK\r\nContent-Encoding: gzip\r\n")
            with pytest.raises(OriginBadAnswer, match="gzip"):
                await session.add(parse_source(f"{origin.url}/a/"))

    _run(main)


def test_what_was_found_to_hold_is_not_asked_again_at_each_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.file("/file", 5, "1")
            await session.add(parse_source(f"{origin.url}/file"))
            file = session.vfs.tree.find("file")
            assert isinstance(file, File)
            assert file.known is not None
            object.__setattr__(file.known, "checked_at", time.time() - FRESH_FOR - 1)
            for _ in range(5):
                session.vfs.release(await session.vfs.open(file.inode))
                while session.resolver._revalidating:
                    await trio.sleep(0.001)
            assert len(origin.asked) == 2

    _run(main)


def test_who_asks_what_is_there_now_does_not_get_an_earlier_answer(tmp_path: Path) -> None:
    """An answer of before the change is under way when those ask who come after it; they share one of their own."""

    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.file("/file", 5, "1")
            await session.add(parse_source(f"{origin.url}/file"))
            file = session.vfs.tree.find("file")
            assert isinstance(file, File)
            before, etags = file.known, []
            assert before is not None

            async def ask() -> None:
                etags.append((await session.resolver.checked(before)).version.etag)

            origin.gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                while len(origin.asked) < 2:
                    await trio.sleep(0.001)
                origin.file("/file", 5, "2")
                for _ in range(3):
                    nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.01)
                origin.gate.set()
            assert sorted(map(str, etags)) == ['"1"', '"2"', '"2"', '"2"']
            assert len(origin.asked) == 4, "the last one of them with no-cache, since it brought news"

    _run(main)


def test_an_inode_of_an_old_version_is_not_opened_any_more(tmp_path: Path) -> None:
    """The kernel has it until it has heard that the name has another; of ESTALE it looks the name up again."""

    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.file("/file", 5, "1")
            await session.add(parse_source(f"{origin.url}/file"))
            file = await session.vfs.lookup(ROOT, "file")
            session.vfs.tree.remember(file)
            assert isinstance(file, File)
            assert file.known is not None
            handle = await session.vfs.open(file.inode)
            origin.file("/file", 5, "2")
            await asked_about(session, file)
            with pytest.raises(BlobChanged):
                await session.vfs.open(file.inode)
            session.vfs.release(await session.vfs.open((await session.vfs.lookup(ROOT, "file")).inode))
            session.vfs.release(handle)

    _run(main)


def test_a_digest_is_never_of_two_sizes(tmp_path: Path) -> None:
    async def main() -> None:
        digest = "sha256:" + hashlib.sha256(b"").hexdigest()
        async with _session(tmp_path) as (session, origin):
            origin.file("/file", 5, "1")
            origin.file("/other", 7, "1")
            url = f"{origin.url}/file"
            session.vfs.announce([Entry("file", url=url, digest=digest, size=5)])
            session.vfs.announce([Entry("other", url=f"{origin.url}/other", digest=digest)])
            file = await session.vfs.lookup(ROOT, "file")
            handle = await session.vfs.open(file.inode)
            with pytest.raises(OriginBadAnswer):  # else what is read of it would end at the other's size
                await session.vfs.open((await session.vfs.lookup(ROOT, "other")).inode)
            origin.file("/file", 9, "2")
            await asked_about(session, file)
            assert session.vfs.tree.find("file") is file
            assert "file" in session.vfs.problems.reasons
            session.vfs.release(handle)

    _run(main)


def test_idle_connections_are_bounded_over_all_origins() -> None:
    from lazyfs.origin import wire
    from lazyfs.origin.connection import Connection

    async def main() -> None:
        pool = wire.Pool(lambda _: Trust())
        others = []
        for number in range(wire.IDLE_MAX + 20):
            ours, theirs = socket.socketpair()
            others.append(theirs)
            pool.give_back(("http", f"host{number}", 80), Connection(ours))
        assert len(pool._idle) == wire.IDLE_MAX
        assert pool._take(("http", "host0", 80)) is None
        newest = pool._take(("http", f"host{wire.IDLE_MAX + 19}", 80))
        assert newest is not None
        newest.close()
        pool.close()
        for other in others:
            other.close()

    _run(main)


def test_silent_name_servers_leave_the_threads_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep, real = [], socket.getaddrinfo

    def slow(host: str, port: int, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> object:
        if flags & socket.AI_NUMERICHOST:  # trio's own first try, which asks nobody
            return real(host, port, family, kind, proto, flags)
        asleep.append(host)
        time.sleep(1)
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    async def main() -> None:
        async with _session(tmp_path) as (session, _):
            monkeypatch.setattr(socket, "getaddrinfo", slow)
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(session.resolver.known, [f"http://host{number}.invalid/x"])
                while len(asleep) < 40:
                    await trio.sleep(0.001)
                began = time.monotonic()
                await trio.to_thread.run_sync(lambda: None)
                assert time.monotonic() - began < 0.5
                nursery.cancel_scope.cancel()

    _run(main)


def test_a_local_manifest_that_fails_in_the_middle_is_a_source_error(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "m.jsonl").write_bytes(b"\n")
        pieces = local_pieces(tmp_path / "m.jsonl")
        assert await pieces(0, 10) == b"\n"

        def broken(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio.to_thread.run_sync", broken)
            with pytest.raises(SourceError, match="Input/output"):
                await pieces(1, 10)

    _run(main)


def test_problems_are_counted_once_however_often_they_are_tried_again() -> None:
    problems = Problems()
    for _ in range(3):
        for number in range(PROBLEMS_KEPT + 50):
            problems.add(f"name {number}", "why")
    assert problems.count == PROBLEMS_KEPT + 50
    for number in range(PROBLEMS_KEPT + 50):
        problems.solved(f"name {number}")
    assert problems.count == 0


def test_a_name_removed_from_an_index_stays_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.page("/index/", "a", "b")
            origin.file("/index/a", 1, "1")
            origin.file("/index/b", 1, "1")
            await session.add(parse_source(f"{origin.url}/index/"))
            session.vfs.remove("a")
            await session.vfs.listings.refresh(session.vfs.tree.root)
            assert list(session.vfs.tree.root.children) == ["b"]

    _run(main)


def test_another_date_under_the_same_etag_is_the_same_blob(tmp_path: Path) -> None:
    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.file("/name", 5, "1")
            session.vfs.announce([Entry("name", url=f"{origin.url}/name")])
            node = await session.vfs.lookup(ROOT, "name")
            assert isinstance(node, File)
            assert node.known is not None
            version = dataclasses.replace(node.known.version, last_modified="Sat, 01 Jan 2022 00:00:00 GMT")
            session.vfs._changed(dataclasses.replace(node.known, version=version))
            assert await session.vfs.lookup(ROOT, "name") is node

    _run(main)


@pytest.mark.parametrize("listed", ["2024-01-02 15:30  1.0K", "2024-Jan-02 15:30:00  1.0K", "2024-01-02 15:30  5  "])
def test_a_date_of_an_index_gives_way_to_the_origins_own(tmp_path: Path, listed: str) -> None:
    own, east = 1704189607 * 10**9, 1704209400 * 10**9  # 10:00:07 UTC, and 15:30, as it is east of there

    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            origin.page("/", "dated", "undated", behind=f"  {listed}")
            origin.file("/dated", 5, "1", "Last-Modified: Tue, 02 Jan 2024 10:00:07 GMT")
            origin.file("/undated", 5, "1")
            await session.add(parse_source(origin.url + "/"))
            dated, undated = [await session.vfs.lookup(ROOT, name) for name in ("dated", "undated")]
            assert isinstance(dated, File)
            assert isinstance(undated, File)
            assert dated.mtime_ns == own
            assert undated.mtime_ns == east
            await session.vfs.listings.refresh(session.vfs.tree.root)
            assert await session.vfs.lookup(ROOT, "dated") is dated

    _run(main)


def test_two_who_hear_of_two_versions_at_once_leave_a_file_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an inode's pages in the kernel, and the blocks that are read for it, would be of both."""

    async def main() -> None:
        async with _session(tmp_path) as (session, origin):
            url = f"{origin.url}/file"
            versions = iter([Known(url, Version(5, '"1"')), Known(url, Version(5, '"2"'))])
            here = trio.Event()

            async def known(*_: object, **__: object) -> Known:
                found = next(versions)
                await here.wait()
                return found

            session.vfs.tree.add(Entry("file", url=url))
            file = session.vfs.tree.find("file")
            assert isinstance(file, File)
            monkeypatch.setattr(session.resolver, "known", known)
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(session.vfs.resolve, file)
                await trio.testing.wait_all_tasks_blocked()
                here.set()
            now = session.vfs.tree.find("file")
            assert isinstance(now, File)
            assert now is not file
            assert now.inode != file.inode
            assert {file.known and file.known.version.etag, now.known and now.known.version.etag} == {'"1"', '"2"'}

    _run(main)
