"""Credentials that many ask for at once, which is one request or run; and that nothing tells a secret."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.origin import grants
from lazyfs.origin.credentials import CredentialOptions
from lazyfs.origin.grants import Grant, Grants, Recent, Wanted
from lazyfs.origin.logins import Login, Logins, Place
from tests.unit.asking import (
    ANN,
    BASIC,
    BOB,
    COMMAND,
    HEADERS,
    NETRC,
    OTHER,
    URL,
    Here,
    TokenServer,
    basic,
    hides,
    with_credentials,
)


@with_credentials(netrc=NETRC)
async def test_a_hundred_ask_and_one_token_is_fetched(here: Here) -> None:
    got: list[str] = []

    async def ask(number: int) -> None:
        got.append(await here.answer(url=f"https://registry.example/{number}"))

    here.server.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
        await wait_all_tasks_blocked(0.01)
        here.server.gate.set()
    assert got == ["Bearer s3cret-1"] * 100
    assert len(here.server.asked) == 1


@with_credentials(command="if [ $1 = get ]; then cat says; else mv next says; fi")
async def test_a_hundred_ask_and_the_command_is_run_once(here: Here) -> None:
    got: list[str] = []
    here.says(username="ann", password="s3cret")
    (here.path / "next").write_text("username=ann\npassword=s3cret2\n")

    async def ask(number: int, sent: str | None) -> None:
        got.append(await here.answer(BASIC, sent, f"https://registry.example/{number}"))

    for sent, new, runs in ((None, ANN, ["get"]), (ANN, basic("ann", "s3cret2"), ["get", "erase", "get"])):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, number, sent)
        assert got == [new] * 100
        assert here.asked() == runs
        got.clear()


@with_credentials()
async def test_who_leaves_touches_nobody_else(here: Here) -> None:
    got: list[str] = []
    scopes = [trio.CancelScope() for _ in range(3)]

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            got.append(await here.answer())

    here.server.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(ask, scope)
            await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        here.server.gate.set()
    assert got == ["Bearer s3cret-1"] * 2


@with_credentials(command="exec 9>alive; echo >&9; sleep 300")
async def test_when_all_have_left_the_command_is_killed(here: Here) -> None:
    os.mkfifo(here.path / "alive")
    descriptor = os.open(here.path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    async with trio.lowlevel.FdStream(descriptor) as alive, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(here.answer)
        await trio.lowlevel.wait_readable(descriptor)
        assert await alive.receive_some(1) == b"\n"
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await alive.receive_some(1) == b""


PLACE = ("https", "registry.example", 443)


class FakeLogins:
    """As `Logins`, with a command that says when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says, self._hears = trio.open_memory_channel[str](0)

    async def from_command(self, place: Place, now: float) -> Login:
        self.asked.append("get")
        return Login("basic", await self._hears.receive(), "a fake", now + 100, (("password", "x"),))

    async def erase(self, place: Place, login: Login) -> None:
        self.asked.append(f"erase {login.authorization}")

    async def from_auth_files(self, place: Place, repository: str) -> None:
        return None

    async def from_netrc(self, place: Place) -> None:
        return None


def test_what_is_refused_while_it_is_asked_for() -> None:
    """A renewal brings the old login just as the origin refuses that: the command is told, and asked once more."""

    async def main() -> None:
        logins, now, got = FakeLogins(), 0.0, list[object]()
        async with trio.open_nursery() as nursery:
            held = Grants(cast("Logins", logins), TokenServer().fetch, nursery, lambda: now)

            async def obtain() -> None:
                grant = await held.obtain(Wanted(PLACE))
                got.append(isinstance(grant, Grant) and grant.authorization)

            nursery.start_soon(obtain)
            await logins.says.send("old")
            await wait_all_tasks_blocked()
            now = 90.0
            nursery.start_soon(obtain)
            await wait_all_tasks_blocked()
            assert logins.asked == ["get", "get"], "which renews it"
            held.refuse(Wanted(PLACE), "old")
            nursery.start_soon(obtain)
            await wait_all_tasks_blocked()
            await logins.says.send("old")
            await logins.says.send("new")
        assert got == ["old", "old", "new"]
        assert logins.asked == ["get", "get", "erase old", "get"]

    trio.run(main)


# Secrets


@with_credentials(command=COMMAND, netrc=NETRC, headers=HEADERS)
async def test_no_object_shows_a_secret(here: Here) -> None:
    here.says(username="bob", password="s3cret", password_expiry_utc=int(here.now) + 100)
    await here.answer()
    await here.answer(BASIC, url="https://other.example/")
    await here.denied(BASIC, BOB, url="https://other.example/")
    await here.answer(BASIC)
    own = [found for found in gc.get_objects() if str(type(found).__module__).startswith("lazyfs.origin")]
    assert {type(found).__name__ for found in own} >= {"Grant", "Login", "Logins", "Wanted", "Recent", "Credentials"}
    assert [found for found in own if not hides(repr(found))] == []
    assert hides(repr(CredentialOptions(headers=HEADERS, command="command --key=s3cret")))


def test_no_log_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @with_credentials(command=COMMAND)
    async def test(here: Here) -> None:
        here.says(username="ann", password="s3cret", password_expiry_utc=int(here.now) + 100)
        await here.answer(BASIC)
        await here.answer(url=OTHER)
        here.now += 90
        (here.path / "says").write_text("s3cret")
        here.server.answer = lambda headers: b"s3cret"
        await here.credentials.authorization(URL)
        await here.settled()

    with caplog.at_level(logging.DEBUG):
        test(tmp_path)
    assert "could not be renewed: the credential command wrote something that is not key=value" in caplog.text
    assert hides(caplog.text)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "RECENT_MAX", 2)
    recent = Recent[str, int]()
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    recent.drop("a")
    recent.drop("a")
    assert recent.get("a") is None
