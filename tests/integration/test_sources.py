"""Where names come from, through a real mount: indexes, manifests, slow and dead origins, and none at all."""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx

TREE = {
    "top": 5_000,
    "one/a": 100,
    "one/b c": 70_000,
    "one/two/deep": 1,
    "one/two/three/deepest": 3_000_000,
    "other/empty": 0,
}
"""Files and their sizes."""


def plant(root: Path) -> None:
    """Make the files of TREE."""
    for seed, (name, size) in enumerate(TREE.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(random.Random(seed).randbytes(size))


def write_apache_indexes(directory: Path) -> None:
    """Give each directory the index.html that Apache would make of it, its sizes rounded as it does."""
    rows = ['<a href="?C=N;O=D">Name</a> <a href="?C=M;O=A">Last modified</a> <a href="?C=S;O=A">Size</a><hr>']
    rows.append('<img src="/icons/back.gif" alt="[PARENTDIR]"> <a href="/">Parent Directory</a>      -   ')
    for child in sorted(directory.iterdir()):
        name = child.name + ("/" if child.is_dir() else "")
        size = child.stat().st_size
        shown = "-" if child.is_dir() else f"{size}" if size < 1000 else f"{size / 1024:.1f}K"
        rows.append(f'<img alt="[   ]"> <a href="{quote(name)}">{escape(name)}</a>  2024-03-04 05:06  {shown:>4}  ')
        if child.is_dir():
            write_apache_indexes(child)
    page = "<html><head><title>Index of /</title></head><body><pre>{}\n<hr></pre></body></html>\n"
    (directory / "index.html").write_text(page.format("\n".join(rows)))


def files(seen: dict[str, under.Seen]) -> dict[str, under.Seen]:
    """Leave out the directories, whose date is their mount's."""
    return {name: one for name, one in seen.items() if one.mode & 0o111 == 0}


def sizes(seen: dict[str, under.Seen]) -> dict[str, int]:
    """Return the sizes of files, by path."""
    return {name: one.size for name, one in files(seen).items()}


def write_jsonl(path: Path, entries: Sequence[object]) -> Path:
    """Write a manifest; an entry that is a string is a line as it stands."""
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))
    return path


# Indexes.


@pytest.mark.parametrize("style", ["html", "json", "apache"])
def test_an_index_is_listed_to_any_depth_when_it_is_looked_at(
    style: str, nginx: Nginx, docroot: Path, mounts: Mounts
) -> None:
    plant(docroot)
    if style == "apache":
        write_apache_indexes(docroot)
    mount = mounts(nginx.url + ("/json/" if style == "json" else "/"))

    def listed() -> list[str]:
        return [request.uri.removeprefix("/json") for request in nginx.requests() if request.uri.endswith("/")]

    assert {"one", "other"} <= set(on_mount(under.look, mount.path()))
    assert listed() == ["/"]
    on_mount(under.wait_for_names, mount.path("one"), 3, 10.0)  # Apache's files are asked one by one
    assert listed() == ["/", "/one/"]
    on_mount(under.wait_for_names, mount.path("one/two/three"), 1, 10.0)
    assert listed() == ["/", "/one/", "/one/two/", "/one/two/three/"]
    on_mount(under.wait_for_names, mount.path(), 3, 10.0)
    on_mount(under.wait_for_names, mount.path("other"), 1, 10.0)
    assert sizes(on_mount(under.tree, mount.path())) == TREE
    assert listed() == ["/", "/one/", "/one/two/", "/one/two/three/", "/other/"]
    for name in TREE:
        assert on_mount(under.sha256, mount.path(name)) == hashlib.sha256((docroot / name).read_bytes()).hexdigest()
    assert len(listed()) == 5


