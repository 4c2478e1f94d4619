"""Eviction beside readers in other processes: every byte is right, and the store is never larger than it may be.

`tools/bound` does the same with any size and for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount
from tests.processes import bound, sharing
from tests.servers import Nginx

MIB = 1 << 20


def test_random_readers_of_a_blob_ten_times_the_bound(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    sharing.make_blob(docroot, 120 * MIB)
    outcome = bound.run(mounts, nginx, docroot / sharing.BLOB, bound=12 * MIB, readers=8, seconds=5, block=64 * 1024)
    assert outcome.wrong == []
    assert outcome.reads > 500
    assert outcome.counted("blocks_fetched") * 65536 > 36 * MIB, "the store was filled several times over"
    assert outcome.counted("blocks_corrupt") == 0
    assert max(outcome.disk) <= 16 * MIB, "with the catalogue and the logs"


def test_one_pass_over_a_larger_blob(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    digest = sharing.make_blob(docroot, 64 * MIB)
    mount = mounts(f"{nginx.url}/{sharing.BLOB}", options=["--max-cache", "8M"])
    with bound.DiskUse(mounts.store) as disk:
        assert on_mount(under.sha256, mount.path(sharing.BLOB)) == digest
    assert max(disk.samples) <= 10 * MIB
    assert mount.counters()["blocks_fetched"] == 256, "nothing was evicted before it was read"


def test_a_blob_that_cannot_be_kept_whole(mounts: Mounts, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    sharing.make_blob(docroot, 24 * MIB)
    url, store = f"{nginx.url}/{sharing.BLOB}", ["--store", str(mounts.store), "--max-cache", "8M"]
    done = lazyfs("fetch", *store, url)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"lazyfs: {url}: 24.0 MiB cannot be kept in a store of 8.0 MiB at the most (--max-cache)\n"
    )
    assert nginx.body_bytes() < MIB
    done = lazyfs("fetch", *store, "-o", tmp_path / "out", url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == (docroot / sharing.BLOB).read_bytes()
    assert nginx.body_bytes() < 25 * MIB
