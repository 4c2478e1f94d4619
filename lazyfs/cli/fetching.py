"""fetch: make blobs complete in the store, from sources or through a running mount."""

from __future__ import annotations

import hashlib
import logging
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
from lazyfs.cli.doing import Done
from lazyfs.cli.mounting import absolute, connect, is_path, mount_of, read_source
from lazyfs.cli.saying import TRACEBACK, complain
from lazyfs.errors import LazyfsError, StoreTooSmall, UsageError, first_reason
from lazyfs.filling import Progress, fill
from lazyfs.session import Session, Settings, open_session
from lazyfs.sources.spec import Source
from lazyfs.tree import Directory, File, Node

PIECE: Final = 1 << 20
"""Bytes read at a time to write a file out or to hash it."""


def fetch(
    sources: tuple[str, ...], settings: Settings, output: Path | None, digest: str | None, *, as_json: bool
) -> None:
    """Fetch everything the sources name, and say so. *Raises*: LazyfsError; the first failure, after the rest."""
    if not os.environ.get(TRACEBACK):
        logging.getLogger("lazyfs").addHandler(logging.NullHandler())  # what matters of it is in the line that ends us
    paths = [source for source in sources if is_path(source)]
    if output is not None:
        _check_writable(output)
    if paths and (output or digest):
        raise UsageError("--output and --digest go with a source, not with a path under a mount: read the path itself")
    with Done(as_json=as_json, quiet=output is not None) as done:  # it may be standard output
        for path in paths:
            _fetch_path(Path(path), done)
        rest = [source for source in sources if source not in paths]
        parsed = [_read_source(text, settings.store) for text in rest]
        if parsed:
            try:
                trio.run(_fetch_sources, parsed, settings, output, digest, done)
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
    if _is_stdout(output):
        return
    directory = output.absolute().parent
    if output.is_dir():
        raise UsageError(f"{output} is a directory; name a file in it with --output")
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UsageError(
            f"{output} cannot be written: {directory} is no directory that you can write to; name another with --output"
        )


def _fetch_path(path: Path, done: Done) -> None:
    mounted = mount_of(path)
    assert mounted is not None
    below, size, began = os.path.relpath(absolute(path), mounted.mountpoint), 0, time.monotonic()
    with closing(connect(mounted, timeout=None)) as connection, _bar(below) as show:
        for answer in connection.request("fetch", path=below):
            if isinstance(answer, list):
                present, size = answer
                show(present, size)
    _note(done, below, size, began)


def _note(done: Done, path: str, size: int, began: float) -> None:
    seconds = time.monotonic() - began
    line = f"fetched {path}, {sizes.format_size(size)} in {seconds:.1f} s"
    done.note(line, path=path, size=size, seconds=round(seconds, 3))


async def _fetch_sources(
    sources: list[Source], settings: Settings, output: Path | None, digest: str | None, done: Done
) -> None:
    async with open_session(settings) as session:
        failures: dict[str, LazyfsError] = {}
        for source in sources:
            try:
                await session.add(source)
            except LazyfsError as exc:
                failures[source.shown] = exc
        paths = await _files_of(session, session.vfs.tree.root)
        if (output or digest) and len(paths) != 1:
            if failures:
                raise next(iter(failures.values()))
            raise UsageError(
                f"--output and --digest go with one file; the sources name {len(paths)}; fetch them one by one"
            )
        for path in paths:
            began = time.monotonic()
            try:
                with suppress(StoreTooSmall) if output or digest else nullcontext(), _bar(path) as show:
                    await fill(session.vfs, path, show)  # else it is read through, and not kept
                if output or digest:
                    await _write_out(session, path, output, digest)
                node = session.vfs.tree.find(path)
                _note(done, path, (node.size if isinstance(node, File) else None) or 0, began)
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
                found = f"its digest is sha256:{hashed.hexdigest()}, not the one that was given"
                raise LazyfsError(f"{path}: {found}; check the URL and --digest")
    except BrokenPipeError:  # who was to read it wants no more
        raise
    except OSError as exc:
        raise LazyfsError(
            f"{output} cannot be written: {exc.strerror or exc}; name another place with --output"
        ) from exc
    finally:
        session.vfs.release(handle)


def _is_stdout(output: Path) -> bool:
    return str(output) in ("-", "/dev/stdout")


@contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `output`, or of what that links to, when it is whole.

    A device or a pipe is written to as it is.
    """
    if _is_stdout(output):
        yield sys.stdout.buffer
        return
    output = output.resolve()
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
    """Show progress on a terminal, a bar with rate and time left, for as long as it takes."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in (None, "", "dumb", "unknown"):
        yield lambda _present, _size: None
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda present, size: bar.update(task, completed=present, total=size)
