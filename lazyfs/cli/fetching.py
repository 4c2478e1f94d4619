"""fetch: make blobs complete in the store, from sources or through a running mount."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final

import trio

from lazyfs import sizes
from lazyfs.cli.mounting import absolute, connect, is_path, mount_of, read_source
from lazyfs.cli.saying import complain
from lazyfs.errors import LazyfsError, StoreTooSmall, UsageError, first_reason
from lazyfs.filling import Progress, fill
from lazyfs.session import Session, Settings, open_session
from lazyfs.sources.spec import Source
from lazyfs.tree import Directory, File, Node

PIECE: Final = 1 << 20
"""Bytes read at a time to write a file out or to hash it."""

LINE_EVERY: Final = 5.0
"""Seconds between two lines of progress where there is no terminal."""


def fetch(sources: tuple[str, ...], settings: Settings, output: Path | None, digest: str | None) -> None:
    """Fetch everything the sources name. *Raises*: LazyfsError; the first failure, after the rest was done."""
    paths = [source for source in sources if is_path(source)]
    if output is not None:
        _check_writable(output)
    if paths and (output or digest):
        raise UsageError("--output and --digest go with a source, not with a path under a mount: read the path itself")
    for path in paths:
        _fetch_path(Path(path))
    rest = [source for source in sources if source not in paths]
    parsed = [_read_source(text, settings.store) for text in rest]
    if parsed:
        try:
            trio.run(_fetch_sources, parsed, settings, output, digest)
        except BaseException as exc:
            reason = first_reason(exc)
            if reason is None:
                raise
            raise reason from exc


def _read_source(text: str, store: Path) -> Source:
    """Read a source, which may be a blob of the store. *Raises*: LazyfsError."""
    try:
        return read_source(text, store)
    except UsageError as exc:
        if "://" in text:
            raise
        raise UsageError(f"{exc}, or a path under a mount") from None


def _check_writable(output: Path) -> None:
    """Refuse at once what would fail after the download. *Raises*: UsageError."""
    directory = output.absolute().parent
    if output.is_dir():
        raise UsageError(f"{output} is a directory: --output names a file")
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UsageError(f"{output} cannot be written: {directory} is no directory that you can write to")


def _fetch_path(path: Path) -> None:
    mounted = mount_of(path)
    assert mounted is not None
    below = os.path.relpath(absolute(path), mounted.mountpoint)
    with closing(connect(mounted, timeout=None)) as connection, _bar(below) as show:
        for answer in connection.request("fetch", path=below):
            if isinstance(answer, list):
                show(*answer)


async def _fetch_sources(sources: list[Source], settings: Settings, output: Path | None, digest: str | None) -> None:
    async with open_session(settings) as session:
        for source in sources:
            await session.add(source)
        paths = await _files_of(session, session.vfs.tree.root)
        if (output or digest) and len(paths) != 1:
            raise UsageError(f"--output and --digest go with one file; the sources name {len(paths)}")
        failures: dict[str, LazyfsError] = {}
        for path in paths:
            try:
                with suppress(StoreTooSmall) if output or digest else nullcontext(), _bar(path) as show:
                    await fill(session.vfs, path, show)  # else it is read through, and not kept
                if output or digest:
                    await _write_out(session, path, output, digest)
            except LazyfsError as exc:
                failures[path] = exc
        for problem, reason in session.vfs.problems.reasons.items():
            failures.setdefault(problem, LazyfsError(f"{problem}: {reason}"))
        first, *others = failures.values() or [None]
        for failure in others:
            complain(failure)
        if first is not None:
            raise first


async def _files_of(session: Session, directory: Directory) -> list[str]:
    """Return the paths of all files below a directory, indexes listed on the way, in the order they were named."""
    paths: list[str] = []
    nodes: list[Node] = list(reversed(directory.children.values()))  # the last one is the next
    while nodes:
        node = nodes.pop()
        if isinstance(node, Directory):
            if node.urls and node.listed_at is None:
                await session.vfs.listings.refresh(node)
            nodes += reversed(node.children.values())
        elif isinstance(node, File):
            paths.append(node.path)
    return paths


async def _write_out(session: Session, path: str, output: Path | None, digest: str | None) -> None:
    """Check a fetched file's digest and write it out, whole or not at all."""
    node = session.vfs.tree.find(path)
    assert isinstance(node, File)
    handle = await session.vfs.open(node.inode)
    hashed = hashlib.sha256()
    try:
        with _replacing(output) if output else nullcontext() as file:
            offset = 0
            while piece := await session.vfs.read(handle, offset, PIECE):
                offset += len(piece)
                hashed.update(piece)
                if file is not None:
                    await trio.to_thread.run_sync(file.write, piece)
            if digest is not None and hashed.hexdigest() != digest.removeprefix("sha256:").lower():
                raise LazyfsError(f"{path}: its digest is sha256:{hashed.hexdigest()}, not the one that was given")
    except OSError as exc:
        raise LazyfsError(f"{output} cannot be written: {exc.strerror or exc}") from exc
    finally:
        session.vfs.release(handle)


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `output` when it is whole; a device or a pipe is written to as it is."""
    if output.exists() and not output.is_file():
        with output.open("wb") as file:
            yield file
        return
    unfinished = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.rename(output)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """Show progress on stderr: a bar with rate and time left on a terminal, a line now and then in a log."""
    if not sys.stderr.isatty():
        yield from _lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda present, size: bar.update(task, completed=present, total=size)
        bar.update(task, completed=bar.tasks[0].total or 0)


def _lines(name: str) -> Iterator[Progress]:
    began, due, first = time.monotonic(), time.monotonic() + LINE_EVERY, -1
    size = 0

    def show(present: int, total: int) -> None:
        nonlocal due, first, size
        size = total
        first = present if first < 0 else first
        if (now := time.monotonic()) >= due:
            due = now + LINE_EVERY
            rate = (present - first) / (now - began)
            left = f", {(total - present) / rate:.0f} s left" if rate else ""
            print(
                f"{name}: {present * 100 // max(total, 1)} %, {sizes.format_size(int(rate))}/s{left}", file=sys.stderr
            )

    yield show
    print(f"{name}: {sizes.format_size(size)} in {time.monotonic() - began:.1f} s", file=sys.stderr)
