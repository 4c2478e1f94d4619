"""Where the user's own logins come from: the credential command, then the netrc file; read when they are needed.

The command speaks git's helper protocol: it is run as `sh -c 'CMD get'`, reads what is wanted and writes what it has,
a `key=value` a line. Any of git's helpers will do, such as `git credential-cache`.

    to it                       from it
    capability[]=authtype       username=ann            or   authtype=Bearer
    protocol=https              password=...                 credential=...
    host=example.org:8443       password_expiry_utc=1767225600

Nothing of what it writes reaches a message or a log, nor does anything on its stderr: either may hold secrets.

*Source*: git-credential(1), "INPUT/OUTPUT FORMAT"; gitcredentials(7), "CUSTOM HELPERS"; RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import contextlib
import netrc
import os
import re
import signal
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from lazyfs.errors import LazyfsError

COMMAND_TIMEOUT: Final = 30.0
"""Seconds that a credential command may take; it is killed then, and whatever it has started."""

_OUTPUT_MAX: Final = 64 * 1024

_REAP_TIMEOUT: Final = 2.0
"""Seconds in which what was killed is gone, unless it hangs in the kernel."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Place = tuple[str, str, int]
"""Scheme, host, port: `urls.origin_of`."""


class NoLogin(LazyfsError):
    """Why there are no credentials; an OriginDenied to whoever asked, with the URL that was asked for."""


@dataclass(frozen=True, slots=True)
class Login:
    """What proves to one origin who asks; `source` says where it is from, `expires` is in UTC seconds."""

    scheme: str
    authorization: str = field(repr=False)
    source: str
    expires: float | None = None
    said: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What the command said, to be said back to it when the origin refuses it."""


@dataclass(frozen=True, slots=True)
class Logins:
    """The sources of logins. *Raises*, each method: NoLogin, whose message names what is wrong and no secret."""

    command: str | None = field(repr=False)
    netrc_file: Path | None

    async def from_command(self, place: Place, now: float) -> Login | str:
        """Ask the command; a text says why it has none, empty when it just has none. `now` is in UTC seconds.

        *Raises*: NoLogin, also when it says that nobody else is to be asked. *Cancellation*: kills the command.
        """
        if self.command is None:
            return ""
        status, output = await _run(f"{self.command} get", _described(place, ()), _OUTPUT_MAX)
        if status is None:
            return f"the credential command did not end within {COMMAND_TIMEOUT:g} s"
        if status:
            return f"the credential command ended with status {status}"
        return _login_of(_parse_output(output), now)

    async def erase(self, place: Place, login: Login) -> None:
        """Tell the command that the origin refused what it gave. *Cancellation*: kills the command."""
        if self.command is not None and login.said:
            await _run(f"{self.command} erase", _described(place, login.said), 0)

    async def from_netrc(self, place: Place) -> Login | None:
        """Return what the netrc file has for this very host; its `default` is for no host.

        A default would hand the secret to any origin that asks. *Cancellation*: once the file was read.
        """
        if self.netrc_file is None:
            return None
        return await trio.to_thread.run_sync(_read_netrc, self.netrc_file, place[1])


def shown(place: Place) -> str:
    """Return the host, with its port unless that is the usual one: the form of messages, and of git's `host=`."""
    scheme, host, port = place
    host = f"[{host}]" if ":" in host else host
    return host if port == {"http": 80, "https": 443}.get(scheme) else f"{host}:{port}"


def _described(place: Place, said: tuple[tuple[str, str], ...]) -> bytes:
    """Return what the command reads."""
    # The path is left out, as git does unless told otherwise (credential.useHttpPath).
    lines = [("capability[]", "authtype"), ("protocol", place[0]), ("host", shown(place)), *said]
    if _CONTROL.search(place[1]):
        raise NoLogin("the host's name cannot be said to a credential command")
    return "".join(f"{key}={value}\n" for key, value in lines).encode("utf-8", "surrogateescape") + b"\n"


def _parse_output(output: bytes) -> dict[str, str]:
    """Read what the command wrote, to the end or an empty line; of the same key twice, the last counts."""
    try:
        lines = output.decode().partition("\n\n")[0].split("\n")
    except UnicodeDecodeError:
        lines = ["not text"]
    said: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.removesuffix("\r").partition("=")
        if not equals and line.strip():
            raise NoLogin("the credential command wrote something that is not key=value")
        said[key] = value
    return said


