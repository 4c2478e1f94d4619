"""Logins: git's helper protocol with real commands of a few lines, and netrc files."""

from __future__ import annotations

import base64
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lazyfs.origin.logins import COMMAND_TIMEOUT, Login, Logins, NoLogin

PLACE = ("https", "example.org", 443)
NOW = 1_700_000_000.0
SOURCE = "the credential command"


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def script(tmp_path: Path, body: str) -> str:
    """Make a command that notes what it was asked, one request after another in `asked`, and then runs `body`."""
    path = tmp_path / "a helper"
    path.write_text(
        f"cd {shlex.quote(str(tmp_path))}; echo \"$@\" >>asked; tr '\\n' ';' >>asked; echo >>asked\n{body}\n"
    )
    return f"sh {shlex.quote(str(path))} --option"


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


def ask(command: str, place: tuple[str, str, int] = PLACE) -> Login | str:
    return trio.run(Logins(command, None).from_command, place, NOW)


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        (PLACE, "protocol=https;host=example.org"),
        (("https", "example.org", 80), "protocol=https;host=example.org:80"),
        (("http", "example.org", 80), "protocol=http;host=example.org"),
        (("http", "::1", 8080), "protocol=http;host=[::1]:8080"),
        (("http", "h\u00e9", 80), "protocol=http;host=h\u00e9"),
    ],
)
def test_what_a_command_is_asked(tmp_path: Path, place: tuple[str, str, int], request_: str) -> None:
    assert ask(script(tmp_path, ""), place) == ""
    assert asked(tmp_path) == ["--option get", f"capability[]=authtype;{request_};;"]


def test_a_command_with_no_arguments_and_a_pipe() -> None:
    login = ask("printf 'username=ann\npassword=s3cret\n' | cat; :")
    assert isinstance(login, Login)
    assert login.authorization == basic("ann", "s3cret")


@pytest.mark.parametrize(
    ("says", "authorization", "expires"),
    [
        ("username=ann\npassword=s3cret", basic("ann", "s3cret"), None),
        ("username=ann\r\npassword=s3cret\r", basic("ann", "s3cret"), None),
        ("protocol=https\nhost=evil\nusername=\npassword=a=b\nnew=x", basic("", "a=b"), None),
        ("username=ann\npassword=", basic("ann", ""), None),
        ("username=a\nusername=\u00e9\npassword=\u00fc", basic("\u00e9", "\u00fc"), None),
        ("username=ann\npassword=x\n\npassword=y", basic("ann", "x"), None),
        ("username=ann\npassword=x\npassword_expiry_utc=1700000001", basic("ann", "x"), 1700000001),
        ("username=ann\npassword=x\npassword_expiry_utc=never", basic("ann", "x"), None),
        ("authtype=Bearer\ncredential=abc", "Bearer abc", None),
        ("authtype=bearer\ncredential=abc\nusername=ann\npassword=x\nquit=0", "bearer abc", None),
        ("authtype=Bearer\nusername=ann\npassword=x", basic("ann", "x"), None),
    ],
)
def test_what_a_command_has(tmp_path: Path, says: str, authorization: str, expires: float | None) -> None:
    (tmp_path / "says").write_text(says)
    login = ask(script(tmp_path, "cat says"))
    assert isinstance(login, Login)
    assert (login.authorization, login.expires) == (authorization, expires)
    assert login.scheme == authorization.partition(" ")[0].lower()


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("", ""),
        ("echo", ""),
        ("echo username=s3cret", ""),
        ("echo password=s3cret", ""),
        ("echo credential=s3cret", ""),
        ("echo username=s3cret; echo password=s3cret; exit 3", f"{SOURCE} ended with status 3"),
        ("echo s3cret >&2; exit 1", f"{SOURCE} ended with status 1"),
        ("echo username=s3cret; echo password=s3cret; echo password_expiry_utc=1700000000",
         f"what {SOURCE} has is out of date"),
    ],
)  # fmt: skip
def test_what_a_command_has_not(tmp_path: Path, body: str, note: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(script(tmp_path, body)) == note
    assert capfd.readouterr() == ("", "")


def test_a_command_that_is_none() -> None:
    assert ask("/no/such/command") == f"{SOURCE} ended with status 127"
    assert trio.run(Logins(None, None).from_command, PLACE, NOW) == ""


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"s3cret\n", "not key=value"),
        (b"username=ann\npassword=s3cret\xff\n", "not key=value"),
        (b"username=a:b\npassword=s3cret\n", "colon"),
        (b"username=ann\npassword=s3cret\rX: y\n", "control characters"),
        (b"username=a\x00b\npassword=s3cret\n", "control characters"),
        (b"authtype=Bearer\ncredential=s3cret\rX: y\n", "cannot stand in a header"),
        (b"authtype=Bearer\ncredential=s3cret\xc3\xa9\n", "cannot stand in a header"),
        (b"authtype=Bearer\ncredential=s3cret \n", "cannot stand in a header"),
        (b"authtype=Bea rer\ncredential=s3cret\n", "cannot stand in a header"),
        (b"username=ann\npassword=s3cret\nquit=1\n", "none"),
        (b"quit=true\n", "none"),
        (b"username=s3cret" + b"s3cret" * 11_000, "too much"),
    ],
)
def test_what_a_command_may_not_say(tmp_path: Path, says: bytes, reason: str) -> None:
    (tmp_path / "says").write_bytes(says)
    with pytest.raises(NoLogin, match=reason) as caught:
        ask(script(tmp_path, "cat says"))
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_a_host_cannot_say_more_than_a_host() -> None:
    with pytest.raises(NoLogin, match="host"):
        ask("cat", ("https", "example.org\nhost=example.com", 443))


