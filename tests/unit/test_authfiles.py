"""Logins for registries in files of docker's and podman's: which counts, what helpers say, and that no secret shows."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from lazyfs.origin.authfiles import find_login
from lazyfs.origin.login import Login, NoLogin
from lazyfs.settings import auth_files
from tests.unit.asking import ANN, BASIC, BOB, Here, basic, hides, with_credentials

PLACE = ("https", "r.example", 443)
HUB = ("https", "registry-1.docker.io", 443)


def entry(username: str, password: str = "s3cret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def found(tmp_path: Path, *contents: Any, place: tuple[str, str, int] = PLACE, repository: str = "a/b") -> Login | None:
    """Return the login in some files, in order; text is a file's whole content, None is no file."""
    files = []
    for number, content in enumerate(contents):
        files.append(tmp_path / str(number))
        if content is not None:
            files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    return trio.run(find_login, tuple(files), place, repository)


@pytest.mark.parametrize(
    ("auths", "user"),
    [
        ({"r.example": entry("ann")}, "ann"),
        ({"r.example:443": entry("ann")}, "ann"),
        ({"https://r.example/v1/": entry("ann")}, "ann"),
        ({"r.example": {"username": "ann", "password": "s3cret"}}, "ann"),
        ({"r.example": entry("ann"), "r.example/a": entry("bob")}, "bob"),
        ({"r.example/a": entry("ann"), "r.example/a/b": entry("bob"), "r.example/a/b/c": entry("eve")}, "bob"),
        ({"r.example/a/b": {}, "r.example": entry("ann")}, "ann"),
        ({"r.example/x": entry("eve"), "www.r.example": entry("eve"), "r.example:8443": entry("eve")}, None),
        ({"http://r.example.other/": entry("eve"), "example": entry("eve"), "": entry("eve")}, None),
        ({"r.example": {"auth": ""}, "r.example/a": 7}, None),
    ],
)
def test_the_entry_that_names_most_of_the_image(tmp_path: Path, auths: dict[str, Any], user: str | None) -> None:
    login = found(tmp_path, {"auths": auths})
    assert (login and login.authorization) == (user and basic(user, "s3cret"))
    assert hides(repr(login))


def test_the_first_file_that_has_one(tmp_path: Path) -> None:
    login = found(tmp_path, None, {}, {"auths": []}, {"auths": {"r.example": entry("ann")}}, "nonsense")
    assert login is not None
    assert (login.authorization, login.source) == (ANN, f"the file {tmp_path}/3")
    assert found(tmp_path, None) is None


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "docker.io/library"])
def test_docker_hub_by_any_of_its_names(tmp_path: Path, key: str) -> None:
    login = found(tmp_path, {"auths": {key: entry("ann")}}, place=HUB, repository="library/debian")
    assert login is not None
    assert login.authorization == ANN


