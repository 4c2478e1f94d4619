"""Logins for registries, where docker, podman and skopeo keep them: files that say them, or who knows them.

    {"auths": {"HOST": {"auth": BASE64("USER:PASSWORD")}, "HOST/NAMESPACE": ...},
     "credHelpers": {"HOST": "NAME"}, "credsStore": "NAME"}

The first file that has a login for the image counts. In a file that is the one of its host's helper, then that of
`credsStore`, then the entry that names most of the image. A helper is the program docker-credential-NAME: run as
`docker-credential-NAME get`, it reads a host and writes what it has as JSON. Docker Hub is filed under a URL of old.

Nothing of what is in a file or of what a helper writes reaches a message or a log.

*Source*: containers-auth.json(5); containers/image, pkg/docker/config/config.go; docker login, "Credential stores";
docker/docker-credential-helpers, README.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio

from lazyfs import urls
from lazyfs.origin.login import Login, NoLogin, Place, basic, may_end_a_header
from lazyfs.origin.programs import COMMAND_TIMEOUT, run

_FILE_MAX: Final = 1024 * 1024
_OUTPUT_MAX: Final = 64 * 1024

_HUBS_REGISTRY: Final = "registry-1.docker.io"
_HUB: Final = "https://index.docker.io/v1/"
"""How docker files the login for Docker Hub, and what it asks helpers for."""

_HUBS_NAMES: Final = ("docker.io", _HUB, "index.docker.io", _HUBS_REGISTRY)

_ABSENT: Final = re.compile(rb"credentials not found|no credentials server URL|no credentials username", re.IGNORECASE)
"""What helpers write when they have none, and fail."""


async def find_login(files: tuple[Path, ...], place: Place, repository: str) -> Login | None:
    """Return the login for a repository of a registry; None when no file has any.

    *Raises*: NoLogin, which names what is wrong and no secret. *Cancellation*: kills the helper.
    """
    for file in files:
        content = await trio.to_thread.run_sync(_read, file)
        if content and (login := await _login_in(content, file, place, repository)) is not None:
            return login
    return None


async def _login_in(content: dict[str, Any], file: Path, place: Place, repository: str) -> Login | None:
    names = _names(place)
    helpers, auths = _object(content, "credHelpers"), _object(content, "auths")
    helper = next((helpers[name] for name in names if name in helpers), None) or content.get("credsStore")
    if helper:
        wanted = _HUB if names == _HUBS_NAMES else names[0]
        if (login := await _ask(str(helper), file, wanted)) is not None:
            return login
    for key in _keys(names, repository):
        if key in auths and (login := _login_of(auths[key], file)) is not None:
            return login
    for key, entry in auths.items():  # docker once took any URL for a host
        if _host_in(key) in names and (login := _login_of(entry, file)) is not None:
            return login
    return None


def _read(file: Path) -> dict[str, Any]:
    """Read a file; one that is not there has nothing."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise NoLogin(f"the file {file}, which may have the credentials, cannot be read: {exc.strerror}") from None
    try:
        found = json.loads(text) if len(text) <= _FILE_MAX else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NoLogin(f"the file {file}, which may have the credentials, is not a JSON object")
    return found


def _login_of(entry: Any, file: Path) -> Login | None:
    """Read an entry; docker leaves an empty one where a helper has it."""
    said = entry if isinstance(entry, dict) else {}
    source = f"the file {file}"
    if said.get("identitytoken"):
        raise _identity_token(source)
    token = said.get("registrytoken")
    if isinstance(token, str) and token and may_end_a_header(token):
        return Login("bearer", f"Bearer {token}", source)
    username, password = said.get("username"), said.get("password")
    if isinstance(said.get("auth"), str) and said["auth"]:
        try:
            username, _, password = base64.b64decode(said["auth"]).decode().partition(":")
        except (binascii.Error, ValueError):
            raise NoLogin(f"{source} has an entry that is no username and password") from None
        password = password.rstrip("\0")
    if not (isinstance(username, str) and isinstance(password, str) and username and password):
        return None
    return Login("basic", basic(username, password, source), source)


async def _ask(name: str, file: Path, wanted: str) -> Login | None:
    """Ask a helper; None when it has nothing."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise NoLogin(f"the file {file} names a credential helper that can be none")
    program = f"docker-credential-{name}"
    status, output = await run([program, "get"], program, f"{wanted}\n".encode(), _OUTPUT_MAX)
    if status is None:
        raise NoLogin(f"{program} did not end within {COMMAND_TIMEOUT:g} s")
    if status:
        if _ABSENT.search(output):
            return None
        raise NoLogin(f"{program} ended with status {status}")
    try:
        said = json.loads(output)
        username, secret = said["Username"], said["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise NoLogin(f"{program} wrote something that is no username and secret")
    if username == "<token>":
        raise _identity_token(program)
    return Login("basic", basic(username, secret, program), program) if username and secret else None


def _identity_token(source: str) -> NoLogin:
    return NoLogin(f"{source} has an identity token, which lazyfs cannot use: log in with a password or access token")


def _names(place: Place) -> tuple[str, ...]:
    """Return what a registry may be filed under, the best first."""
    if place[1] == _HUBS_REGISTRY:
        return _HUBS_NAMES
    return tuple(dict.fromkeys((urls.shown_host(place), urls.host_and_port(*place[1:]))))


def _keys(names: tuple[str, ...], repository: str) -> Iterator[str]:
    """Yield the keys of entries that are for a repository, those that name most of it first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        for name in names:
            yield "/".join((name, *parts[:count]))


def _host_in(key: str) -> str:
    """Return the host of a key that is a URL; empty for others."""
    match = re.match("https?://([^/]+)", key)
    return match[1] if match else ""


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key)
    return found if isinstance(found, dict) else {}
