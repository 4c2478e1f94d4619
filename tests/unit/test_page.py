"""The page as it is sent, and the bounds on what its questions cost."""

from __future__ import annotations

import base64
import hashlib
import re

import trio
from trio.testing import MockClock

from lazyfs.page import REST, _Worker, document
from tests.fakes import run


def test_its_policy_lets_its_own_style_and_script_run_and_nothing_else() -> None:
    reply = document()
    text, policy = reply.body.decode(), dict(reply.headers)[b"Content-Security-Policy"].decode()
    for element, rule in ("style", "style-src"), ("script", "script-src"):
        (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{rule} 'sha256-{hashed}';" in policy
        assert len(inside) > 1000, "it is joined"
    assert "default-src 'none'" in policy
    assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|innerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_who_asks_without_end_gets_a_part_of_the_time() -> None:
    async def main() -> None:
        worker, clock, worked = _Worker(), trio.lowlevel.current_clock(), 0.0
        assert isinstance(clock, MockClock)

        def work() -> None:
            nonlocal worked
            worked += 1.0
            clock.jump(1.0)

        async def ask() -> None:
            while True:
                await worker.do(work)

        with trio.move_on_after(40.5 * (1 + REST)):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(ask)
        assert 39 <= worked <= 42

    run(main)
