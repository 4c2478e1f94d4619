"""More files open through a mount than its daemon may have descriptors for: one clear error, and all else goes on."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from pathlib import Path

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, run
from tests.processes import looking
from tests.servers import Nginx

LIMIT = 300
COUNT = 250


def test_descriptors_run_out(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    contents = [random.Random(number).randbytes(4096) for number in range(COUNT)]
    lines = []
    for number, content in enumerate(contents):
        (docroot / str(number)).write_bytes(content)
        lines.append(json.dumps({"path": str(number), "url": f"{nginx.url}/{number}", "size": 4096}))
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    at = tmp_path / "mount"
    at.mkdir()
    # Root would raise its limit.
    bound = ["setpriv", "--bounding-set", "-sys_resource"] if os.geteuid() == 0 else []
    bound += ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    run([*bound, sys.executable, "-m", "lazyfs", "mount", "--store", mounts.store, tmp_path / "all.jsonl", at])

    pages, error = on_mount(looking.open_as_many_as_go, str(at), COUNT)
    assert error == errno.ENFILE
    opened = len(pages) // 2
    assert LIMIT // 3 < opened < COUNT
    assert pages == contents[:opened] * 2

    (mount,) = json.loads(lazyfs("status", at, "--json").stdout)["mounts"]
    assert mount["counters"]["errors"] == 1
    assert mount["degraded"] is None
    log = Path(mount["log"]).read_text()
    assert log.count("descriptors: close some files, or give it more") == 1
    assert "Traceback" not in log
    assert on_mount(under.read, str(at / str(COUNT - 1))) == contents[-1], "when they are closed, others can be opened"
    assert lazyfs("umount", at).returncode == 0