def test_a_token_of_the_registrys_own(tmp_path: Path) -> None:
    login = found(tmp_path, {"auths": {"r.example": {"registrytoken": "s3cret"}}})
    assert login is not None
    assert (login.scheme, login.authorization) == ("bearer", "Bearer s3cret")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ({"auths": {"r.example": {"auth": "s3cret!"}}}, "is no username and password"),
        ({"auths": {"r.example": {"auth": "/w=="}}}, "is no username and password"),
        ({"auths": {"r.example": {**entry("ann"), "identitytoken": "s3cret"}}}, "identity token"),
        ({"auths": {"r.example": entry("ann", "s3cret\n")}}, "control characters"),
        ({"credsStore": "../s3cret"}, "names a credential helper that can be none"),
        ({"credHelpers": {"r.example": "not-there"}}, "docker-credential-not-there cannot be run"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(NoLogin, match=reason) as caught:
        found(tmp_path, content)
    assert hides(str(caught.value) + repr(caught.value.__cause__))


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put docker-credential-own where programs are looked for."""
    program = tmp_path / "docker-credential-own"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_helpers_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told the host, Docker Hub's by its URL of old; what it does not know is looked for in the file."""
    helper(
        tmp_path, monkeypatch,
        'read -r host; echo "$1 $host" >>"$(dirname "$0")/asked"; case $host in *r.example|https:*) '
        """echo '{"Username": "ann", "Secret": "s3cret"}';; *) echo credentials not found; exit 1;; esac""",
    )  # fmt: skip
    for content, place, user in (
        ({"credHelpers": {"r.example": "own"}, "auths": {"r.example/a/b": entry("bob")}}, PLACE, "ann"),
        ({"credsStore": "own", "auths": {"r.example": {}}}, PLACE, "ann"),
        ({"credsStore": "own", "auths": {"other:1": entry("bob")}}, ("http", "other", 1), "bob"),
        ({"credHelpers": {"docker.io": "own"}}, HUB, "ann"),
        ({"credHelpers": {"elsewhere": "own"}}, PLACE, None),
    ):
        login = found(tmp_path, content, place=place)
        assert (login and login.authorization) == (user and basic(user, "s3cret"))
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["get r.example", "get r.example", "get other:1", "get https://index.docker.io/v1/"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo s3cret; exit 1", "ended with status 1"),
        ("echo s3cret", "no username and secret"),
        ("""echo '{"Username": "s3cret"}'""", "no username and secret"),
        ("""echo '{"Username": "<token>", "Secret": "s3cret"}'""", "identity token"),
        ("head -c 100000 /dev/zero", "writes too much"),
    ],
)
def test_a_helper_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    helper(tmp_path, monkeypatch, script)
    with pytest.raises(NoLogin, match=f"docker-credential-own.*{reason}") as caught:
        found(tmp_path, {"credsStore": "own"})
    assert hides(str(caught.value))


# With all the rest of it

MANIFEST = "https://r.example/v2/a/b/manifests/1"
BLOB = f"https://r.example/v2/a/b/blobs/sha256:{'a' * 64}"
ELSEWHERE = "https://r.example/v2/c/manifests/1"


def log_in(here: Here, **auths: dict[str, str]) -> None:
    (here.path / "auth.json").write_text(json.dumps({"auths": {f"r.example/{key}": auths[key] for key in auths}}))


@with_credentials(auth_file="{}")
async def test_what_was_asked_for_once_goes_with_the_whole_repository_and_no_other(here: Here) -> None:
    log_in(here, a=entry("ann"), c=entry("bob"))
    assert await here.answer(BASIC, url=MANIFEST) == ANN
    assert await here.credentials.authorization(BLOB) == ANN
    assert await here.credentials.authorization(ELSEWHERE) is None
    assert await here.credentials.authorization("https://r.example/") is None
    assert await here.answer(BASIC, url=ELSEWHERE) == BOB
    assert await here.credentials.authorization(MANIFEST) == ANN


@with_credentials(auth_file="{}")
async def test_it_is_for_images_alone(here: Here) -> None:
    """What somebody is asked for at another URL of the host is not what they have logged in to the registry for."""
    (here.path / "auth.json").write_text(json.dumps({"auths": {"r.example": entry("ann")}}))
    assert "netrc" in await here.denied(BASIC, url="https://r.example/file")
    assert await here.answer(BASIC, url=MANIFEST) == ANN


@with_credentials(auth_file="{}")
async def test_a_login_that_is_refused_is_read_again(here: Here) -> None:
    """As passwords that are good for some hours are: whoever gives them out has the next one."""
    log_in(here, a=entry("ann"))
    assert await here.answer(BASIC, url=MANIFEST) == ANN
    assert "is refused" in await here.denied(BASIC, ANN, url=MANIFEST)
    log_in(here, a=entry("bob"))
    assert await here.answer(BASIC, ANN, url=BLOB) == BOB


# Where they are


def test_the_files_are_those_of_containers_tools_then_dockers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    usual = ["/run/containers/7/auth.json", "/home/ann/.config/containers/auth.json", "/home/ann/.docker/config.json"]
    assert [str(path) for path in auth_files(7)] == usual
    assert [str(path) for path in auth_files(0)][3:] == ["/etc/containers/auth.json"]
    for name, value in (("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")):
        monkeypatch.setenv(name, value)
    said = ["/run/user/7/containers/auth.json", "/c/containers/auth.json", "/d/config.json"]
    assert [str(path) for path in auth_files(7)] == said
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/own")
    assert [str(path) for path in auth_files(0)] == ["/own"]