def test_a_command_that_writes_too_much_is_not_waited_for() -> None:
    logins = Logins("head -c 100000 /dev/zero; sleep 300; :", None)
    with pytest.raises(NoLogin, match="too much"):
        trio.run(logins.from_command, PLACE, NOW, clock=MockClock())  # which stands, so that no time-out ends it


def test_a_command_that_reads_nothing() -> None:
    login = Login("basic", "", SOURCE, None, (("password", "x" * 200_000),))
    trio.run(Logins("exec true <&- #", None).erase, PLACE, login)


def test_what_was_refused_is_said_back(tmp_path: Path) -> None:
    (tmp_path / "says").write_text("password=x\nusername=ann\nnew=x\npassword_expiry_utc=1800000000\n")
    logins = Logins(script(tmp_path, "cat says"), None)
    login = trio.run(logins.from_command, PLACE, NOW)
    assert isinstance(login, Login)
    trio.run(logins.erase, PLACE, login)
    said = "username=ann;password=x;password_expiry_utc=1800000000"
    assert asked(tmp_path)[2:] == ["--option erase", f"capability[]=authtype;protocol=https;host=example.org;{said};;"]
    trio.run(logins.erase, PLACE, Login("basic", "", "the netrc file", None))
    assert len(asked(tmp_path)) == 4, "what the command did not say is not said to it"


async def with_hanging(
    tmp_path: Path, test: Callable[[Logins, Callable[[], Awaitable[None]]], Awaitable[None]]
) -> None:
    """Run a test of a command that hangs, and has started what hangs; it is over when nothing of that is left.

    Both hold a pipe open, which ends when the last of them has ended. `up` waits until they are there.
    """
    os.mkfifo(tmp_path / "alive")
    descriptor = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    logins = Logins(script(tmp_path, "exec 9>alive; sleep 300 & echo >&9; trap '' TERM; wait"), None)
    async with trio.lowlevel.FdStream(descriptor) as alive:

        async def up() -> None:
            await trio.lowlevel.wait_readable(descriptor)
            assert await alive.receive_some(1) == b"\n"

        await test(logins, up)
        assert await alive.receive_some(1) == b"", "something of it lives on"


