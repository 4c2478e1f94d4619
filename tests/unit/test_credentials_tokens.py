"""Bearer tokens: asked for as nobody or as the user, refused, not enough, renewed in time; with a fake token server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs.errors import OriginBadAnswer, OriginError, OriginRefused, OriginUnreachable
from tests.unit.asking import (
    ANN,
    BASIC,
    BEARER,
    NETRC,
    OTHER,
    TOKEN_URL,
    URL,
    Here,
    basic,
    with_credentials,
)


@with_credentials()
async def test_a_token_is_asked_for_as_nobody(here: Here) -> None:
    assert await here.answer() == "Bearer s3cret-1"
    assert here.server.asked == [(TOKEN_URL, {})]
    assert await here.credentials.authorization(URL) == "Bearer s3cret-1"
    assert await here.credentials.authorization(OTHER) is None, "it has not said what it wants"
    assert await here.answer(url=OTHER) == "Bearer s3cret-1"
    assert await here.answer(BEARER.replace(":a:", ":b:"), url=OTHER) == "Bearer s3cret-2"
    assert len(here.server.asked) == 2


@with_credentials(netrc=NETRC)
async def test_a_token_is_asked_for_as_the_user(here: Here) -> None:
    assert await here.answer(f"{BASIC}, {BEARER}") == "Bearer s3cret-1"
    assert here.server.asked == [(TOKEN_URL, {"authorization": ANN})]
    assert await here.credentials.authorization(OTHER) is None, "the password is the token server's only"


@with_credentials(netrc="machine auth.example login ann password s3cret\n")
async def test_the_user_is_who_he_is_at_the_origin(here: Here) -> None:
    await here.answer()
    assert here.server.asked == [(TOKEN_URL, {})]


@pytest.mark.parametrize(
    ("origin", "realm", "asked"),
    [
        ("https", "https", True),
        ("http", "https", True),
        ("http", "http", True),
        ("https", "http", False),
    ],
)
def test_no_password_goes_in_clear_where_the_origin_is_not(
    tmp_path: Path, origin: str, realm: str, asked: bool
) -> None:
    @with_credentials(netrc=NETRC)
    async def test(here: Here) -> None:
        url, challenge = URL.replace("https", origin), BEARER.replace("https", realm)
        if asked:
            assert await here.answer(challenge, url=url) == "Bearer s3cret-1"
            assert here.server.asked == [(TOKEN_URL.replace("https", realm), {"authorization": ANN})]
        else:
            assert "it wants a bearer token" in await here.denied(challenge, url=url)
            assert here.server.asked == []

    test(tmp_path)


@with_credentials()
async def test_a_refused_token_is_not_returned_again(here: Here) -> None:
    first = await here.answer()
    second = await here.answer(sent=first)
    assert second == "Bearer s3cret-2"
    assert await here.answer(sent=first) == second, "of who was late"
    assert len(here.server.asked) == 2
    here.server.answer = lambda headers: {"token": "s3cret-1"}
    assert "refused" in await here.denied(BEARER, second)
    assert await here.credentials.authorization(URL) is None


@with_credentials()
async def test_a_good_token_that_is_not_enough(here: Here) -> None:
    first = await here.answer()
    reason = await here.denied(BEARER + ',error="insufficient_scope"', first)
    assert "it is not for everybody, and there are no credentials" in reason
    assert await here.credentials.authorization(URL) == first
    assert "it refuses" in await here.denied(BEARER + ',error="insufficient_scope"', first, OTHER)
    wider = BEARER.replace(":a:pull", ":a:*")
    assert await here.answer(wider + ',error="insufficient_scope"', first) == "Bearer s3cret-2"
    assert await here.answer(wider, "Bearer s3cret-2", status=401) == "Bearer s3cret-3"
    assert "there are no credentials" in await here.denied(wider, "Bearer s3cret-3", status=403)


@with_credentials(netrc=NETRC)
async def test_a_users_token_that_is_not_enough(here: Here) -> None:
    first = await here.answer()
    reason = await here.denied(BEARER + ',error="insufficient_scope"', first)
    assert reason == "the credentials for registry.example are not enough for it (HTTP 401); give others"


def refusing(status: int, *passwords: str) -> Callable[[Mapping[str, str]], object]:
    """Make an answer that lets in only who has one of these passwords."""

    def answer(headers: Mapping[str, str]) -> object:
        if headers.get("authorization") in [basic("ann", password) for password in passwords]:
            return None
        raise OriginRefused("https://auth.example/token", f"HTTP {status}", status)

    return answer


@with_credentials(command="exit 1")
async def test_a_token_server_that_wants_a_login(here: Here) -> None:
    here.server.answer = refusing(401)
    reason = await here.denied(BEARER)
    assert "its token server wants a username and password for registry.example: put them into the netrc" in reason
    assert reason.endswith("(the credential command ended with status 1)")


@with_credentials(command="if [ $1 = get ]; then cat says; else mv next says; fi")
async def test_a_token_server_that_refuses_the_login(here: Here) -> None:
    here.says(username="ann", password="s3cret")
    (here.path / "next").write_text("username=ann\npassword=s3cret2\n")
    here.server.answer = refusing(401, "s3cret2")
    assert await here.answer() == "Bearer s3cret-2"
    assert here.asked() == ["get", "erase", "get"]
    here.server.answer = refusing(401)
    (here.path / "next").write_text("username=ann\npassword=s3cret2\n")
    assert "is refused" in await here.denied(BEARER, "Bearer s3cret-2")
    (here.path / "next").write_text("username=ann\npassword=s3cret4\n")
    here.says(username="ann", password="s3cret3")
    assert "its token server refuses" in await here.denied(BEARER)


@with_credentials(netrc=NETRC)
async def test_a_token_server_that_knows_the_user_and_says_no(here: Here) -> None:
    here.server.answer = refusing(403)
    assert "not enough for its token server (HTTP 403)" in await here.denied(BEARER)
    here.server.answer = refusing(401, "s3cret")
    assert await here.answer() == "Bearer s3cret-2", "the password is not at fault"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OriginUnreachable(TOKEN_URL, "reset"), OriginUnreachable),
        (OriginRefused(TOKEN_URL, "HTTP 404", 404), OriginRefused),
        (b"s3cret", OriginBadAnswer),
        (b'{"token": "s3cret\\n"}', OriginBadAnswer),
    ],
)
def test_other_failures_pass_through(tmp_path: Path, failure: object, kind: type[OriginError]) -> None:
    @with_credentials()
    async def test(here: Here) -> None:
        def answer(headers: Mapping[str, str]) -> object:
            if isinstance(failure, Exception):
                raise failure
            return failure

        here.server.answer = answer
        with pytest.raises(kind):
            await here.answer()
        here.server.answer = lambda headers: None
        assert await here.answer() == "Bearer s3cret-2", "the next one tries afresh"

    test(tmp_path)


@pytest.mark.parametrize(("life", "due"), [(100, 80), (1000, 970)])
def test_a_token_is_renewed_before_it_expires(tmp_path: Path, life: float, due: float) -> None:
    @with_credentials()
    async def test(here: Here) -> None:
        here.server.life = life
        await here.answer()
        here.now += due - 1
        assert await here.credentials.authorization(URL) == "Bearer s3cret-1"
        await wait_all_tasks_blocked()
        assert len(here.server.asked) == 1
        here.now += 1
        here.server.gate = trio.Event()
        for _ in range(100):
            assert await here.credentials.authorization(URL) == "Bearer s3cret-1", "nobody waits while it is good"
        await wait_all_tasks_blocked()
        assert len(here.server.asked) == 2
        assert len(here.nursery.child_tasks) == 2, "the renewal, and who waits for it"
        here.server.gate.set()
        await wait_all_tasks_blocked()
        assert await here.credentials.authorization(URL) == "Bearer s3cret-2"
        assert len(here.server.asked) == 2

    test(tmp_path)


@with_credentials()
async def test_a_renewal_that_fails_is_tried_again_before_the_end(here: Here) -> None:
    def unreachable(headers: Mapping[str, str]) -> object:
        raise OriginUnreachable(TOKEN_URL, "reset")

    here.server.life = 100
    await here.answer()
    here.server.answer = unreachable
    for passed, count in ((80, 2), (15, 2), (1, 3), (3, 3), (0.5, 4)):
        here.now += passed
        assert await here.credentials.authorization(URL) == "Bearer s3cret-1"
        await wait_all_tasks_blocked()
        assert len(here.server.asked) == count
    here.now += 1
    with pytest.raises(OriginUnreachable):
        await here.credentials.authorization(URL)
    here.server.answer = lambda headers: None
    assert await here.credentials.authorization(URL) == "Bearer s3cret-6"
