"""How long a body may take: a least rate over each stretch of waiting, whatever came before."""

from __future__ import annotations

from collections.abc import Iterable

import httpx
import pytest
import trio

from lazyfs.errors import OriginUnreachable
from lazyfs.origin.transport import LEAST_RATE, RATE_WINDOW, Reply
from tests.fakes import run

Coming = Iterable[tuple[float, int]]
"""After how many seconds how many bytes come."""


class Exchange:
    """Stands where `lazyfs.origin.wire.Exchange` does."""

    def __init__(self, coming: Coming) -> None:
        self._coming = iter(coming)

    async def receive_into(self, buffer: memoryview, sink: None = None) -> int:
        seconds, count = next(self._coming, (0.0, 0))
        await trio.sleep(seconds)
        return min(count, len(buffer))


async def received(coming: Coming, *, disk: float = 0.0) -> int:
    """Receive a body, with a pause after each piece, and return how long it was."""
    response = httpx.Response(200, extensions={"exchange": Exchange(coming)})
    reply, length = Reply("http://origin.example/x?secret=1", response), 0
    while count := await reply.receive_into(memoryview(bytearray(1 << 20))):
        length += count
        await trio.sleep(disk)
    return length


STEADY = [(1.0, 2 * LEAST_RATE)] * 60
SLOW = [(1.0, LEAST_RATE // 2)] * 60


@pytest.mark.parametrize(("coming", "disk"), [(STEADY, 0.0), (STEADY, 100.0), ([(0.001, 1)] * 1000, 5.0)])
def test_what_is_fast_enough_is_received(coming: Coming, disk: float) -> None:
    async def main() -> None:
        assert await received(coming, disk=disk) == sum(count for _, count in coming)

    run(main)


@pytest.mark.parametrize(
    ("coming", "latest"),
    [
        (SLOW, RATE_WINDOW),
        ([(RATE_WINDOW * 2, 1 << 20)], RATE_WINDOW),
        ([*STEADY, *SLOW], 60 + 2 * RATE_WINDOW),
        ([*[(0.1, 1 << 20)] * 100, *SLOW], RATE_WINDOW * 3),
        ([*STEADY, (3600.0, 1)], 60 + RATE_WINDOW),
    ],
)
def test_what_is_too_slow_is_given_up(coming: Coming, latest: float) -> None:
    """Also when all that came before was fast."""

    async def main() -> None:
        with pytest.raises(OriginUnreachable, match=r"bytes? came") as caught:
            await received(coming)
        assert trio.current_time() <= latest + 1
        assert "secret" not in str(caught.value)

    run(main)
