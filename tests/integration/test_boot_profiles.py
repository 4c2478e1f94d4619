"""Boot profiles through real mounts: recorded, replayed on another host's store, refused, and where they end."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lazyfs.extents import Geometry, runs
from tests import mounts as real
from tests import under
from tests.integration.test_mount import BLOCK, made
from tests.integration.test_takeover import next_daemon
from tests.mounts import Mount, Mounts, lazyfs, on_mount, start
from tests.servers import Nginx

SIZE = 80 * BLOCK + 5
PLACES = [70, 3, 4, 40, 10]


def read(mount: Mount, blocks: list[int]) -> None:
    """Read a page of each of some blocks, in this order."""
    on_mount(under.timed_reads, mount.path("image"), [index * BLOCK for index in blocks])


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + real.PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def shown(mount: Mount) -> dict[str, Any]:
    """Return what `profile show` says of the image; nothing, while there is no profile."""
    done = lazyfs("profile", "show", "--json", mount.path("image"))
    assert done.returncode == 0 or "has no profile" in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else {}


def has(mount: Mount, blocks: list[int]) -> None:
    """Wait until the profile is of these blocks, in this order."""
    geometry = Geometry(SIZE, BLOCK)
    wanted = [[run.start, len(run)] for run in map(geometry.bytes_of, runs(blocks, 100))]
    until(lambda: shown(mount).get("extents") == wanted, f"{wanted}, but there is {shown(mount)}")


def exported(mount: Mount, to: Path) -> Path:
    done = lazyfs("profile", "export", mount.path("image"), "-o", to)
    assert (done.returncode, done.stderr) == (0, "")
    return to


def fetches(mount: Mount) -> list[dict[str, Any]]:
    """Return what `status --why` says."""
    done = lazyfs("status", "--why", "--json", mount.at)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["mounts"]
    return [fetch for fetch in found["fetches"] if not fetch["under_way"]]


@pytest.fixture
def source(docroot: Path) -> Path:
    return made(docroot, "image", SIZE)


@pytest.mark.usefixtures("source")
def test_what_one_host_has_read_first_is_fetched_ahead_on_another(
    nginx: Nginx, mounts: Mounts, docroot: Path, tmp_path: Path
) -> None:
    one = mounts(f"{nginx.url}/image")
    read(one, PLACES)
    has(one, PLACES)
    read(one, [20])
    has(one, [*PLACES, 20])
    exported(one, docroot / "profile.json")
    one.umount()
    nginx.forget()

    # Another store, and another URL with the same ETag; the profile comes from a URL, too.
    place = f"{nginx.url}/profile.json"
    two = mounts(f"{nginx.url}/json/image", options=["--profile", place], store=tmp_path / "elsewhere")
    reader = start(under.read_in_two_steps, two.path("image"), [PLACES[0] * BLOCK], [20 * BLOCK])
    reader.wait_until_open()
    until(lambda: two.counters()["blocks_fetched"] == len(PLACES) + 1, "all of it is fetched while nobody reads it")
    found = fetches(two)
    assert [(each["cause"], each["offset"] // BLOCK, each["bytes"] // BLOCK) for each in found[:1]] == [("read", 70, 1)]
    ahead = {(each["offset"] // BLOCK, each["bytes"] // BLOCK) for each in found[1:]}
    assert ahead == {(3, 2), (10, 1), (20, 1), (40, 1)}
    assert {each["cause"] for each in found[1:]} == {"profile"}
    assert {each["pid"] for each in found} == {reader.pid}
    assert {each["path"] for each in found} == {"image"}
    assert {each["origin"] for each in found} == {nginx.url}
    before = len([each for each in nginx.requests() if each.uri == "/json/image"])
    reader.go()
    content = (docroot / "image").read_bytes()
    assert reader.result() == [content[at * BLOCK : at * BLOCK + 4096] for at in (70, 20)]
    assert len([each for each in nginx.requests() if each.uri == "/json/image"]) == before
    line = lazyfs("status", "--why", two.at).stdout.splitlines()[2]
    assert re.search(rf" 256.0 KiB +image +{70 * BLOCK} +read by python\S* \({reader.pid}\) +{nginx.url}$", line), line


@pytest.mark.usefixtures("source")
def test_a_cold_run_comes_first_and_keeps_what_was_there(nginx: Nginx, mounts: Mounts) -> None:
    one = mounts(f"{nginx.url}/image")
    read(one, [5, 6])
    has(one, [5, 6])
    one.umount()
    blob = json.loads(lazyfs("ls", "--store", mounts.store, "--json").stdout)[0]["blob"]
    assert lazyfs("rm", "--store", mounts.store, blob).returncode == 0
    assert lazyfs("profile", "export", "--store", mounts.store, blob[:20]).returncode == 0, "it outlives its blob"
    two = mounts(f"{nginx.url}/image")
    read(two, [30, 6])
    has(two, [30, 6, 5])


@pytest.mark.usefixtures("source")
def test_a_run_goes_on_through_a_takeover(nginx: Nginx, mounts: Mounts) -> None:
    mount = mounts(f"{nginx.url}/image")
    reader = start(under.read_in_two_steps, mount.path("image"), [5 * BLOCK, 9 * BLOCK], [30 * BLOCK])
    reader.wait_until_open()
    has(mount, [5, 9])
    first = mount.status()["pid"]
    os.kill(first, signal.SIGKILL)
    mount.pid = next_daemon(mount, first)
    reader.go()
    reader.result()
    has(mount, [5, 9, 30])


@pytest.mark.usefixtures("source")
def test_nothing_is_recorded_nor_replayed_when_that_is_off(nginx: Nginx, mounts: Mounts) -> None:
    mount = mounts(f"{nginx.url}/image", options=["--no-profile"])
    read(mount, PLACES)
    mount.umount()
    blob = json.loads(lazyfs("ls", "--store", mounts.store, "--json").stdout)[0]["blob"]
    done = lazyfs("profile", "show", "--store", mounts.store, blob)
    assert done.returncode == 1
    assert done.stderr.startswith(f"lazyfs: {blob[:20]} has no profile: ")
    done = lazyfs("mount", "--no-profile", "--profile", "x", nginx.url + "/image", mount.at)
    assert done.returncode == 2


@pytest.mark.usefixtures("source")
def test_a_profile_of_no_use_is_refused_in_a_line_and_the_mount_goes_on(
    nginx: Nginx, mounts: Mounts, docroot: Path, tmp_path: Path
) -> None:
    one = mounts(f"{nginx.url}/image")
    read(one, [7])
    has(one, [7])
    good = json.loads(exported(one, tmp_path / "good").read_text())
    one.umount()
    made(docroot, "other", SIZE, seed=2)
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-20])
    (tmp_path / "foreign").write_text(json.dumps({**good, "blob": "sha256-" + "0" * 64, "etag": None}))
    (tmp_path / "resized").write_text(json.dumps({**good, "size": SIZE + 1}))
    reasons = {
        "cut": "it is not JSON; export it again",
        "foreign": "it is of none of the blobs here",
        "resized": "it is of none of the blobs here",
        "gone": "No such file or directory",
    }
    options = [word for name in reasons for word in ("--profile", tmp_path / name)]
    at = tmp_path / "at"
    at.mkdir()
    done = lazyfs("mount", "--store", mounts.store, *options, f"{nginx.url}/image", at)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"lazyfs: the profile {tmp_path / name} is not used: {reason}" for name, reason in reasons.items()
    ]
    assert on_mount(under.read, str(at / "image"), 0, 100) == (docroot / "image").read_bytes()[:100]
    assert lazyfs("umount", at).returncode == 0
    for name, reason in {**reasons, "resized": f"it is of a blob of {SIZE + 1} bytes, and the one here"}.items():
        done = lazyfs("profile", "import", "--store", mounts.store, tmp_path / name)
        if name == "foreign":  # of a blob that may come
            assert (done.returncode, done.stderr) == (0, ""), done
        else:
            assert done.returncode == 1
            assert reason in done.stderr
            assert done.stderr.count("\n") == 1
    done = lazyfs("profile", "import", "--store", mounts.store, tmp_path / "good")
    assert (done.returncode, done.stderr) == (0, ""), done


def test_what_is_fetched_ahead_is_not_evicted_before_it_is_read(
    nginx: Nginx, mounts: Mounts, docroot: Path, tmp_path: Path
) -> None:
    blocks = 160
    size = blocks * BLOCK
    made(docroot, "image", size)
    order = [index * 7 % blocks for index in range(blocks)]
    places = [(index * BLOCK, BLOCK) for index in order]
    one = mounts(f"{nginx.url}/image")
    on_mount(under.timed_places, one.path("image"), places)
    until(lambda: shown(one).get("bytes") == size, "all of it")
    exported(one, tmp_path / "profile")
    one.umount()
    nginx.forget()
    options: list[str | Path] = ["--max-cache", "8M", "--profile", tmp_path / "profile"]
    two = mounts(f"{nginx.url}/image", options=options, store=tmp_path / "small")
    on_mount(under.timed_places, two.path("image"), places, 0.001)
    assert "profile" in {each["cause"] for each in fetches(two)}
    assert two.counters()["blocks_fetched"] == blocks, "each once"


def test_commands_and_readahead_are_causes(nginx: Nginx, mounts: Mounts, docroot: Path) -> None:
    made(docroot, "image", SIZE)
    made(docroot, "other", SIZE, seed=2)
    mount = mounts(f"{nginx.url}/image", f"{nginx.url}/other")
    assert lazyfs("status", "--why", mount.at).stdout == f"{mount.at}: nothing was fetched\n"
    assert lazyfs("fetch", mount.path("other")).returncode == 0
    assert {(each["cause"], each["pid"], each["path"]) for each in fetches(mount)} == {("fetch", None, "other")}
    on_mount(under.sha256, mount.path("image"))
    assert {each["cause"] for each in fetches(mount) if each["path"] == "image"} == {"read", "readahead"}
