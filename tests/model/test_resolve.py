"""What a URL names, asked of a fake origin: for how long, of which way first, and once for all who wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import trio

from lazyfs.counters import Counters
from lazyfs.errors import DeadlineExceeded, OriginRefused, OriginUnreachable
from lazyfs.origin.client import Client, Found
from lazyfs.resolve import Resolver
from lazyfs.sources.feed import list_index
from lazyfs.store import Store
from lazyfs.urgency import Urgency
from lazyfs.versions import Version
from tests.fakes import run

A, B = "http://a/", "http://b/"
DEADLINE = 60.0


class Origins:
    """Stands where the client does; `errors` are what each URL's next answers are in place of right ones."""

    offline = False

    def __init__(self) -> None:
        self.unwell: set[str] = set()
        self.errors: dict[str, list[Exception]] = {A: [], B: []}
        self.asked: list[str] = []

    def resting(self, url: str) -> bool:
        return url in self.unwell

    async def probe(
        self, url: str, pinned: Version | None = None, size: int | None = None, urgency: Urgency = Urgency.DEMAND
    ) -> Found:
        await self._answer(url)
        return Found(Version(5, f'"{url}"'), ranged=True, head=b"x")

    async def fetch_page(self, url: str, limit: int) -> tuple[bytes, str, str]:
        await self._answer(url)
        return b'<a href="name">name</a>', "text/html", url

    async def _answer(self, url: str) -> None:
        self.asked.append(url)
        await trio.sleep(0.1)
        if self.errors[url]:
            raise self.errors[url].pop(0)


class Ground:
    """A resolver over an empty store."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self.origins = Origins()
        self.client = cast("Client", self.origins)
        self.store = Store.open(path, 1 << 16)
        self.resolver = Resolver(self.store, self.client, Counters(), nursery, DEADLINE)


def scene(play: Callable[[Ground], Awaitable[None]]) -> Callable[[Path], None]:
    async def main(path: Path) -> None:
        async with trio.open_nursery() as nursery:
            ground = Ground(path / "store", nursery)
            await play(ground)
            nursery.cancel_scope.cancel()
        ground.store.close()

    def test(tmp_path: Path) -> None:
        run(main, tmp_path)

    test.__doc__ = play.__doc__
    return test


def busy(seconds: float | None) -> OriginUnreachable:
    return OriginUnreachable(A, "HTTP 503", seconds)


@scene
async def test_one_that_rests_is_asked_after_the_others(ground: Ground) -> None:
    ground.origins.unwell.add(A)
    assert (await ground.resolver.known((A, B))).url == B
    assert ground.origins.asked == [B]


@scene
async def test_so_is_an_index(ground: Ground) -> None:
    """Where its links start is its own URL all the same."""
    ground.origins.unwell.add(A)
    (entry,) = await list_index(ground.client, ground.store, [(A, B)], A)
    assert ground.origins.asked == [B]
    assert getattr(entry, "url", "") == A + "name"


@scene
async def test_one_way_after_the_other_and_a_retry_after_is_obeyed(ground: Ground) -> None:
    ground.origins.errors[A] += [busy(7.0), OriginRefused(A, "HTTP 404", 404)]
    ground.origins.errors[B] += [OriginRefused(B, "HTTP 404", 404)]
    began = trio.current_time()
    assert (await ground.resolver.known((A, B))).url == B
    assert ground.origins.asked == [A, B, A, B]
    assert trio.current_time() - began >= 7


@scene
async def test_once_for_all_who_wait(ground: Ground) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ground.resolver.known, (A, B))
    assert ground.origins.asked == [A]


@scene
async def test_it_ends_at_the_deadline(ground: Ground) -> None:
    ground.origins.errors[A] += [busy(None)] * 1000
    began = trio.current_time()
    with pytest.raises(DeadlineExceeded):
        await ground.resolver.known((A,))
    assert trio.current_time() - began == pytest.approx(DEADLINE)
    assert 10 < len(ground.origins.asked) < 30
    with pytest.raises(OriginUnreachable):
        await ground.resolver.known((A,), patient=False)
