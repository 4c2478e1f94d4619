"""What is said of single origins: which it is for, headers and logins by it, and its bounds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lazyfs import urls
from lazyfs.options import CredentialOptions, OriginOptions, Place
from lazyfs.origin.credentials import Credentials
from lazyfs.origin.logins import Login, Logins
from lazyfs.origin.own import Own
from lazyfs.origin.slots import Slots
from lazyfs.origin.throttle import Throttle
from lazyfs.urgency import Urgency

HERE, THERE = ("https", "a.example.org", 443), ("https", "example.net", 443)


def test_the_narrowest_name_counts() -> None:
    names = ["a.example.org", "*.example.org", "*.org", "*.b.example.org"]
    own = Own(OriginOptions(("https", name, 443)) for name in names)

    def found(host: str, scheme: str = "https", port: int = 443) -> str:
        return own.of((scheme, host, port)).place[1]

    assert [found(host) for host in ("a.example.org", "x.example.org", "x.y.example.org", "example.org")] == [
        "a.example.org", "*.example.org", "*.example.org", "*.org",
    ]  # fmt: skip
    assert found("x.b.example.org") == "*.b.example.org"
    assert [found("org"), found("a.example.org", "http"), found("a.example.org", port=8443)] == [
        "org", "a.example.org", "a.example.org",
    ]  # fmt: skip
    assert own.of(("http", "a.example.org", 443)).place[0] == "http", "which nothing is said of"


async def _headers(options: CredentialOptions, own: Own, *places: str) -> list[list[tuple[str, str]]]:
    async def no_token(url: str, headers: object) -> bytes:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        credentials = Credentials(options, no_token, nursery, own=own)
        found = []
        for url in places:
            sent = await credentials.authorization(url)
            found.append(credentials.headers(url) + ([("authorization", sent)] if sent else []))
        return found


def test_headers_are_for_their_origin_and_for_no_other(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("X-File: own\nAuthorization: Basic own\n")
    own = Own([OriginOptions(HERE, (("X-A", "own"), ("X-B", "own")), (tmp_path / "own",))])
    here, there, plain = "https://a.example.org/x", "https://example.net/x", "http://a.example.org/x"
    found = trio.run(_headers, CredentialOptions(), own, here, there, plain, "https://a.example.org:8443/x")
    assert found == [
        [("X-A", "own"), ("X-B", "own"), ("X-File", "own"), ("authorization", "Basic own")], [], [], [],
    ]  # fmt: skip

    given = CredentialOptions((("x-a", "given"), ("Authorization", "Bearer given")), named=frozenset({HERE, THERE}))
    assert trio.run(_headers, given, own, here, there) == [
        [("X-B", "own"), ("X-File", "own"), ("x-a", "given"), ("authorization", "Bearer given")],
        [("x-a", "given"), ("authorization", "Bearer given")],
    ]


def test_logins_are_asked_of_what_is_said_of_the_origin(tmp_path: Path) -> None:
    def command(name: str) -> str:
        return f"cat >/dev/null; printf 'username={name}\\npassword=x\\n'; :"

    def netrc(name: str) -> Path:
        path = tmp_path / name
        path.write_text(f"machine a.example.org login {name} password x\nmachine example.net login {name} password x\n")
        path.chmod(0o600)
        return path

    own = Own([OriginOptions(HERE, netrc=netrc("own"), command=command("own"))])
    logins = Logins(command("general"), netrc("general"), own=own)

    async def ask(how: Callable[[Place], Awaitable[object]], place: Place) -> str:
        login = await how(place)
        assert isinstance(login, Login)
        assert not login.said or dict(login.said)["password"] == "x"
        return login.authorization

    def from_command(place: Place) -> Awaitable[object]:
        return logins.from_command(place, 0.0)

    for how in (from_command, logins.from_netrc):
        mine, others = (trio.run(ask, how, place) for place in (HERE, THERE))
        assert mine != others
        assert mine == "Basic b3duOng="


def test_no_more_requests_than_are_allowed_whatever_becomes_of_them() -> None:
    async def main() -> None:
        slots = Slots(most=3)
        got: list[str] = []

        async def take(name: str, urgency: Urgency) -> None:
            held[name] = await slots.take(name, lambda: urgency)
            got.append(name)

        held: dict[str, object] = {}
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(take, f"ahead {number}", Urgency.READAHEAD)
            await wait_all_tasks_blocked()
            assert len(got) == 2, "the last is for who waits now"
            for name in ("now", "now, too"):
                nursery.start_soon(take, name, Urgency.DEMAND)
                await wait_all_tasks_blocked()
            assert got[2:] == ["now"]
            await trio.sleep(60)
            assert len(got) == 3, "also when all of them are stalled"
            assert slots.allowed == 3
            slots.give_back(held.pop("now"))  # type: ignore[arg-type]
            await wait_all_tasks_blocked()
            assert got[3:] == ["now, too"]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_one_request_at_a_time_may_be_for_anybody() -> None:
    async def main() -> None:
        slots = Slots(most=1)
        slot = await slots.take("ahead", lambda: Urgency.PREFETCH)
        slot.release()
        await slots.take("now", lambda: Urgency.DEMAND)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("takers", [1, 7])
def test_bytes_keep_to_a_rate_however_many_take_them(takers: int) -> None:
    async def main() -> None:
        slots = Slots(rate=1 << 20)
        began, taken = trio.current_time(), 0

        async def take() -> None:
            nonlocal taken
            slot = await slots.take("url", lambda: Urgency.DEMAND)
            while taken < 10 << 20:
                ration = await slot.ration()
                assert ration is not None
                slot.receiving()
                came = ration // 3  # less than might have
                slot.received(came, ration)
                taken += came
            slot.release()

        async with trio.open_nursery() as nursery:
            for _ in range(takers):
                nursery.start_soon(take)
        seconds = trio.current_time() - began
        assert 0.97 <= taken / seconds / (1 << 20) <= 1.03
        assert slots.pace is None or slots.pace.rate <= 1 << 20

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_who_takes_little_saves_nothing_up() -> None:
    throttle = Throttle(1 << 20)
    throttle.take(0.0)
    assert throttle.wait(100.0) == 0.0
    taken = 0
    while not throttle.wait(100.0):
        taken += throttle.take(100.0)
    assert taken == throttle.piece


def test_what_is_not_bounded_does_not_wait() -> None:
    async def main() -> None:
        slots = Slots()
        slot = await slots.take("url", lambda: Urgency.DEMAND)
        assert await slot.ration() is None
        assert urls.origin_of("https://a.example.org/x") == HERE

    trio.run(main)
