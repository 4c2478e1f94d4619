"""Logins for registries, through real mounts: docker-registry with a password and with a token server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import mounts as running
from tests import under
from tests.mounts import Mounts, lazyfs, on_mount
from tests.registries import PASSWORD, SERVICE, USER, Made, Registry, TokenServer, basic, layer, make_image
from tests.servers import Nginx

RIGHT = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
WRONG = base64.b64encode(b"ann:wrong").decode()

HELPER = """#!/bin/sh
[ "$1" = get ] && read -r host || exit 2
echo "$host" >>{asked}
[ "$host" = {host} ] && echo '{{"ServerURL": "{host}", "Username": "{user}", "Secret": "{password}"}}' && exit
echo "credentials not found in native keychain"
exit 1
"""

Say = Callable[[str, str], None]
"""Says an environment variable to the commands that are run."""


@pytest.fixture(autouse=True)
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Have no logins of the machine's."""

    def say(name: str, value: str) -> None:
        monkeypatch.setitem(running.ENVIRONMENT, name, value)

    for name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        say(name, str(tmp_path / "nothing"))
    return say


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An image of one layer."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(bytes(range(256)) * 2000)
    return make_image(tmp_path / "layout", [layer(tmp_path / "tree", "none")])


@pytest.fixture
def guarded(tmp_path: Path, made: Made) -> Iterator[Registry]:
    """A registry that wants a password, with an image."""
    with Registry(tmp_path / "registry", password=True) as registry:
        registry.push(made, "team/app:1")
        yield registry


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    """A token server, with whom nobody may pull but what is below public/."""
    with TokenServer(tmp_path / "tokens", public=["public/app"]) as tokens:
        yield tokens


def layer_of(made: Made) -> str:
    """Return where an image shows its layer."""
    return f"blobs/sha256/{made.layers[0].digest.removeprefix('sha256:')}"


