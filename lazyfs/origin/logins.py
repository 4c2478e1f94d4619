"""Where the user's own logins come from: the credential command, files of registries' tools, the netrc file.

Each is asked or read when it is needed; the tools' files have a module of their own (authfiles.py).

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

import netrc
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from lazyfs import urls
from lazyfs.origin.authfiles import find_login
from lazyfs.origin.login import Login as Login
from lazyfs.origin.login import NoLogin as NoLogin
from lazyfs.origin.login import Place as Place
from lazyfs.origin.login import basic, has_controls, may_end_a_header
from lazyfs.origin.own import Own
from lazyfs.origin.programs import COMMAND_TIMEOUT as COMMAND_TIMEOUT
from lazyfs.origin.programs import run

_OUTPUT_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Logins:
    """The sources of logins; what `own` says of an origin goes before the first two.

    *Raises*, each method: NoLogin, whose message names what is wrong and no secret.
    """

    command: str | None = field(repr=False)
    netrc_file: Path | None
    auth_files: tuple[Path, ...] = ()
    own: Own = field(default_factory=Own)

    async def from_command(self, place: Place, now: float) -> Login | str:
        """Ask the command; a text says why it has none, empty when it just has none. `now` is in UTC seconds.

        *Raises*: NoLogin, also when it says that nobody else is to be asked. *Cancellation*: kills the command.
        """
        command = self._command_of(place)
        if command is None:
            return ""
        status, output = await _run(command, "get", _described(place, ()), _OUTPUT_MAX)
        if status is None:
            return f"the credential command did not end within {COMMAND_TIMEOUT:g} s"
        if status:
            return f"the credential command ended with status {status}"
        return _login_of(_parse_output(output), now)

    async def erase(self, place: Place, login: Login) -> None:
        """Tell the command that the origin refused what it gave. *Cancellation*: kills the command."""
        command = self._command_of(place)
        if command is not None and login.said:
            await _run(command, "erase", _described(place, login.said), 0)

    def _command_of(self, place: Place) -> str | None:
        own = self.own.of(place).command
        return self.command if own is None else own

    async def from_auth_files(self, place: Place, repository: str) -> Login | None:
        """Return what registries' tools have for a repository; nothing for an origin that is none, without a look.

        *Cancellation*: kills the helper that is asked.
        """
        return await find_login(self.auth_files, place, repository) if repository else None

    async def from_netrc(self, place: Place) -> Login | None:
        """Return what the netrc file has for this very host; its `default` is for no host.

        A default would hand the secret to any origin that asks. *Cancellation*: once the file was read.
        """
        path = self.own.of(place).netrc or self.netrc_file
        if path is None:
            return None
        return await trio.to_thread.run_sync(_read_netrc, path, place[1])


async def _run(command: str, word: str, stdin: bytes, limit: int) -> tuple[int | None, bytes]:
    # The one shell of lazyfs, since it is a command line that the user gives (git does the same).
    return await run(["sh", "-c", f"{command} {word}"], "the credential command", stdin, limit)


def _described(place: Place, said: tuple[tuple[str, str], ...]) -> bytes:
    """Return what the command reads."""
    # The path is left out, as git does unless told otherwise (credential.useHttpPath).
    lines = [("capability[]", "authtype"), ("protocol", place[0]), ("host", urls.shown_host(place)), *said]
    if has_controls(place[1]):
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
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", scheme) or not may_end_a_header(credential):
            raise NoLogin("the credential command wrote what cannot stand in a header")
        return Login(scheme.lower(), f"{scheme} {credential}", source, expires, fields)
    if username is None or password is None:
        return ""
    return Login("basic", basic(username, password, source), source, expires, fields)


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
            return Login("basic", basic(username, password, source), source)
    return None
