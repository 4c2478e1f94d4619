"""Containers for tests, run by crun as root; a tree that one can be run from, and what it takes on any machine.

crun wants the cgroups of a machine to be those of version 2 alone. Where the old ones are beside them, it refuses to
run at all. So it is given a view of its own of the file systems, in which /sys/fs/cgroup has version 2, and makes no
cgroup there (`--cgroup-manager=disabled`). All other namespaces that `crun spec` lists are the container's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from tests.mounts import PATIENCE, Words, run

_ALONE: Final = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'

APPLETS: Final = ("cat", "id", "ls", "sh", "sha256sum", "stat")
"""What a shell's tree has besides busybox."""


def shell_tree(directory: Path) -> Path:
    """Make a tree with a shell in it, busybox, which needs nothing else; the directories are there to mount on."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    found = shutil.which("busybox")
    assert found is not None, "busybox is not installed; tools/test installs it"
    shutil.copy(found, directory / "bin" / "busybox")
    for name in APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    return directory


def run_container(
    root: Path, directory: Path, *words: str, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a command in a container whose root is `root`, which it may write; `directory` is to hold the bundle.

    Whether it failed is for the caller to see. *Raises*: TimeoutError.
    """
    bundle = directory / f"bundle-{uuid.uuid4().hex}"
    bundle.mkdir()
    run(["crun", "spec", "--bundle", bundle])
    configuration = bundle / "config.json"
    spec = json.loads(configuration.read_text())
    spec["process"] |= {"terminal": False, "args": words}
    spec["root"] = {"path": str(root), "readonly": False}
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    configuration.write_text(json.dumps(spec))
    crun: Words = ["crun", "--root", directory / "crun", "--cgroup-manager=disabled", "run", "--bundle", bundle]
    private = ["unshare", "--mount", "--propagation", "private", "--kill-child", "--fork", "sh", "-c", _ALONE, "sh"]
    return run([*private, *crun, bundle.name], timeout, check=False)
