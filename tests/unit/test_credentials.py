"""Logins and the user's own headers: to whom they go, what is missing, what is refused; with real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazyfs.errors import OriginDenied
from lazyfs.origin.grants import REFUSED_FOR
from tests.unit.asking import (
    ANN,
    BASIC,
    BEARER,
    BOB,
    COMMAND,
    HEADERS,
    NAMED,
    NETRC,
    OTHER,
    TOKEN_URL,
    URL,
    Here,
    basic,
    hides,
    with_credentials,
)

# What is sent unasked


@with_credentials(netrc=NETRC, command="echo username=ann; echo password=s3cret")
async def test_nothing_is_sent_unasked(here: Here) -> None:
    assert await here.credentials.authorization(URL) is None
    assert here.credentials.headers(URL) == []
    assert here.asked() == []


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
