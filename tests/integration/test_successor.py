"""Where the next daemon comes from: forked from its supervisor while the code is the same, else a new interpreter."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import under
from tests.integration.test_mount import BLOCK, made
from tests.integration.test_takeover import daemon, end, next_daemon
from tests.integration.test_upgrade import change, command, installed, mounted
from tests.mounts import Mount, Mounts, on_mount, run, wait_for_end
from tests.servers import Nginx

__all__ = ["installed"]


def killed(mount: Mount) -> int:
    """Kill the daemon, and return the next one."""
    last = daemon(mount)
    os.kill(last, signal.SIGKILL)
    return next_daemon(mount, last)


def is_forked(mount: Mount, pid: int) -> bool:
    """Say whether a daemon's code lies where its supervisor's does: the kernel puts each new interpreter elsewhere."""
    first, second = (Path(f"/proc/{each}/maps").read_text().split()[0] for each in (pid, mount.supervisor))
    return first == second


@pytest.mark.parametrize("options", [[], ["--no-passthrough"]])
def test_the_next_ones_are_forked(nginx: Nginx, docroot: Path, mounts: Mounts, options: list[str]) -> None:
    source = made(docroot, "blob", 3 * BLOCK)
    mount = mounts(nginx.url + "/blob", options=options)
    for offset in (0, BLOCK, 2 * BLOCK):
        pid = killed(mount)
        assert is_forked(mount, pid)
        found = on_mount(under.direct_read, mount.path("blob"), offset, BLOCK)
        assert found == source.read_bytes()[offset : offset + BLOCK]
    end(mount)


def test_a_forked_one_has_nothing_of_its_supervisors(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    """No descriptor but those that a new interpreter would be handed; and the signals mean what they always do."""
    made(docroot, "blob", 100)
    mount = mounts(nginx.url + "/blob")
    supervisor = mount.supervisor
    killed(mount)
    pid = killed(mount)
    there = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [each for each in there if "pidfd" in each], "it watches no other process"
    assert there.count("/dev/fuse") == 1
    assert len([each for each in there if "journal" in each]) == 1
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"lazyfs\0mount\0")
    os.kill(pid, signal.SIGTERM)
    wait_for_end([pid, supervisor])


def test_code_that_has_changed_is_loaded_anew(nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path) -> None:
    """Before the supervisor has loaded any of it, and after: what it has would not fit what is there now."""
    made(docroot, "blob", 100)
    mount = mounted(installed, tmp_path, nginx.url + "/blob")
    assert is_forked(mount, killed(mount))
    change(installed, "__init__.py", '__version__ = "', '__version__ = "9.9.')
    assert not is_forked(mount, killed(mount))
    assert mount.status()["version"].startswith("9.9.")
    end(mount)

    run(command(installed, "mount", "--store", tmp_path / "store", nginx.url + "/blob", mount.at))
    change(installed, "__init__.py", "9.9.", "9.10.")
    assert not is_forked(mount, killed(mount))
    assert mount.status()["version"].startswith("9.10.")
    end(mount)


def test_after_an_upgrade_they_are_of_what_is_installed(
    nginx: Nginx, docroot: Path, installed: Path, tmp_path: Path
) -> None:
    made(docroot, "blob", 100)
    mount = mounted(installed, tmp_path, nginx.url + "/blob")
    assert is_forked(mount, killed(mount))
    run(command(installed, "upgrade", mount.at))
    assert not is_forked(mount, daemon(mount))
    assert not is_forked(mount, killed(mount))
    end(mount)
