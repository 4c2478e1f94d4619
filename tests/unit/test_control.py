"""The control socket: whatever a client does, the mount goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from lazyfs import control, control_server


async def _endless(_request: Mapping[str, Any], report: control.Report) -> Any:
    """Report for ever, from within a nursery, as `fetch` does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        while True:
            await report([1, 2])


async def _short(_request: Mapping[str, Any], report: control.Report) -> Any:
    await report("on the way")
    return "there"


@asynccontextmanager
async def _serving(path: Path, operations: Mapping[str, control.Operation]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(control_server.serve, path, operations))
        yield
        nursery.cancel_scope.cancel()


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    trio.run(bounded)


def test_a_client_that_hangs_up_ends_nothing_but_its_request(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def main() -> None:
        async with _serving(path, {"endless": _endless, "short": _short}):
            for attempt in range(20):
                stream = await trio.open_unix_socket(str(path))
                await stream.send_all(b'{"op": "endless"}\n')
                for _ in range(attempt % 3):
                    await stream.receive_some(10)
                await stream.aclose()  # with bytes unread: the server's next send fails
                await trio.sleep(0.001)
            assert await trio.to_thread.run_sync(control.call, path, "short") == "there"

    _run(main)


@pytest.mark.parametrize("request_line", [b"", b"{", b"[]\n", b'{"op": "none"}\n', b"x" * 100 + b"\n"])
def test_a_request_that_is_none_ends_nothing(tmp_path: Path, request_line: bytes) -> None:
    path = tmp_path / "sock"

    async def main() -> None:
        async with _serving(path, {"short": _short}):
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(request_line)
            await stream.aclose()
            assert await trio.to_thread.run_sync(control.call, path, "short") == "there"

    _run(main)


def test_the_socket_of_a_later_mount_at_the_same_place_stays(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def earlier(task_status: trio.TaskStatus[None]) -> None:
                with first:
                    await control_server.serve(path, {}, task_status=task_status)

            await nursery.start(earlier)
            await nursery.start(partial(control_server.serve, path, {"short": _short}))
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert await trio.to_thread.run_sync(control.call, path, "short") == "there"
            nursery.cancel_scope.cancel()
        assert not path.exists()

    _run(main)
