"""What others see of a daemon."""

from __future__ import annotations

from pathlib import Path

from tests.mounts import Mounts
from tests.servers import Nginx


def test_the_command_line_of_a_daemon_hides_secrets(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"name={nginx.url}/file?token=SECRET1", options=["--header", "Authorization: Bearer SECRET2"])
    shown = Path(f"/proc/{mount.pid}/cmdline").read_bytes()
    assert b"SECRET" not in shown
    assert str(mount.at).encode() in shown
