"""What a URL names changes: nobody reads a mix of two versions, and who opens the name anew reads the new one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import under
from tests.faults.swapping import RATE, Ground, rounds
from tests.mounts import Mounts, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx
from tools.misbehaving_origin.contents import random_bytes

NAME = "random-1M-x"
OPTIONS = ("--block-size", "64K")


@pytest.mark.parametrize(("revalidate", "part"), [("0", slice(6)), ("0.3", slice(6, 8)), ("60", slice(8, 12))])
def test_nobody_ever_reads_a_mix(
    revalidate: str, part: slice, mounts: Mounts, origin: MisbehavingOrigin, docroot: Path, tmp_path: Path
) -> None:
    """A few of the swaps that tools/swaps does by the hundred."""
    due = rounds(12, seed=1)[part]
    with Nginx(tmp_path / "nginx", docroot, server=f"limit_rate {RATE};") as nginx:
        ground = Ground(mounts, origin, nginx, due, revalidate)
        assert [what for each in due for what in ground.run(each).wrong()] == []


@pytest.mark.parametrize("behaviours", ["", "no-conditions", "weak-etag", "no-etag", "weak-etag,no-last-modified"])
@pytest.mark.parametrize("size", [None, 2 << 20])
def test_what_was_fetched_stays_and_the_rest_is_stale_until_it_is_opened_anew(
    behaviours: str, size: int | None, origin: MisbehavingOrigin, mounts: Mounts
) -> None:
    name = "random-4M-x"
    mount = mounts("blob=" + origin.url(behaviours, name), options=OPTIONS)
    reader = start(under.read_across_a_change, mount.path("blob"), 3 << 20)
    reader.wait_until_open()
    origin.swap(name, size)
    reader.go()
    pages, error, inode, anew, again = reader.result()
    assert pages == [origin.expected(name, 0, 4096)] * 3
    assert error == errno.ESTALE
    assert anew.content == origin.expected(name, version=2, size=size)
    assert (anew.size, anew.inode != inode) == (len(anew.content), True)
    assert again == pages[0]


def test_with_revalidate_0_each_open_sees_what_is_there_now(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    """The kernel has the name and its attributes cached, since somebody has it open, and all of the old blob."""
    mount = mounts("blob=" + origin.plain(NAME), options=(*OPTIONS, "--revalidate", "0"))
    seen = [on_mount(under.opened, mount.path("blob"))]
    for version in (2, 3):
        holder = start(under.hold_and_read, mount.path("blob"))
        holder.wait_until_open()
        origin.swap(NAME, version << 19)
        now = on_mount(under.opened, mount.path("blob"))
        assert now.content == origin.expected(NAME, version=version, size=version << 19)
        assert now.size == on_mount(under.look, mount.path())["blob"].size == version << 19
        assert now.inode not in {before.inode for before in seen}
        assert holder.result() == seen[-1].content
        seen.append(now)


def test_with_revalidate_0_an_origin_that_is_out_of_reach_is_done_without(
    nginx: Nginx, docroot: Path, mounts: Mounts
) -> None:
    content = random_bytes(1 << 20, "x")
    (docroot / "blob").write_bytes(content)
    mount = mounts(nginx.url + "/blob", options=(*OPTIONS, "--revalidate", "0", "--read-timeout", "3"))
    before = on_mount(under.opened, mount.path("blob"))
    nginx.stop()
    assert on_mount(under.opened, mount.path("blob")) == before
    nginx.start()
    (docroot / "blob").write_bytes(content[::-1])
    os.utime(docroot / "blob", (1, 1))
    assert on_mount(under.opened, mount.path("blob")).content == content[::-1]


@pytest.mark.parametrize("size", [None, 1 << 20])
def test_with_revalidate_0_a_new_mount_does_not_believe_what_the_store_knows(
    size: int | None, origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    """Nor when the manifest has the size, so that nobody had to be asked before the name was opened."""
    manifest = tmp_path / "files.jsonl"
    manifest.write_text(json.dumps({"path": "blob", "url": origin.plain(NAME), "size": size}) + "\n")
    mount = mounts(manifest, options=(*OPTIONS, "--revalidate", "0"))
    on_mount(under.opened, mount.path("blob"))
    mount.umount()
    origin.swap(NAME)
    mount = mounts(manifest, options=(*OPTIONS, "--revalidate", "0"))
    assert on_mount(under.opened, mount.path("blob")).content == origin.expected(NAME, version=2)


def test_with_revalidate_never_nothing_is_asked_again(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    options = (*OPTIONS, "--revalidate", "never")
    sources = ("blob=" + origin.plain(NAME), "listed=" + origin.plain("index-2/"))
    mount = mounts(*sources, options=options)
    before = on_mount(under.opened, mount.path("blob"))
    digests = on_mount(under.sha256_tree, mount.path("listed"))
    assert set(digests) == {"f000000", "f000001"}
    asked = origin.stats()["paths"]
    origin.swap(NAME)
    for _ in range(3):
        assert on_mount(under.opened, mount.path("blob")) == before
        assert on_mount(under.sha256_tree, mount.path("listed")) == digests
    assert origin.stats()["paths"] == asked
    other = mounts(sources[0], options=options)
    assert on_mount(under.opened, other.path("blob")) == before
    assert origin.stats()["paths"] == asked


def test_a_change_is_seen_behind_after_some_seconds(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    mount = mounts("blob=" + origin.plain(NAME), options=(*OPTIONS, "--revalidate", "0.5"))
    before = on_mount(under.opened, mount.path("blob"))
    origin.swap(NAME)
    new = origin.expected(NAME, version=2)
    seen = on_mount(under.opened_until, mount.path("blob"), hashlib.sha256(new).hexdigest(), 20.0)
    assert seen.content == new
    assert seen.inode != before.inode


def test_a_url_that_no_longer_redirects_is_read_where_it_is_now(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    """What its redirect led to is still there, and is another blob."""
    elsewhere = quote(origin.plain("random-1M-elsewhere"), safe="")
    url = origin.url(f"redirect-to={elsewhere}@1-2", NAME)
    mount = mounts("blob=" + url, options=(*OPTIONS, "--revalidate", "0"))
    assert on_mount(under.opened, mount.path("blob")).content == origin.expected("random-1M-elsewhere")
    assert on_mount(under.opened, mount.path("blob")).content == origin.expected(NAME)


def test_with_a_digest_another_etag_costs_those_who_read_no_more_than_opening_it_anew(
    nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    content = random_bytes(4 << 20, "x")
    (docroot / "blob").write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    manifest = tmp_path / "files.jsonl"
    manifest.write_text(json.dumps({"path": "blob", "url": nginx.url + "/blob", "digest": digest}) + "\n")
    mount = mounts(manifest, options=OPTIONS)
    reader = start(under.read_across_a_change, mount.path("blob"), 3 << 20)
    reader.wait_until_open()
    os.utime(docroot / "blob", (1, 1))
    reader.go()
    pages, error, inode, anew, again = reader.result()
    assert pages == [content[:4096]] * 3
    assert error == errno.ESTALE
    assert (anew.content, anew.inode) == (content, inode)
    assert again == content[:4096]
