"""A mount's daemon: wires a session to FUSE and to the control socket, and ends both cleanly.

SIGTERM, SIGINT and SIGHUP have the mount detached; the daemon goes on for those who have files open, for GRACE seconds
at the most, and a second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import shlex
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import trio

from lazyfs import (
    __version__,
    control,
    control_server,
    metrics_server,
    notify,
    order,
    privileges,
    process,
    profiling,
    rights,
    states,
    takeover,
    tuning,
)
from lazyfs.attach import fsname
from lazyfs.errors import NameMissing, UsageError, first_reason
from lazyfs.filling import fill
from lazyfs.given import GivenBlob
from lazyfs.logs import log_to
from lazyfs.order import READY, Mount
from lazyfs.origin import early
from lazyfs.scrubbing import scrub
from lazyfs.session import Session, open_session
from lazyfs.sources.spec import Form, Source, parse_source
from lazyfs.store import running
from lazyfs.supervised import Supervised
from lazyfs.watching import Watched, watch

log = logging.getLogger(__name__)

HEAD_START: Final = 0.1
"""Seconds for the names of the last daemon to come in before the kernel is answered: thousands do, and wait no longer.

When all that has waited is answered meanwhile, they take four times as long, and who opens a file waits for them.
"""

GRACE: Final = 5.0
"""Seconds for which a detached mount still serves those who have files open."""


async def run(mount: Mount, supervised: Supervised, metrics: socket.socket | None, caller: int | None = None) -> None:
    """Serve a mount until it is gone. *Raises*: LazyfsError, perhaps in a group.

    `metrics` is a socket that listens, to serve them at.
    `caller` is a socket to a command that waits: it is told when the mount answers; when it goes before, so do we.
    """
    process.show_as("lazyfs", "mount", mount.mountpoint)
    tuning.keep_freed_memory()
    async with open_session(mount.settings) as session, trio.open_nursery() as nursery:
        directory = running.usable(mount.settings.store)
        if not mount.foreground:
            log_to(_Log(directory / mount.log), mount.settings.watch)
        if caller is not None:
            nursery.start_soon(_end_without, caller, nursery.cancel_scope)
        session.store.trouble.say()
        session.counters.daemon_restarts = supervised.legacy.restarts
        watched = await nursery.start(watch, session, mount, metrics)
        session.on_names = tuning.spare_what_stays
        if mount.settings.profile:
            session.blobs.record()
        supervised.refusal = takeover.refusal(wanted=mount.settings.takeover)
        serve = partial(nursery.start, _serve_fuse, session, mount, supervised, directory, nursery.cancel_scope)
        sources, changes = mount.sources, 0
        if supervised.stands_by:
            await trio.to_thread.run_sync(_load)
            await _restore(session, sources, supervised.legacy.changes)
            sources, changes = (), len(supervised.legacy.changes)
            await supervised.turn()
        if supervised.device is not None:
            session.vfs.inherit(supervised.legacy)
            async with trio.open_nursery() as meanwhile:
                meanwhile.start_soon(_complete, session, sources, supervised.legacy.changes[changes:])
                with trio.move_on_after(HEAD_START):
                    await session.vfs.complete.wait()
                await serve()
                await nursery.start(supervised.answer)
        else:
            async with trio.open_nursery() as meanwhile:
                meanwhile.start_soon(trio.to_thread.run_sync, _load)
                await _add_all(session, mount.sources)
                await profiling.take_all(session, mount.sources, mount.settings.profiles, partial(_remark, caller))
            early.forget()
            await serve()
            supervised.note_order(order.pack(mount))
            if metrics is not None:
                supervised.keep_metrics(metrics)
            await nursery.start(supervised.answer)
        supervised.tune()
        tuning.spare_what_stays()
        operations = _operations(session, mount, supervised, directory, watched)
        await nursery.start(partial(control_server.serve, directory / mount.socket, operations))
        await nursery.start(_obey_signals, mount.mountpoint, supervised, nursery.cancel_scope)
        nursery.start_soon(scrub, session.store, session.counters, mount.settings.scrub_rate)
        if caller is not None:
            trio.lowlevel.notify_closing(caller)
            order.report(caller, READY)
        else:  # in the background it may be any service that has called the command: that one says itself what it is
            notify.ready(f"mounted at {mount.mountpoint}")


def _remark(caller: int | None, line: str) -> None:
    if caller is not None:
        order.remark(caller, line)


async def _end_without(caller: int, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.ClosedResourceError):
        await trio.lowlevel.wait_readable(caller)  # it sends nothing: this is its end
        scope.cancel()


def _load() -> None:
    """Load what is needed only when the sources are there; their origins are asked meanwhile."""
    from lazyfs import fuse  # noqa: F401


async def _add_all(session: Session, sources: tuple[Source, ...]) -> None:
    """Take the sources in, all at once."""
    async with trio.open_nursery() as nursery:
        for source in sources:
            nursery.start_soon(session.add, source)


async def _complete(session: Session, sources: tuple[Source, ...], changes: Sequence[Mapping[str, Any]]) -> None:
    """Take in what the last daemon had; who asks for a name waits for that."""
    await _restore(session, sources, changes)
    session.vfs.complete.set()


async def _restore(session: Session, sources: tuple[Source, ...], changes: Sequence[Mapping[str, Any]]) -> None:
    """Take in what the last daemon had, and what it was told since."""
    await session.restore(sources)
    for change in changes:
        match change:
            case {"add": packed}:
                await session.restore([order.unpack_source(packed)])
            case {"remove": path} if session.vfs.tree.find(path) is not None:
                session.vfs.remove(path)


async def _serve_fuse(
    session: Session,
    mount: Mount,
    supervised: Supervised,
    directory: Path,
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve FUSE, and end the rest when it ends."""
    from lazyfs import fuse

    try:
        device = supervised.device
        if device is None:
            device = await supervised.mount(None if mount.foreground else str(directory / mount.log))
        session.vfs.keep_journal(supervised.journal)
        await fuse.serve(
            session.vfs,
            mount.options | {fsname(mount.shown_as)},
            device=device,
            kernel=supervised,
            detach=supervised.detach,
            owner=supervised.owner,
            greeting=supervised.legacy.greeting,
            passthrough=mount.settings.passthrough,
            task_status=task_status,
        )
    except RuntimeError as exc:
        raise UsageError(f"cannot mount at {mount.mountpoint}: {exc}{_remedy(exc)}") from exc
    scope.cancel()


