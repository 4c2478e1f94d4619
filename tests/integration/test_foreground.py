"""`lazyfs mount --foreground`: the command stays, as the supervisor of its daemon, and stderr is the log."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lazyfs import mountinfo
from tests import mounts as real
from tests import under
from tests.integration.test_mount import made
from tests.integration.test_takeover import daemon, next_daemon
from tests.mounts import Mount, Words, on_mount, wait_for_end
from tests.servers import Nginx


@contextlib.contextmanager
def foreground(tmp_path: Path, url: str) -> Iterator[tuple[subprocess.Popen[bytes], Mount, Path]]:
    """Start a mount; yields the command, the mount, and where its stderr goes."""
    at, log = tmp_path / "mount", tmp_path / "stderr"
    at.mkdir()
    words: Words = [sys.executable, "-m", "lazyfs", "mount", "-f", "--store", tmp_path / "store", url, at]
    with (
        log.open("wb") as stderr,
        subprocess.Popen([*words], cwd=real.ROOT, env=real.ENVIRONMENT, stderr=stderr) as command,
    ):
        try:
            yield command, Mount(at, tmp_path / "store", 0), log
        finally:
            command.terminate()
            command.wait(real.PATIENCE)


def wait_for(what: str, log: Path) -> None:
    deadline = time.monotonic() + real.PATIENCE
    while what not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def wait_until_mounted(mount: Mount) -> None:
    deadline = time.monotonic() + real.PATIENCE
    while real.lazyfs("status", mount.at).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_next_daemon_logs_where_the_first_one_did(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    source = made(docroot, "blob", 1000)
    with foreground(tmp_path, nginx.url + "/blob") as (command, mount, log):
        wait_until_mounted(mount)
        first = daemon(mount)
        assert mount.supervisor == command.pid
        os.kill(first, signal.SIGKILL)
        second = next_daemon(mount, first)
        assert f"the daemon (pid {first}) has died (SIGKILL): starting the next one" in log.read_text()
        assert on_mount(under.sha256, mount.path("blob")) == under.sha256(str(source))
        os.kill(command.pid, signal.SIGUSR1)
        wait_for("all that is under way, since SIGUSR1 came", log)
        assert daemon(mount) == second
        os.kill(command.pid, signal.SIGTERM)
        assert command.wait(real.PATIENCE) == 0
        wait_for_end([second])
        assert mountinfo.mount_at(str(mount.at)) is None
        assert "unmounting" in log.read_text()


def test_a_daemon_that_is_killed_before_it_has_mounted_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/blob"
        with foreground(tmp_path, url) as (command, mount, log):
            silent.settimeout(real.PATIENCE)
            with silent.accept()[0]:  # which is never answered
                (pid,) = real._processes(mount.at, "lazyfs")
                os.kill(pid, signal.SIGKILL)
                assert command.wait(real.PATIENCE) == 1
            assert log.read_text() == f"lazyfs: the daemon was killed (SIGKILL) before {mount.at} was mounted\n"