def _login_of(said: dict[str, str], now: float) -> Login | str:
    """Make a login of what the command said."""
    expires = float(digits) if re.fullmatch("[0-9]{1,15}", digits := said.get("password_expiry_utc", "")) else None
    scheme, credential = said.get("authtype", ""), said.get("credential", "")
    username, password = said.get("username"), said.get("password")
    source = "the credential command"
    kept = ("username", "password", "authtype", "credential", "password_expiry_utc")
    fields = tuple((key, said[key]) for key in kept if key in said)
    if said.get("quit", "").lower() in ("1", "true", "yes", "on"):
        raise NoLogin("the credential command says that there are to be none")
    if expires is not None and expires <= now:
        return "what the credential command has is out of date"
    if scheme and credential:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", scheme) or not _may_end_a_header(credential):
            raise NoLogin("the credential command wrote what cannot stand in a header")
        return Login(scheme.lower(), f"{scheme} {credential}", source, expires, fields)
    if username is None or password is None:
        return ""
    return Login("basic", _basic(username, password, source), source, expires, fields)


def _basic(username: str, password: str, source: str) -> str:
    """Return the Authorization of a username and password. *Source*: RFC 7617 §2: no control characters, no colon."""
    if _CONTROL.search(username + password):
        raise NoLogin(f"{source} has a username or password with control characters in it")
    if ":" in username:
        raise NoLogin(f"{source} has a username with a colon in it")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _may_end_a_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()


def _read_netrc(path: Path, host: str) -> Login | None:
    source = f"the netrc file {path}"
    wrong = ""
    try:
        found = path.stat()
        if stat.S_ISCHR(found.st_mode):
            return None  # /dev/null: the usual way to have none
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise NoLogin(f"{source} is not a regular file")
        hosts = netrc.netrc(path).hosts
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise NoLogin(f"{source} cannot be read: {exc.strerror}") from None
    except netrc.NetrcParseError as exc:
        # Where it stood, which is past the end of the line when the word that it did not like ends one.
        wrong = f"{source} is not as a netrc file is, at line {exc.lineno} or just before"
    except UnicodeDecodeError:
        wrong = f"{source} is not text"
    if wrong:  # out here, for an error that has no such cause: those quote the file
        raise NoLogin(wrong)
    if found.st_mode & 0o077 and any(password for _, _, password in hosts.values()):
        raise NoLogin(f"{source} has passwords that others may read: chmod 600 {path}")
    hosts.pop("default", None)
    for machine, (username, _, password) in hosts.items():
        if machine.lower() == host and password:
            return Login("basic", _basic(username, password, source), source)
    return None


async def _run(command: str, stdin: bytes, limit: int) -> tuple[int | None, bytes]:
    """Run a command through the shell; return its status, None when it was killed for its time, and its output.

    *Units*: `limit` is the most bytes that it may write; with 0 its output is not looked at. *Raises*: NoLogin.
    """
    try:
        # The one shell of lazyfs, since it is a command line that the user gives (git does the same). A session of its
        # own makes it a process group that can be killed as one, and keeps it from a terminal nobody expects it at.
        process = await trio.lowlevel.open_process(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if limit else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as exc:
        raise NoLogin(f"the credential command cannot be run: {exc.strerror}") from None
    output = bytearray()
    status: int | None = None
    try:
        with trio.move_on_after(COMMAND_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell, process, stdin)
                while process.stdout is not None and len(output) <= limit:
                    if not (piece := await process.stdout.receive_some(4096)):
                        break
                    output += piece
                if len(output) <= limit:
                    status = await process.wait()
    finally:
        if status is None:
            await _kill(process)
        await _close(process.stdin)
        await _close(process.stdout)
    if len(output) > limit:
        raise NoLogin("the credential command writes too much")
    return status, bytes(output)


async def _tell(process: trio.Process, stdin: bytes) -> None:
    """Send what the command may read; it need not."""
    assert process.stdin is not None
    with contextlib.suppress(trio.BrokenResourceError):
        await process.stdin.send_all(stdin)
    await _close(process.stdin)


async def _kill(process: trio.Process) -> None:
    """Kill the command and what it has started. It is not reaped yet, so its process group is no other's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.move_on_after(_REAP_TIMEOUT, shield=True):
        await process.wait()


async def _close(stream: trio.abc.AsyncResource | None) -> None:
    """Close a pipe, also when cancelled: it is closed at once either way."""
    if stream is not None:
        with trio.CancelScope(shield=True):
            await stream.aclose()