@pytest.mark.parametrize("method", ["get", "erase"])
def test_a_command_that_hangs_is_killed_with_all_it_started(tmp_path: Path, method: str) -> None:
    clock = MockClock()

    async def test(logins: Logins, up: Callable[[], Awaitable[None]]) -> None:
        async def call() -> None:
            if method == "get":
                assert await logins.from_command(PLACE, NOW) == f"{SOURCE} did not end within 30 s"
            else:
                await logins.erase(PLACE, Login("basic", "", SOURCE, None, (("username", "ann"),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await up()
            clock.jump(COMMAND_TIMEOUT)

    trio.run(with_hanging, tmp_path, test, clock=clock)


def test_a_command_that_nobody_waits_for_is_killed_with_all_it_started(tmp_path: Path) -> None:
    async def test(logins: Logins, up: Callable[[], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(logins.from_command, PLACE, NOW)
            await up()
            nursery.cancel_scope.cancel()

    trio.run(with_hanging, tmp_path, test)


def test_a_command_may_leave_something_behind(tmp_path: Path) -> None:
    """As git's own `credential-cache` does, whose daemon goes on."""
    os.mkfifo(tmp_path / "on")
    command = script(tmp_path, "(read go <on; echo there >on) >/dev/null 2>&1 & echo username=ann; echo password=x")
    assert isinstance(ask(command), Login)
    (tmp_path / "on").write_text("go\n")
    assert (tmp_path / "on").read_text() == "there\n"


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    ask(script(tmp_path, "echo username=ann"))
    assert os.listdir("/proc/self/fd") == before


def netrc(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "netrc"
    path.write_text(text)
    path.chmod(mode)
    return path


def look_up(path: Path, host: str = "example.org") -> Login | None:
    return trio.run(Logins(None, path).from_netrc, ("https", host, 443))


@pytest.mark.parametrize(
    ("text", "host", "authorization"),
    [
        ("machine example.org login ann password s3cret", "example.org", basic("ann", "s3cret")),
        ("machine Example.ORG\n login ann\n password s3cret\n", "example.org", basic("ann", "s3cret")),
        ("machine example.org password s3cret", "example.org", basic("", "s3cret")),
        ('machine ::1 login "a b" password "s\\"3"', "::1", basic("a b", 's"3')),
        ("machine a login b password c machine example.org login d password e", "example.org", basic("d", "e")),
        ("machine example.org login ann password s3cret", "www.example.org", None),
        ("machine example.org login ann password s3cret", "ple.org", None),
        ("machine example.org login ann", "example.org", None),
        ("default login ann password s3cret", "example.org", None),
        ("default login ann password s3cret", "default", None),
        ("# nothing", "example.org", None),
    ],
)
def test_what_a_netrc_file_has(tmp_path: Path, text: str, host: str, authorization: str | None) -> None:
    login = look_up(netrc(tmp_path, text), host)
    assert (login and login.authorization) == authorization
    assert login is None or (login.scheme, login.expires, login.said) == ("basic", None, ())


@pytest.mark.parametrize("name", ["netrc", "no/netrc"])
def test_a_netrc_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    assert look_up(tmp_path / name) is None
    assert look_up(Path(os.devnull)) is None
    assert trio.run(Logins(None, None).from_netrc, PLACE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("machine example.org\nlogin ann s3cret", "is not as a netrc file is, at line 2 or"),
        ("\ns3cret", "is not as a netrc file is, at line 2 or"),
        ("machine example.org login ann password \udcff", "is not text"),
        ("machine example.org login a:b password s3cret", "colon"),
        ('machine example.org login ann password "s3cret\nX: y"', "control characters"),
    ],
)
def test_what_is_wrong_with_a_netrc_file(tmp_path: Path, text: str, reason: str) -> None:
    path = netrc(tmp_path, "")
    path.write_bytes(os.fsencode(text))
    with pytest.raises(NoLogin, match=reason) as caught:
        look_up(path)
    assert str(path) in str(caught.value)
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None, "it would quote the file"


@pytest.mark.parametrize(
    ("text", "mode", "refused"),
    [
        ("machine other login ann password s3cret", 0o640, True),
        ("machine other login ann password s3cret", 0o604, True),
        ("default login ann password s3cret", 0o644, True),
        ("machine example.org login ann", 0o644, False),
        ("machine other login ann password s3cret", 0o700, False),
    ],
)
def test_passwords_that_others_may_read(tmp_path: Path, text: str, mode: int, refused: bool) -> None:
    path = netrc(tmp_path, text, mode)
    if not refused:
        assert look_up(path) is None
        return
    with pytest.raises(NoLogin, match=f"others may read: chmod 600 {path}"):
        look_up(path)


def test_a_netrc_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(NoLogin, match="is not a regular file"):
            look_up(path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NoLogin, match="cannot be read: Too many levels"):
        look_up(tmp_path / "loop")


def test_nothing_shows_a_secret() -> None:
    login = Login("basic", "Basic s3cret", SOURCE, None, (("password", "s3cret"),))
    assert "s3cret" not in repr(login) + repr(Logins("command --key=s3cret", None))
    assert "s3cret" not in sys.argv