def log_in(directory: Path, content: object, name: str = "config.json") -> str:
    """Write a file of logins, for its owner only; return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(content))
    (directory / name).chmod(0o600)
    return str(directory)


@pytest.mark.parametrize("place", ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE"])
def test_a_login_is_found_where_the_tools_of_containers_keep_it(
    place: str, guarded: Registry, made: Made, tmp_path: Path, mounts: Mounts, say: Say
) -> None:
    """By the daemon itself, which has no capabilities; it is for one namespace, and another has a wrong one."""
    content = {"auths": {guarded.host: {"auth": WRONG}, f"{guarded.host}/team": {"auth": RIGHT}}}
    files = {
        "DOCKER_CONFIG": tmp_path / "config.json",
        "REGISTRY_AUTH_FILE": tmp_path / "own" / "logins",
    }
    file = files[place]
    log_in(file.parent, content, file.name)
    say(place, str(file if place == "REGISTRY_AUTH_FILE" else tmp_path))
    mount = mounts(guarded.image("team/app:1"))
    assert on_mount(under.read, mount.path(layer_of(made))) == made.layers[0].content
    status = mount.status()
    assert status["runs_as"]["capabilities"] == []
    told = mount.log() + json.dumps(status) + Path(f"/proc/{mount.pid}/cmdline").read_text()
    assert not any(secret in told for secret in (PASSWORD, RIGHT))
    refused = lazyfs("add", mount.at, f"two={guarded.image('other/app:1')}").stderr
    assert refused.endswith(f"what the file {file} has for {guarded.host} is refused\n")


def test_a_helper_is_asked(guarded: Registry, made: Made, tmp_path: Path, mounts: Mounts, say: Say) -> None:
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin" / "docker-credential-of-tests"
    asked = tmp_path / "asked"
    helper.write_text(HELPER.format(asked=asked, host=guarded.host, user=USER, password=PASSWORD))
    helper.chmod(0o755)
    say("PATH", f"{tmp_path}/bin:{running.ENVIRONMENT['PATH']}")
    say("DOCKER_CONFIG", log_in(tmp_path / "docker", {"credsStore": "of-tests", "auths": {guarded.host: {}}}))
    mount = mounts(guarded.image("team/app:1"))
    assert on_mount(under.read, mount.path(layer_of(made))) == made.layers[0].content
    assert asked.read_text() == f"{guarded.host}\n", "once"


def test_who_is_not_let_in_hears_why(guarded: Registry, tmp_path: Path, mounts: Mounts, say: Say) -> None:
    image = guarded.image("team/app:1")
    at = f"{guarded.url}/v2/team/app/manifests/1"

    def failure() -> str:
        done = lazyfs("fetch", "--store", mounts.store, image)
        assert done.returncode == 1
        return done.stderr

    remedy = "log in with docker, podman or skopeo, or name a --credential-command"
    assert failure() == f"lazyfs: {at}: it wants a username and password for {guarded.host}: {remedy}\n"
    say("DOCKER_CONFIG", log_in(tmp_path / "docker", {"auths": {guarded.host: {"auth": WRONG}}}))
    assert failure() == f"lazyfs: {at}: what the file {tmp_path}/docker/config.json has for {guarded.host} is refused\n"
    log_in(tmp_path / "docker", {"auths": {guarded.host: {"auth": RIGHT, "identitytoken": "x"}}})
    assert "has an identity token, which lazyfs cannot use" in failure()
    log_in(tmp_path / "docker", {"credsStore": "not-there"})
    assert failure() == f"lazyfs: {at}: docker-credential-not-there cannot be run: No such file or directory\n"
    (tmp_path / "docker" / "config.json").write_text("{")
    assert "is not a JSON object" in failure()


def test_one_token_for_all_of_a_repository(tokens: TokenServer, made: Made, tmp_path: Path, mounts: Mounts) -> None:
    """Nobody in particular may pull what is public; the rest is denied, and says that there are no credentials."""
    with Registry(tmp_path / "registry", tokens=tokens) as registry, registry.fronted(tmp_path / "front") as front:
        registry.push(made, "public/app:1")
        registry.push(made, "private/app:1")
        tokens.forget()
        host = front.url.removeprefix("http://")
        mount = mounts(f"oci://{host}/public/app:1")
        assert on_mount(under.read, mount.path(layer_of(made))) == made.layers[0].content
        on_mount(under.read, mount.path("config.json"))
        (asked,) = tokens.asked()
        assert asked == {
            "scope": ["repository:public/app:pull"],
            "service": SERVICE,
            "authorization": "",
            "status": 200,
        }
        assert [request.status for request in front.requests()].count(401) == 1

        denied = lazyfs("add", mount.at, f"two=oci://{host}/private/app:1")
        reason = "it is not for everybody, and there are no credentials: log in with docker, podman or skopeo"
        assert reason in denied.stderr
        assert denied.returncode == 1


def test_a_token_is_asked_for_with_the_login(
    tokens: TokenServer, made: Made, tmp_path: Path, mounts: Mounts, say: Say
) -> None:
    with Registry(tmp_path / "registry", tokens=tokens) as registry:
        registry.push(made, "private/app:1")
        say("DOCKER_CONFIG", log_in(tmp_path / "docker", {"auths": {f"https://{registry.host}/v1/": {"auth": RIGHT}}}))
        tokens.forget()
        mount = mounts(registry.image("private/app:1"))
        assert on_mount(under.read, mount.path(layer_of(made))) == made.layers[0].content
        assert [asked["authorization"] for asked in tokens.asked()] == [basic(USER, PASSWORD)]


def test_no_credentials_go_along_with_a_redirect(
    guarded: Registry, made: Made, tmp_path: Path, mounts: Mounts, say: Say, nginx: Nginx, docroot: Path
) -> None:
    """As registries redirect to where their blobs are."""
    (docroot / "layer").write_bytes(made.layers[0].content)
    server = f"location ~ ^/v2/.*/blobs/{made.layers[0].digest} {{ return 307 {nginx.url}/layer?signature=1; }}"
    with guarded.fronted(tmp_path / "front", server=server) as front:
        host = front.url.removeprefix("http://")
        say("DOCKER_CONFIG", log_in(tmp_path / "docker", {"auths": {host: {"auth": RIGHT}}}))
        mount = mounts(f"oci://{host}/team/app:1")
        assert on_mount(under.read, mount.path(layer_of(made))) == made.layers[0].content
        assert {request.authorization for request in nginx.requests()} == {""}
        assert basic(USER, PASSWORD) in {request.authorization for request in front.requests()}