def test_two_mounts_of_one_index_ask_for_its_bytes_once(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    plant(docroot)
    first, second = mounts(nginx.url + "/"), mounts(nginx.url + "/json/", "all=" + nginx.url + "/")
    expected = hashlib.sha256((docroot / "one/two/three/deepest").read_bytes()).hexdigest()
    assert on_mount(under.sha256, first.path("one/two/three/deepest")) == expected
    nginx.forget()
    assert on_mount(under.sha256, second.path("all/one/two/three/deepest")) == expected
    assert [request.uri for request in nginx.requests() if not request.uri.endswith("/")] == []


# Manifests.


BAD_LINES = [
    "not JSON",
    {"path": "../up", "url": "http://x/y"},
    {"path": "/abs", "url": "http://x/y"},
    {"path": "n" * 256, "url": "http://x/y"},
    {"path": "nul\0", "url": "http://x/y"},
    {"path": "", "url": "http://x/y"},
    {"path": "no-url"},
]


@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("form", ["jsonl", "toml"])
def test_a_bad_entry_of_a_manifest_is_named_and_the_rest_served(
    where: str, form: str, nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    plant(docroot)
    manifest = (docroot if where == "remote" else tmp_path) / f"files.{form}"
    url = nginx.url + "/top"
    if form == "jsonl":
        good = [{"path": "a/good", "url": url}, {"path": "a/also", "url": url, "size": 5000}]
        write_jsonl(manifest, [good[0], *BAD_LINES, good[1]])
        bad = [f"line {number}" for number in range(2, 9)]
    else:
        manifest.write_text(
            f'[[file]]\npath = "a/good"\nurl = "{url}"\n[[file]]\npath = "../up"\nurl = "{url}"\n'
            f'[[file]]\npath = "a/also"\nurl = "{url}"\nsize = 5000\n'
        )
        bad = ["file 2"]
    mount = mounts(f"{nginx.url}/files.{form}" if where == "remote" else manifest)
    on_mount(under.wait_for_names, mount.path("a"), 2, 10.0)
    assert sizes(on_mount(under.tree, mount.path())) == {"a/good": 5000, "a/also": 5000}
    assert on_mount(under.read, mount.path("a/also")) == (docroot / "top").read_bytes()
    status = mount.status()
    assert sorted(reason.rpartition(", ")[2] for reason in status["reasons"]) == bad
    assert status["problems"] == len(bad)
    assert f"files.{form}, {bad[0]}: " in lazyfs("status", mount.at).stdout


def test_what_is_no_manifest_fails_the_mount(nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    at, bad = tmp_path / "mount", tmp_path / "bad.toml"
    at.mkdir()
    bad.write_text("[[file]\n")
    (docroot / "bad.toml").write_text("[[file]\n")
    for source in (bad, tmp_path / "missing.jsonl", nginx.url + "/bad.toml", nginx.url + "/missing.jsonl"):
        failed = lazyfs("mount", "--store", tmp_path / "store", source, at)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert str(source) in failed.stderr


def test_a_size_in_the_manifest_costs_no_request(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    plant(docroot)
    entries = [{"path": name, "url": f"{nginx.url}/{quote(name)}", "size": size} for name, size in TREE.items()]
    mount = mounts(write_jsonl(tmp_path / "files.jsonl", entries))
    assert sizes(on_mount(under.tree, mount.path())) == TREE
    assert nginx.requests() == []
    assert on_mount(under.read, mount.path("one/a")) == (docroot / "one/a").read_bytes()


def test_a_big_manifest_answers_while_it_loads(nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path) -> None:
    plant(docroot)
    count, manifest = 200_000, tmp_path / "files.jsonl"
    with manifest.open("w") as file:
        for number in range(count):
            entry = {"path": f"d{number // 1000}/f{number}", "url": nginx.url + "/top", "size": 5000}
            file.write(json.dumps(entry) + "\n")
    mount = mounts(manifest)
    early = on_mount(under.timed_read, mount.path("d0/f0"))
    assert early.content == (docroot / "top").read_bytes()[:4096]
    assert early.seconds < 5
    assert mount.status()["files"] < count, "it is still loading"
    assert on_mount(under.read_when_it_works, mount.path(f"d199/f{count - 1}"), 60.0) == (docroot / "top").read_bytes()
    assert mount.status()["files"] == count
    assert len(on_mount(under.names, mount.path("d100"))) == 1000


# Slow origins, dead origins, no origins.


def test_names_come_as_they_are_known_and_a_dead_one_delays_nobody(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    names = [f"random-4K-{number}" for number in range(1000)]
    dead = names[100]
    entries = [{"path": name, "url": origin.url("stall" if name == dead else "delay=200ms", name)} for name in names]
    mount = mounts(write_jsonl(tmp_path / "files.jsonl", entries), options=["--read-timeout", "5"])
    hopeless = start(under.timed_read, mount.path(dead))
    last = on_mount(under.timed_read, mount.path(names[-1]))
    assert last.content == origin.expected(names[-1])
    assert last.seconds < 4, "two answers of 200 ms, on a machine that may be busy"
    at_first = on_mount(under.names, mount.path())
    assert len(at_first) < 999
    assert names[-1] in at_first
    on_mount(under.wait_for_names, mount.path(), 999, 60.0)
    assert set(names) - set(on_mount(under.names, mount.path())) == {dead}
    ended = hopeless.result()
    assert ended.error == errno.EIO
    assert ended.seconds < 5 + 5


@pytest.mark.parametrize("how", ["stopped", "offline"])
def test_what_was_fetched_is_served_without_the_origin(
    how: str, nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    plant(docroot)
    (docroot / "later").write_bytes(bytes(300_000))
    write_jsonl(
        docroot / "files.jsonl", [{"path": "m/file", "url": "other/empty"}, {"path": "m/b", "url": "one/b%20c"}]
    )
    sources = [
        nginx.url + "/files.jsonl",
        "single=" + nginx.url + "/one/two/three/deepest",
        "i=" + nginx.url + "/json/",
    ]
    mount = mounts(*sources)
    on_mount(under.wait_for_names, mount.path("m"), 2, 10.0)
    before = files(on_mount(under.tree, mount.path()))
    read = ["m/file", "m/b", "single", "i/one/two/deep"]
    digests = [on_mount(under.sha256, mount.path(name)) for name in read]
    part = on_mount(under.timed_read, mount.path("i/later"), 0).content
    mount.umount()
    nginx.forget()
    options = ["--read-timeout", "2"]
    if how == "stopped":
        nginx.stop()
    else:
        options += ["--offline"]
    again = mounts(*sources, options=options)
    on_mount(under.wait_for_names, again.path("m"), 2, 10.0)
    assert files(on_mount(under.tree, again.path())) == before
    assert [on_mount(under.sha256, again.path(name)) for name in read] == digests
    assert on_mount(under.timed_read, again.path("i/later"), 0).content == part
    rest = on_mount(under.timed_read, again.path("i/later"), 290_000)
    assert rest.error == errno.EIO
    assert rest.seconds < 2 + 5
    assert on_mount(under.timed_read, again.path("i/top")).error == errno.EIO
    if how == "offline":
        assert nginx.requests() == []
