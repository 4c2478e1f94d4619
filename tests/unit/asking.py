"""What tests of credentials work with: a fake token server, and commands and files that say what a test wants."""

from __future__ import annotations

import base64
import errno
import json
import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from lazyfs import errors, urls
from lazyfs.errors import OriginDenied, OriginError
from lazyfs.origin.credentials import CredentialOptions, Credentials

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
    """Make a test of one that gets a `Here`. Of commands and files, the text is what is in them."""

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

            if (text := given.pop("auth_file", None)) is not None:
                given["auth_files"] = (tmp_path / "auth.json",)
                (tmp_path / "auth.json").write_text(text)

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
HEADERS = (("X-Key", "s3cret"), ("Authorization", "Bearer s3cret"))
NAMED = frozenset({("https", "registry.example", 443)})
