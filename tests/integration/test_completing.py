"""Completion: by real shells, with what there is, and without a look at a mount that may be stuck."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Mounts, lazyfs, run
from tests.servers import MisbehavingOrigin

SHELLS = {
    "bash": (["bash", "--norc", "-i"], "source {script}"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source {script}"),
}


def completed(line: str, store: Path | None = None) -> list[str]:
    """Return what may stand at the end of a line, as the scripts ask for it."""
    asked = {"COMP_WORDS": line, "_LAZYFS_COMPLETE": "bash_complete"}
    more = {"LAZYFS_STORE": str(store)} if store else {}
    words = ["env", *(f"{name}={value}" for name, value in (asked | more).items()), sys.executable, "-m", "lazyfs"]
    return run(words).stdout.strip("\n").splitlines()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PATH with our command, and the scripts beside it."""
    directory = tmp_path_factory.mktemp("commands")
    (directory / "lazyfs").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m lazyfs "$@"\n')
    (directory / "lazyfs").chmod(0o755)
    for shell in (*SHELLS, "fish"):
        (directory / shell).write_text(lazyfs("completion", shell).stdout)
    return directory


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory with files that are not easily written in a shell."""
    (tmp_path / "a dir").mkdir()
    (tmp_path / "x*y.toml").write_text("")
    (tmp_path / ".hidden").write_text("")
    (tmp_path / '12:30 it\'s "$5" \u00e9\\').write_text("")
    return tmp_path


def typed(shell: str, commands: Path, line: str) -> list[str]:
    """Type a line and a tab into a shell, and return the words that it then has."""
    words, setup = SHELLS[shell]
    pid, terminal = pty.fork()
    if not pid:
        path = f"{commands}:{os.environ['PATH']}"
        os.execvpe(words[0], words, {**ENVIRONMENT, "PATH": path, "TERM": "dumb", "PS1": "$ ", "HISTFILE": ""})
    told = b""

    def wait_for(what: bytes) -> None:
        nonlocal told
        while what not in told:
            assert select.select([terminal], [], [], PATIENCE)[0], told
            told += os.read(terminal, 4096)

    os.write(terminal, f"{setup.format(script=commands / shell)}; echo re''ady\n".encode())
    wait_for(b"ready\r\n")
    os.write(terminal, line.encode() + b"\t\x01printf '<%s>' \x05; echo; echo do''ne; exit\n")
    wait_for(b"done\r\n")
    os.close(terminal)
    os.waitpid(pid, 0)
    return re.findall("<([^<>]*)>", told.rpartition(b"\r\ndone")[0].rpartition(b"\n")[2].decode())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_tab(shell: str, commands: Path, there: Path) -> None:
    assert typed(shell, commands, "lazyfs umo") == ["lazyfs", "umount"]
    assert typed(shell, commands, f"lazyfs mount https://h/x --ca-file {there}/x")[-1] == f"{there}/x*y.toml"
    assert typed(shell, commands, f"lazyfs mount {there}/nothing")[-1] == f"{there}/nothing"
    assert typed(shell, commands, f"lazyfs mount {there}/a")[-1] == f"{there}/a dir/"
    odd = f'{there}/12:30 it\'s "$5" \u00e9\\'
    for start in ("", "12:", "12:30\\ it\\'", "'12:30'"):
        assert typed(shell, commands, f"lazyfs mount {there}/{start or '1'}")[-1] == odd
    for quote in ("'", '"'):
        assert typed(shell, commands, f"lazyfs mount {quote}{there}/12:30 i")[-1] == odd
    assert typed(shell, commands, f'lazyfs mount x="{there}/12:3')[-1] == f"x={odd}"
    assert typed(shell, commands, f"lazyfs ls --store={there}/12:")[-1] == f"--store={odd}"


def test_a_tab_in_fish(commands: Path, there: Path) -> None:
    def said(line: str) -> list[str]:
        words = ["env", f"PATH={commands}:{os.environ['PATH']}", "fish", "--no-config", "-c"]
        return run([*words, f'source {commands}/fish; complete -C "{line}"']).stdout.splitlines()

    (umount,) = said("lazyfs umo")
    assert umount.startswith("umount\tUnmount ")
    assert said(f"lazyfs mount {there}/a") == [f"{there}/a dir/"]
    assert said(f"lazyfs ls --store={there}/a") == [f"--store={there}/a dir/"]


def test_where_a_script_belongs() -> None:
    for shell in ("bash", "zsh", "fish"):
        first, second, *_ = lazyfs("completion", shell).stdout.splitlines()
        assert f"# Completion of lazyfs in {shell}. Put this " in (second if shell == "zsh" else first)
    assert lazyfs("completion", "tcsh").returncode == 2


def test_commands_and_options() -> None:
    assert sorted(completed("lazyfs u")) == ["umount", "unpin", "upgrade"]
    assert sorted(completed("lazyfs profile ")) == ["export", "import", "show"]
    assert completed("lazyfs mount https://h/x --read-t") == ["--read-timeout"]
    assert completed("lazyfs mount --log-level d") == ["debug"]


def test_paths(there: Path) -> None:
    assert completed(f"lazyfs mount {there}/")[1:] == [f"{there}/a\\ dir/", f"{there}/x\\*y.toml"]
    assert completed(f"lazyfs mount {there}/.h") == [f"{there}/.hidden"]
    assert completed("lazyfs mount /not/there/") == []
    assert "/etc/" in completed("lazyfs mount /e")


def test_mounts_and_blobs(mounts: Mounts, origin: MisbehavingOrigin) -> None:
    """Also of one whose daemon does not answer: nobody looks there."""
    mount = mounts(origin.plain("random-1M-x"))
    assert lazyfs("fetch", mount.path("random-1M-x")).returncode == 0
    start = lazyfs("ls", "--store", mounts.store).stdout.splitlines()[1][:20]
    assert completed("lazyfs rm ", mounts.store) == [start]
    for command in ("map", "pin"):
        assert start in completed(f"lazyfs {command} ", mounts.store)
    assert completed(f"lazyfs rm --store {mounts.store} url") == [start]
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        for command in ("umount", "status", "upgrade", "add"):
            assert completed(f"lazyfs {command} {mount.at}") == [str(mount.at)]
        for command in ("map", "pin", "fetch", "profile show"):
            assert completed(f"lazyfs {command} {mount.at}") == [f"{mount.at}/"]
        assert f"{mount.at}/" in completed(f"lazyfs mount {mount.at.parent}/")
    finally:
        os.kill(mount.pid, signal.SIGCONT)


def test_it_loads_next_to_nothing() -> None:
    """It is to be as quick as --help."""
    asked = {"COMP_WORDS": "lazyfs umount /", "COMP_CWORD": "2", "_LAZYFS_COMPLETE": "zsh_complete"}
    words = [sys.executable, "-X", "importtime", "-m", "lazyfs"]
    done = subprocess.run(words, env={**ENVIRONMENT, **asked}, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lazyfs.cli.completing" in loaded
    assert not loaded & {"trio", "httpx", "sqlite3", "asyncio", "ssl", "socket", "subprocess", "json", "lazyfs.store"}
