"""What others see of a daemon, and what becomes of it when its command goes."""

from __future__ import annotations

import sys
from pathlib import Path

from tests import under
from tests.mounts import Leftovers, Mounts, on_mount, run, wait_for_end
from tests.servers import Nginx


def test_the_command_line_of_a_daemon_hides_secrets(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"name={nginx.url}/file?token=SECRET1", options=["--header", "Authorization: Bearer SECRET2"])
    shown = Path(f"/proc/{mount.pid}/cmdline").read_bytes()
    assert b"SECRET" not in shown
    assert str(mount.at).encode() in shown


def test_a_daemon_without_an_order_ends_with_its_command(tmp_path: Path) -> None:
    """However the command ends; there is one while it still reads its own arguments."""
    begin = "import os, signal; from lazyfs import daemon; daemon.begin();"
    killed = f"{begin} os.kill(os.getpid(), signal.SIGKILL)"
    done = run([sys.executable, "-c", killed, "lazyfs", tmp_path], check=False)
    assert done.returncode == -9
    wait_for_end(Leftovers.below(tmp_path).daemons)

    raised = f"{begin} raise SystemExit(3)"
    done = run([sys.executable, "-c", raised, "lazyfs", tmp_path], check=False)
    assert done.returncode == 3
    assert Leftovers.below(tmp_path).daemons == []


def test_a_command_whose_children_are_ignored_mounts_all_the_same(
    nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """Some who start commands ignore SIGCHLD, which is inherited: then there is nobody to wait for."""
    (docroot / "file").write_bytes(b"content")
    at = tmp_path / "at"
    at.mkdir()
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "lazyfs",
        "mount",
        "--store",
        mounts.store,
        f"{nginx.url}/file",
        at,
    ]
    run(["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *words])
    assert on_mount(under.read, str(at / "file"), 0, 7) == b"content"
    run([sys.executable, "-m", "lazyfs", "umount", at])
