"""fsck as a command, beside mounts that read, fetch and evict."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, start
from tests.servers import Nginx

BLOCK = 64 * 1024
OPTIONS = ("--block-size", "64K", "--scrub", "0")  # which would find the damage first, in 5 s


def test_what_goes_on_in_live_mounts_is_no_damage(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    """Two mounts with a bound of an eighth of the blob, so that blocks come and go all the time."""
    (docroot / "blob").write_bytes(random.Random(1).randbytes(128 * BLOCK))
    made = [mounts(f"{nginx.url}/blob", options=("--block-size", "64K", "--max-cache", "1M")) for _ in range(2)]
    reading = [
        start(under.differing_reads, mount.path("blob"), str(docroot / "blob"), 2, 200, seed)
        for seed, mount in enumerate(made)
    ]
    for repair in ([], ["--repair"]) * 2:
        done = lazyfs("fsck", "--store", mounts.store, *repair)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "damaged" not in done.stdout, done.stdout
        assert done.stdout.splitlines()[-1].startswith("sound: 1 blob, ")
    assert [task.result() for task in reading] == [[], []]


def test_damage_is_named_and_mended_under_a_mount(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    right = random.Random(1).randbytes(4 * BLOCK)
    (docroot / "blob").write_bytes(right)
    mount = mounts(f"{nginx.url}/blob", options=OPTIONS)
    assert on_mount(under.read, mount.path("blob")) == right
    assert lazyfs("fsck", "--store", mounts.store).returncode == 0
    (data,) = mounts.store.glob("blobs/*/*/data")
    with data.open("r+b") as file:
        file.seek(2 * BLOCK)
        file.write(b"rot")

    found = lazyfs("fsck", "--store", mounts.store)
    assert found.returncode == 1
    assert found.stdout.splitlines() == [
        f"{data.parent.name}: 1 block does not match: 2 (damaged)",
        f"damaged: 1 blob, 192.0 KiB checked; mend it with: lazyfs fsck --repair --store {mounts.store}",
    ]
    done = lazyfs("fsck", "--store", mounts.store, "--repair", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert (answer["sound"], answer["bytes_checked"]) == (True, 3 * BLOCK)
    assert [(one["damage"], one["mended"]) for one in answer["findings"]] == [(True, True), (False, True)], (
        "the block, and that the catalogue says the blob is complete"
    )
    another = mounts(f"{nginx.url}/blob", options=OPTIONS)
    assert on_mount(under.read, another.path("blob")) == right
    assert another.counters()["blocks_fetched"] == 1


def test_a_killed_mount_leaves_a_sound_store(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "blob").write_bytes(random.Random(1).randbytes(4 * BLOCK))
    mount = mounts(f"{nginx.url}/blob", options=OPTIONS)
    on_mount(under.read, mount.path("blob"), 0, BLOCK)
    mount.kill()
    found = lazyfs("fsck", "--store", mounts.store)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, "sound: 1 blob, 64.0 KiB checked")
    assert "nobody listens there (left over)" in found.stdout


def test_where_there_is_no_store(tmp_path: Path) -> None:
    done = lazyfs("fsck", "--store", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"lazyfs: there is no store at {tmp_path / 'nowhere'}; name one with --store\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    done = lazyfs("fsck", "--store", tmp_path / "other", "--repair")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "left alone" in done.stdout
    assert (tmp_path / "other" / "file").exists()