async def _obey_signals(
    mountpoint: str, supervised: Supervised, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        await anext(signals)
        log.info("unmounting %s", mountpoint)
        notify.stopping(f"unmounting {mountpoint}")
        supervised.ending()
        with trio.move_on_after(GRACE):
            await anext(signals)
        log.warning("%s was still in use: its readers have lost it", mountpoint)
        scope.cancel()


def _remedy(exc: RuntimeError) -> str:
    """Say what to do where this host cannot mount at all, not so, or not there."""
    if "unknown option" in str(exc):
        return "; -o takes those of mount.fuse3(8)"
    if not Path("/dev/fuse").exists():
        return "; there is no /dev/fuse: modprobe fuse, or give the container that device"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "; who is not root needs fusermount3: install fuse3"
    if "no write access" in str(exc):
        return "; name a directory of yours"
    return ""


def _missing(mount: Mount, path: str, exc: NameMissing | None = None) -> NameMissing:
    """Say of a name under a mount that it is not there, or what its origin says of it."""
    if exc is not None and exc.__cause__ is not None:
        return exc
    below = f" under {mount.mountpoint}; see: ls {shlex.quote(mount.mountpoint)}"
    return NameMissing(f"{path}: there is no such file{below}")


def _operations(
    session: Session, mount: Mount, supervised: Supervised, directory: Path, watched: Watched
) -> dict[str, control.Operation]:
    """What the control socket can be asked for."""

    async def status(_request: Mapping[str, Any], _report: control.Report) -> Any:
        problems, trouble = session.vfs.problems, session.store.trouble
        return {
            "mountpoint": mount.mountpoint,
            "pid": os.getpid(),
            "version": __version__,
            "files": session.vfs.tree.files,
            "counters": session.counters.as_dict(),
            "problems": problems.count,
            "reasons": problems.reasons,
            "passthrough": session.vfs.passthrough.state(),
            "runs_as": rights.described(),
            "takeover": {"on": supervised.refusal is None, "reason": supervised.refusal},
            "degraded": trouble.reason if trouble.degraded else None,
            "log": str(directory / mount.log),
            **watched.state(),
        }

    async def add(request: Mapping[str, Any], _report: control.Report) -> Any:
        paths: list[str] = []
        blobs = [Source(Form.BLOB, "", blob["name"], GivenBlob.of(blob)) for blob in request.get("blobs", ())]
        for source in [*map(parse_source, request["sources"]), *blobs]:
            paths += await session.add(source)
            supervised.note_change({"add": order.pack_source(source)})
        return paths

    async def describe(request: Mapping[str, Any], _report: control.Report) -> Any:
        try:
            return (await session.vfs.describe(request["path"])).as_dict()
        except NameMissing as exc:
            raise _missing(mount, request["path"], exc) from exc

    async def led_to(request: Mapping[str, Any], _report: control.Report) -> Any:
        return await session.vfs.led_to(set(request["blobs"]))

    async def remove(request: Mapping[str, Any], _report: control.Report) -> Any:
        for path in request["paths"]:
            if session.vfs.tree.find(path) is None:
                raise _missing(mount, path)
        for path in request["paths"]:
            session.vfs.remove(path)
            supervised.note_change({"remove": path})
        return True

    async def fetch(request: Mapping[str, Any], report: control.Report) -> Any:
        send, receive = trio.open_memory_channel[tuple[int, int]](1)

        def progress(present: int, size: int) -> None:
            with contextlib.suppress(trio.WouldBlock):  # one that nobody has looked at yet is as good
                send.send_nowait((present, size))

        async def fill_it() -> None:
            with send:
                try:
                    await fill(session.vfs, request["path"], progress)
                except NameMissing as exc:
                    raise _missing(mount, request["path"], exc) from exc

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill_it)
            async for present, size in receive:
                await report([present, size])
        return True

    async def upgrade(_request: Mapping[str, Any], _report: control.Report) -> Any:
        await supervised.upgrade()

    async def made_of(_request: Mapping[str, Any], _report: control.Report) -> Any:
        return mount.made_of

    async def why(_request: Mapping[str, Any], _report: control.Report) -> Any:
        return {"mountpoint": mount.mountpoint, "pid": os.getpid(), "fetches": await states.fetches(session)}

    operations = (status, why, add, describe, led_to, remove, fetch, upgrade, made_of)
    return {operation.__name__: operation for operation in operations}


def run_to_end(mount: Mount, supervised: Supervised, caller: int | None = None) -> None:
    """Serve a mount until it is gone, in trio. *Raises*: LazyfsError, the one that a person should read.

    Before it begins it has no more than one thread, and gives up what it does not need; who takes a mount over has done
    that already.
    """
    place, metrics = mount.settings.watch.metrics, supervised.metrics
    if metrics is None and place is not None:
        metrics = metrics_server.listen(*place)
    if supervised.device is None:
        process.open_as_many_files_as_allowed()
        rights.make_store(mount)
        left = rights.needed(mount)
        own = rights.of_supervisor(left, mount.mountpoint)
        supervised.charge(mount.mountpoint, mount.shown_as, mount.options, left, own)
        privileges.take_on(left)
        rights.check(mount)
    try:
        trio.run(run, mount, supervised, metrics, caller)
    except BaseException as exc:
        reason = first_reason(exc)
        if reason is not None:
            raise reason from exc
        raise


class _Log(logging.handlers.RotatingFileHandler):
    """The daemon's log: two files of 1 MiB at the most, beside the socket; locked, since gc takes those of the dead."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=1 << 20, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        running.note_written(stream.fileno())
        return stream
