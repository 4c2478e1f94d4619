"""Credentials: asked for once, renewed in time, never told; with a fake token server and real commands."""

from __future__ import annotations

import base64
import errno
import gc
import json
import logging
import os
import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lazyfs import errors, urls
from lazyfs.errors import OriginBadAnswer, OriginDenied, OriginError, OriginRefused, OriginUnreachable
from lazyfs.origin import grants
from lazyfs.origin.credentials import CredentialOptions, Credentials
from lazyfs.origin.grants import REFUSED_FOR, Grant, Grants, Recent, Wanted
from lazyfs.origin.logins import Login, Logins, Place

URL = "https://registry.example/v2/a/blobs/1?signature=s3cret"
OTHER = "https://registry.example/v2/a/blobs/2"
TOKEN_URL = "https://auth.example/token?service=registry.example&scope=repository%3Aa%3Apull"
BEARER = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull"'
BASIC = 'Basic realm="x"'


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


ANN = basic("ann", "s3cret")
BOB = basic("bob", "s3cret")


def hides(text: str) -> bool:
    """Say whether no secret of these tests is in a text; nor is a signed URL's query."""
    return not any(secret in text for secret in ("s3cret", "signature", ANN[6:], BOB[6:]))


class TokenServer:
    """Answers with tokens `s3cret-1`, `s3cret-2` and so on, or with what `answer` makes of the request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.life = 300.0
        self.gate = trio.Event()
        self.gate.set()
        self.answer: Callable[[Mapping[str, str]], object] = lambda headers: None

    async def fetch(self, url: str, headers: Mapping[str, str]) -> bytes:
        self.asked.append((url, dict(headers)))
        number = len(self.asked)
        await self.gate.wait()
        said = self.answer(headers) or {"token": f"s3cret-{number}", "expires_in": self.life}
        return said if isinstance(said, bytes) else json.dumps(said).encode()


class Here:
    """What a test works with. `now` is the time of `credentials`; `nursery` runs its askers."""

    def __init__(self, tmp_path: Path, options: CredentialOptions, nursery: trio.Nursery) -> None:
        self.path = tmp_path
        self.server = TokenServer()
        self.now = 1_700_000_000.0
        self.nursery = nursery
        self.credentials = Credentials(options, self.server.fetch, nursery, lambda: self.now)

    async def answer(self, challenge: str = BEARER, sent: str | None = None, url: str = URL, status: int = 401) -> str:
        """As `Credentials.answer`; checks that a failure tells no secret."""
        try:
            return await self.credentials.answer(url, status, challenge, sent)
        except OriginError as exc:
            shown = str(exc) + repr(exc) + repr(exc.args) + repr(exc.__cause__) + repr(exc.__context__)
            raise exc if hides(shown) else AssertionError("a secret is shown") from exc

    async def denied(self, challenge: str, sent: str | None = None, url: str = URL, status: int = 401) -> str:
        """Return the reason of what has to be denied."""
        with pytest.raises(OriginDenied) as caught:
            await self.answer(challenge, sent, url, status)
        assert caught.value.url == urls.redact(url)
        assert errors.errno_for(caught.value) == errno.EACCES
        assert not caught.value.retryable
        return caught.value.reason

    def asked(self) -> list[str]:
        """Return what the command was asked for, in order."""
        log = self.path / "asked"
        return log.read_text().split() if log.exists() else []

    async def settled(self) -> None:
        """Wait until nothing is done behind any longer: commands take a moment of real time."""
        while self.nursery.child_tasks:
            await trio.lowlevel.checkpoint()

    def says(self, **said: object) -> None:
        """Set what the command says."""
        (self.path / "says").write_text("".join(f"{key}={value}\n" for key, value in said.items()))


def with_credentials(**options: Any) -> Callable[[Callable[[Here], Awaitable[None]]], Callable[[Path], None]]:
    """Make a test of one that gets a `Here`. Of `command`, `netrc`, `header`, the text is what is in it."""

    def decorate(test: Callable[[Here], Awaitable[None]]) -> Callable[[Path], None]:
        def run(tmp_path: Path) -> None:
            given = dict(options)
            if (body := given.pop("command", None)) is not None:
                (tmp_path / "helper").write_text(f"cd {shlex.quote(str(tmp_path))}; echo $1 >>asked; {body}\n")
                given["command"] = f"sh {shlex.quote(str(tmp_path / 'helper'))}"
            if (text := given.pop("netrc", None)) is not None:
                given["netrc"] = tmp_path / "netrc"
                given["netrc"].write_text(text)
                given["netrc"].chmod(0o600)
            if (text := given.pop("header_file", None)) is not None:
                given["header_files"] = (tmp_path / "headers",)
                (tmp_path / "headers").write_text(text)

            async def main() -> None:
                async with trio.open_nursery() as nursery:
                    await test(Here(tmp_path, CredentialOptions(**given), nursery))
                # which ends when nothing goes on any longer

            trio.run(main)

        run.__name__ = test.__name__
        return run

    return decorate


NETRC = "machine registry.example login ann password s3cret\n"
COMMAND = "cat says"


# What is sent unasked


@with_credentials(netrc=NETRC, command="echo username=ann; echo password=s3cret")
async def test_nothing_is_sent_unasked(here: Here) -> None:
    assert await here.credentials.authorization(URL) is None
    assert here.credentials.headers(URL) == []
    assert here.asked() == []


HEADERS = (("X-Key", "s3cret"), ("Authorization", "Bearer s3cret"))
NAMED = frozenset({("https", "registry.example", 443)})


@with_credentials(headers=HEADERS, header_file="X-More: 1\n", named=NAMED)
async def test_the_users_headers_go_to_the_named_origins_only(here: Here) -> None:
    assert here.credentials.headers(URL) == [("X-Key", "s3cret"), ("X-More", "1")]
    assert await here.credentials.authorization(URL) == "Bearer s3cret"
    for other in ("http://registry.example/", "https://registry.example:8443/", "https://www.registry.example/"):
        assert here.credentials.headers(other) == []
        assert await here.credentials.authorization(other) is None


@with_credentials(header_file="AUTHORIZATION: Bearer s3cret\nX: 1\n", named=NAMED, headers=HEADERS, netrc=NETRC)
async def test_a_rotated_header_file_is_taken_up(here: Here) -> None:
    assert await here.answer(BASIC, None) == "Bearer s3cret"
    assert "--header-file" in await here.denied(BASIC, "Bearer s3cret")
    (here.path / "new").write_text("Authorization: Bearer s3cret2\nX: 2\n")
    (here.path / "new").rename(here.path / "headers")
    assert await here.answer(BASIC, "Bearer s3cret") == "Bearer s3cret2"
    assert await here.credentials.authorization(URL) == "Bearer s3cret2"
    assert here.credentials.headers(URL) == [("X-Key", "s3cret"), ("X", "2")]


@with_credentials(header_file="Authorization: s3cret\n", named=NAMED)
async def test_a_header_file_that_is_gone_or_malformed_is_denied(here: Here) -> None:
    path = here.path / "headers"
    path.write_text("X: 1\ns3cret\n")
    with pytest.raises(OriginDenied, match=f"^https://registry.example/v2/a/blobs/1: {path}, line 2: ") as caught:
        here.credentials.headers(URL)
    assert hides(repr(caught.value))
    path.unlink()
    with pytest.raises(OriginDenied, match=f"{path} cannot be read: No such file"):
        await here.credentials.authorization(URL)
    assert here.credentials.headers("https://other.example/") == []


# Basic


@with_credentials(netrc=NETRC)
async def test_a_login_is_for_the_whole_origin(here: Here) -> None:
    assert await here.answer(BASIC) == ANN
    assert await here.credentials.authorization(URL) == ANN
    assert await here.credentials.authorization(OTHER) == ANN
    for other in ("http://registry.example/", "https://registry.example:8443/", "https://auth.example/"):
        assert await here.credentials.authorization(other) is None
    assert here.server.asked == []


@pytest.mark.parametrize("challenge", ["", "nonsense;", BASIC, f"Digest realm=x, {BASIC}", 'Bearer realm="x", Basic'])
@pytest.mark.parametrize("status", [401, 403])
def test_where_a_username_and_password_answer(tmp_path: Path, challenge: str, status: int) -> None:
    @with_credentials(netrc=NETRC)
    async def test(here: Here) -> None:
        assert await here.answer(challenge, status=status) == ANN

    test(tmp_path)


@pytest.mark.parametrize(
    ("challenge", "status", "reason"),
    [
        (BASIC, 401, "it wants a username and password for registry.example: put them into the netrc file, or name a "
                     "--credential-command"),
        ("", 403, "HTTP 403, perhaps for want of a username and password for registry.example: put them into"),
        ("Bearer", 401, "it wants a bearer token for registry.example: name a --credential-command"),
        ('Bearer realm="http://auth.example/"', 401, "it wants a bearer token"),
        ("Digest realm=x, Negotiate", 401, "by Digest, Negotiate: lazyfs has only Basic and Bearer"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path: Path, challenge: str, status: int, reason: str) -> None:
    @with_credentials()
    async def nothing(here: Here) -> None:
        assert reason in await here.denied(challenge, status=status)
        assert await here.credentials.authorization(URL) is None

    nothing(tmp_path)


@pytest.mark.parametrize("challenge", ["Bearer", "Digest realm=x", 'Bearer realm="http://auth.example/"'])
def test_a_password_is_not_sent_to_what_wants_something_else(tmp_path: Path, challenge: str) -> None:
    @with_credentials(netrc=NETRC)
    async def test(here: Here) -> None:
        assert "netrc has Basic)" in await here.denied(challenge)
        assert await here.credentials.authorization(URL) is None

    test(tmp_path)


@with_credentials(netrc="machine registry.example login ann password s3cret\noops\n")
async def test_a_malformed_netrc_is_denied(here: Here) -> None:
    assert "netrc is not as a netrc file is, at line 3 or just before" in await here.denied(BASIC)
    (here.path / "netrc").write_text(NETRC)
    assert await here.answer(BASIC) == ANN, "it is read at each need"


# The command


@with_credentials(command=COMMAND, netrc=NETRC)
async def test_the_command_comes_first(here: Here) -> None:
    here.says(username="bob", password="s3cret")
    assert await here.answer(BASIC) == BOB
    assert await here.credentials.authorization(OTHER) == BOB
    assert here.asked() == ["get"]


@with_credentials(command=COMMAND, netrc=NETRC)
async def test_the_netrc_file_is_next(here: Here) -> None:
    here.says()
    assert await here.answer(BASIC) == ANN


@with_credentials(command=COMMAND, netrc=NETRC)
async def test_a_command_may_say_that_nobody_else_is_to_be_asked(here: Here) -> None:
    here.says(quit="true")
    assert "there are to be none" in await here.denied(BASIC)


@with_credentials(command="exit 3")
async def test_why_a_command_has_none_is_said(here: Here) -> None:
    assert (await here.denied(BASIC)).endswith("(the credential command ended with status 3)")


@with_credentials(command=COMMAND)
async def test_a_commands_token_is_sent_as_it_is(here: Here) -> None:
    here.says(authtype="Bearer", credential="s3cret")
    for challenge in ("Bearer", BEARER, "", BASIC + ", Bearer"):
        assert await here.answer(challenge) == "Bearer s3cret"
    assert await here.credentials.authorization(OTHER) == "Bearer s3cret"
    assert here.server.asked == []
    assert here.asked() == ["get"]
    here.says(authtype="Custom", credential="s3cret")
    other = "https://other.example/"
    assert await here.answer("Digest realm=x, Custom", url=other) == "Custom s3cret"
    assert "the credential command has Custom" in await here.denied("Digest realm=x", url=other)


@with_credentials(command=COMMAND)
async def test_only_a_password_goes_to_a_token_server(here: Here) -> None:
    here.says(authtype="Custom", credential="s3cret")
    assert await here.answer() == "Bearer s3cret-1"
    assert here.server.asked == [(TOKEN_URL, {})]


@with_credentials(netrc=NETRC)
async def test_an_origin_may_come_to_want_something_else(here: Here) -> None:
    token = await here.answer()
    assert await here.answer(BASIC, token) == ANN
    assert await here.credentials.authorization(URL) == ANN
    assert await here.answer(BEARER, ANN) == token, "which nobody has refused"


@with_credentials(command="if [ $1 = get ]; then cat says; else cat >erased; mv next says; fi")
async def test_what_was_refused_is_erased_and_asked_for_once_more(here: Here) -> None:
    here.says(username="ann", password="s3cret")
    assert await here.answer(BASIC) == ANN
    (here.path / "next").write_text("username=ann\npassword=s3cret2\n")
    assert await here.answer(BASIC, ANN) == basic("ann", "s3cret2")
    assert here.asked() == ["get", "erase", "get"]
    assert "host=registry.example\nusername=ann\npassword=s3cret\n\n" in (here.path / "erased").read_text()
    assert await here.answer(BASIC, ANN) == basic("ann", "s3cret2"), "of who was late"
    assert here.asked() == ["get", "erase", "get"]


@with_credentials(command=COMMAND)
async def test_a_refused_value_is_never_returned_again(here: Here) -> None:
    here.says(username="ann", password="s3cret")
    assert await here.answer(BASIC) == ANN
    assert "what the credential command has for registry.example is refused" in await here.denied(BASIC, ANN)
    assert here.asked() == ["get", "erase", "get"]
    assert await here.credentials.authorization(URL) is None
    assert "is refused" in await here.denied(BASIC)
    here.says(username="ann", password="s3cret2")
    assert await here.answer(BASIC) == basic("ann", "s3cret2")
    here.says(username="ann", password="s3cret")
    assert "is refused" in await here.denied(BASIC, basic("ann", "s3cret2"))
    here.now += REFUSED_FOR
    assert await here.answer(BASIC) == ANN, "an origin may have refused it by mistake"


@with_credentials(command=COMMAND, netrc=NETRC)
async def test_what_one_source_has_wrong_another_may_have_right(here: Here) -> None:
    here.says(username="bob", password="s3cret")
    bob = await here.answer(BASIC)
    assert await here.answer(BASIC, bob) == ANN
    reason = await here.denied(BASIC, ANN)
    assert f"what the credential command and the netrc file {here.path / 'netrc'} has" in reason


@with_credentials(netrc=NETRC)
async def test_what_answers_another_challenge_was_not_refused(here: Here) -> None:
    assert await here.answer(BASIC) == ANN
    assert await here.answer(BEARER, ANN) == "Bearer s3cret-1"
    assert here.server.asked == [(TOKEN_URL, {"authorization": ANN})]
    assert await here.credentials.authorization(OTHER) == ANN


@with_credentials(command=COMMAND)
async def test_a_url_that_refuses_what_others_accept(here: Here) -> None:
    here.says(username="ann", password="s3cret")
    here.credentials.accepted(URL, await here.answer(BASIC))
    assert "it refuses the credentials for registry.example" in await here.denied(BASIC, ANN, OTHER)
    assert here.asked() == ["get", "get"], "the command keeps it"
    assert await here.credentials.authorization(URL) == ANN
    with pytest.raises(OriginDenied, match="it refuses"):
        await here.credentials.authorization(OTHER)
    here.says(username="ann", password="s3cret2")
    assert await here.answer(BASIC, ANN) == basic("ann", "s3cret2")
    assert await here.credentials.authorization(OTHER) == basic("ann", "s3cret2")
    assert here.asked() == ["get", "get", "get"]


@with_credentials()
async def test_a_token_that_was_accepted_is_over_for_all_when_it_is_refused(here: Here) -> None:
    here.credentials.accepted(URL, await here.answer())
    assert await here.answer(sent="Bearer s3cret-1") == "Bearer s3cret-2"
    assert await here.answer(url=OTHER) == "Bearer s3cret-2"


@with_credentials(netrc=NETRC)
async def test_who_is_known_and_kept_out_is_not_who_is_unknown(here: Here) -> None:
    assert await here.answer(BASIC) == ANN
    assert "not enough for it (HTTP 403)" in await here.denied(BASIC, ANN, status=403)
    assert await here.credentials.authorization(URL) == ANN


@with_credentials(command=COMMAND)
async def test_a_login_is_renewed_before_it_expires(here: Here) -> None:
    here.says(username="ann", password="s3cret", password_expiry_utc=int(here.now) + 100)
    assert await here.answer(BASIC) == ANN
    here.says(username="ann", password="s3cret2", password_expiry_utc=int(here.now) + 200)
    here.now += 79
    assert await here.credentials.authorization(URL) == ANN
    assert here.nursery.child_tasks == frozenset()
    here.now += 1
    assert await here.credentials.authorization(URL) == ANN
    await here.settled()
    assert await here.credentials.authorization(URL) == basic("ann", "s3cret2")
    assert here.asked() == ["get", "get"]
    here.says()
    here.now += 200
    with pytest.raises(OriginDenied, match="it wants a username and password"):
        await here.credentials.authorization(URL)


# Tokens


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
    assert "not enough for it (HTTP 401)" in await here.denied(BEARER + ',error="insufficient_scope"', first)
    assert await here.credentials.authorization(URL) == first
    assert "it refuses" in await here.denied(BEARER + ',error="insufficient_scope"', first, OTHER)
    wider = BEARER.replace(":a:pull", ":a:*")
    assert await here.answer(wider + ',error="insufficient_scope"', first) == "Bearer s3cret-2"
    assert await here.answer(wider, "Bearer s3cret-2", status=401) == "Bearer s3cret-3"
    assert "not enough" in await here.denied(wider, "Bearer s3cret-3", status=403)


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


# Together


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
            held.refuse(PLACE, "old")
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
    own = [found for found in gc.get_objects() if type(found).__module__.startswith("lazyfs.origin")]
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
