"""`lazyfs map`: every state that a block can be in, on real mounts and beside other processes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

from lazyfs.extents import Extent
from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Mounts, lazyfs, on_mount
from tests.servers import MisbehavingOrigin, Nginx

UNIT = 64 * 1024
SMALL = ("--block-size", "64K", "--no-passthrough")


def mapped(word: str | Path, *words: str | Path) -> dict[str, Any]:
    """Return what `map --json` says."""
    done = lazyfs("map", word, *words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def runs(found: dict[str, Any], state: str) -> list[Extent]:
    """Return the runs of blocks in a state."""
    return [Extent(*run) for run in found["runs"][state]]


def test_missing_present_pinned_and_complete(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    content = os.urandom(20 * UNIT + 5)
    (docroot / "disk.img").write_bytes(content)
    mount = mounts(f"{nginx.url}/disk.img", options=SMALL)
    path = mount.path("disk.img")
    unread = lazyfs("map", path)
    assert unread.returncode == 1
    assert (
        unread.stderr
        == f"lazyfs: {path}: nothing of it has been read or fetched yet; read it, or: lazyfs fetch {path}\n"
    )

    assert on_mount(under.direct_read, path, 4 * UNIT, 4096) == content[4 * UNIT :][:4096]
    found = mapped(path)
    assert runs(found, "present") == [Extent(4, 5)]
    assert runs(found, "missing") == [Extent(0, 4), Extent(5, 21)]
    assert found["bytes"] == {"missing": 19 * UNIT + 5, "present": UNIT, "hot": 0, "fetching": 0}
    assert (found["size"], found["block_size"], found["blocks"]) == (len(content), UNIT, 21)
    assert (found["complete"], found["pinned"], found["name"]) == (False, False, path)
    blob, url = found["blob"], found["url"]
    for word in (blob[:12], url):
        assert mapped(word, "--store", mount.store)["runs"] == found["runs"]

    assert lazyfs("pin", path).returncode == 0
    assert lazyfs("fetch", path).returncode == 0
    found = mapped(path)
    assert (found["complete"], found["pinned"], runs(found, "missing")) == (True, True, [])
    shown = lazyfs("map", path, "--width", "60").stdout.splitlines()
    assert shown[0] == f"{path}: 1.3 MiB in 21 blocks of 64.0 KiB, complete, pinned"
    assert shown[2].endswith("│" + "█" * 21 + "│")
    assert "\x1b" not in "".join(shown), "no colours where there is no terminal"


def test_eviction_leaves_holes_and_what_comes_back_soon_is_hot(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "disk.img").write_bytes(os.urandom(64 * UNIT))
    mount = mounts(f"{nginx.url}/disk.img", options=(*SMALL, "--max-cache", "1M"))
    path = mount.path("disk.img")
    read = range(0, 36, 2)
    on_mount(under.direct_reads, path, [index * UNIT for index in read], 4096)
    found = mapped(path)
    assert found["bytes"]["present"] <= 1 << 20, "16 blocks is all there is room for"
    gone = next(index for index in read if not any(index in run for run in runs(found, "present")))
    assert not any(gone in run for run in runs(found, "hot"))
    again = mounts(f"{nginx.url}/disk.img", options=SMALL).path("disk.img")  # which has nothing in memory
    on_mount(under.direct_read, again, gone * UNIT, 4096)
    assert any(gone in run for run in runs(mapped(path), "hot"))


def test_what_another_process_fetches_is_shown_as_that(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    url = origin.url("stall@3-", "random-4M-x")
    mount = mounts(f"x={url}", options=(*SMALL, "--hedge", "0"))
    on_mount(under.direct_read, mount.path("x"), 10 * UNIT, 4096)
    fetch = [sys.executable, "-m", "lazyfs", "fetch", "--store", mount.store, "--hedge", "0", url]
    with subprocess.Popen(list(map(str, fetch)), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        try:
            origin.wait(url, requests=3)
            found = mapped(mount.path("x"))
            assert runs(found, "present") == [Extent(10, 11)]
            assert runs(found, "missing") == [Extent(0, 10), Extent(11, 64)]
            fetching = runs(found, "fetching")
            assert fetching
            assert all(
                any(run.start in gap and run.stop <= gap.stop for gap in runs(found, "missing")) for run in fetching
            )
            assert lazyfs("map", mount.path("x"), "--width", "100").stdout.count("▸") >= len(fetching)
        finally:
            process.kill()
    assert runs(mapped(mount.path("x")), "fetching") == [], "the dead fetch nothing"
    origin.release()


def test_a_picture_is_written_or_refused(mounts: Mounts, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    (docroot / "a<b>&.img").write_bytes(os.urandom(3 * UNIT))
    mount = mounts(f"{nginx.url}/a%3Cb%3E&.img", options=SMALL)
    on_mount(under.direct_read, mount.path("a<b>&.img"), 0, 4096)
    picture = tmp_path / "map.svg"
    done = lazyfs("map", mount.path("a<b>&.img"), "--svg", picture)
    assert (done.returncode, done.stdout) == (0, "")
    assert "a&lt;b&gt;&amp;.img" in picture.read_text()
    assert lazyfs("map", mount.path("a<b>&.img"), "--svg", "-").stdout == picture.read_text()
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        ((mount.path("a<b>&.img"), "--svg", "/proc/no/such.svg"), 1, "cannot be written"),
        ((mount.path("a<b>&.img"), "--interval", "1"), 2, "only with --watch"),
        ((tmp_path,), 1, "neither a path under a mount nor a blob"),
        ((f"{nginx.url}/other", "--store", mount.store), 1, "see: lazyfs ls"),
    ]
    for words, status, reason in cases:
        done = lazyfs("map", *words)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert done.stderr.count("\n") == 1
        assert reason in done.stderr


def test_watching_shows_what_comes_in(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "disk.img").write_bytes(os.urandom(8 * UNIT))
    mount = mounts(f"{nginx.url}/disk.img", options=SMALL)
    path = mount.path("disk.img")
    on_mount(under.direct_read, path, 0, 4096)
    words = [sys.executable, "-m", "lazyfs", "map", path, "--watch", "--interval", "0.1"]
    with subprocess.Popen([*words, "--json"], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert runs(json.loads(process.stdout.readline()), "present") == [Extent(0, 1)]
        assert lazyfs("fetch", path).returncode == 0
        while not json.loads(process.stdout.readline())["complete"]:
            pass
        process.kill()
    said = on_terminal(words)
    assert said.count(b"\x1b[5F\x1b[J") >= 2, "it draws over itself"
    assert b"\x1b[32m" in said, "in colours"
    assert b"came in" in said
    assert b"Traceback" not in said
    said = on_terminal(words, NO_COLOR="1")
    assert said.count(b"\x1b[5F\x1b[J") >= 2, "it does so without colours, too"
    assert b"\x1b[3" not in said


def on_terminal(words: list[str], **more: str) -> bytes:
    """Return what a command draws on a terminal until it has drawn three times and is interrupted."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 12, 100, 0, 0))
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment | {"TERM": "xterm"} | more, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while said.count(b"\x1b[J") < 3:
        said += os.read(ours, 4096)
    os.write(ours, b"\x03")  # Ctrl-C
    assert process.wait(PATIENCE) == 130
    os.close(ours)
    return said
