"""Whatever an origin does wrong, a reader gets the right bytes or an error in time; never other bytes.

Each name under the mount is the behaviour of the misbehaving origin behind it (`tools/origin --help`).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import under
from tests.mounts import Mount, Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin

MIB = 1 << 20
READ_TIMEOUT = 3
SLACK = 7
"""Seconds that a reader may wait beyond its time-out on a machine with two slow cores."""

OPTIONS = ("--read-timeout", str(READ_TIMEOUT))
BLOB = "random-1M-x"

HARMLESS = [
    # What a client should not rely on.
    "no-range", "no-head", "no-accept-ranges", "no-multi-range", "close", "delay=200ms",
    "weak-etag", "no-etag", "no-last-modified", "no-validators", "etag",
    "chunked", "no-length", "no-range,chunked@2-", "no-range,no-length@2-", "no-range,no-validators", "extra",
    "total@2-", "less@2-2", "gzip",
    "redirect", "redirect=10", "redirect=1:307", "redirect-port", "redirect-port=308", "signed",
    # What passes: `@N` is the first N requests, `@2-2` the first after the one for the metadata.
    "status@1", "status@1-3", "status=500@2-4", "status=502@2-2,status=504@3", "status=429:1@1", "status=429:1@2-2",
    "status=503:d1@2-2", "status=408@2-2", "drop@1", "drop@2-3", "drop-reused", "garbage@2-2", "short@2-2",
    "short=300K@2-2", "reset@2-2", "reset=0@2-2", "reset=300K@2-3", "no-range,reset@2-2", "no-range,short@2-3",
    "stall=1@2-2", "stall-body=1000:1@2-2", "elsewhere@2-2", "whole-206@2-2", "no-content-range@2-2", "part-200@2-2",
    "endless@2-2", "huge-headers@2-2", "chunked,reset@2-2", "no-length,short@2-2", "no-range,chunked@2-,reset@2-2",
]  # fmt: skip
"""After a while at the most, the right bytes."""

HOPELESS = [
    "always-gzip", "elsewhere", "whole-206", "part-200", "no-content-range", "garbage", "drop", "status",
    "stall", "stall-body=0", "stall-body@2-", "rate@2-", "short@2-", "reset=0@2-", "no-length,short@2-",
    "chunked,reset@2-", "endless@2-", "huge-headers", "status=429:60", "status=429:60@2-", "status=503:d60@2-",
    "no-range,rate@2-", "status=500", "status=404@2-",
    "status=416@2-", "less", "less=300K",
]  # fmt: skip
"""Never the right bytes, so an error."""


def mounted(
    mounts: Mounts,
    origin: MisbehavingOrigin,
    behaviours: Iterable[str],
    size: int | None = None,
    options: tuple[str, ...] = OPTIONS,
) -> Mount:
    """Mount the same blob once for each behaviour."""
    manifest = mounts.directory / "behaviours.jsonl"
    entries = [{"path": name, "url": origin.url(name, BLOB), "size": size} for name in behaviours]
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return mounts(manifest, options=options)


def read_all(mount: Mount, names: Iterable[str]) -> dict[str, under.Passage]:
    """Read all files at once, each from end to end."""
    tasks = {name: start(under.pass_through, mount.path(name)) for name in names}
    return {name: task.result() for name, task in tasks.items()}


def expected(origin: MisbehavingOrigin) -> str:
    return hashlib.sha256(origin.expected(BLOB)).hexdigest()


def test_what_passes_or_does_not_matter_ends_in_the_right_bytes(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    mount = mounted(mounts, origin, HARMLESS, options=("--read-timeout", "20"))
    wrong = {
        name: passage
        for name, passage in read_all(mount, HARMLESS).items()
        if (passage.error, passage.digest) != (0, expected(origin))
    }
    assert wrong == {}


def test_what_does_not_pass_ends_in_an_error_in_time(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    mount = mounted(mounts, origin, HOPELESS, MIB)
    passages = read_all(mount, HOPELESS)
    assert {name: passage.error for name, passage in passages.items() if passage.error != errno.EIO} == {}
    late = {name: passage for name, passage in passages.items() if passage.ended - passage.began > READ_TIMEOUT + SLACK}
    assert late == {}
    asked = {name: origin.stats(origin.url(name, BLOB))["requests"] for name in HOPELESS}
    assert {name: count for name, count in asked.items() if count > 30} == {}, "who fails is not asked without a pause"


def test_a_stall_ends_in_an_error_and_is_over_for_the_next_reader(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    mount = mounts("blob=" + origin.url("stall@2-2", BLOB), options=(*OPTIONS, "--hedge", "0"))
    assert on_mount(under.pass_through, mount.path("blob")).error == errno.EIO
    assert on_mount(under.read_when_it_works, mount.path("blob"), 20.0) == origin.expected(BLOB)


def test_an_answer_that_does_not_come_is_outrun_by_a_second_request(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    """The stall has no end, and the time-out none that the test would wait for."""
    mount = mounts("blob=" + origin.url("stall@2-2", BLOB), options=("--read-timeout", "0"))
    assert on_mount(under.sha256, mount.path("blob")) == expected(origin)
    assert mount.counters()["hedges"] == 1
    origin.wait(origin.url("stall@2-2", BLOB), most_open=0)  # the one that was outrun is given up


def test_idle_connections_that_end_when_they_are_used_cost_no_wait(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    others = [f"delay={number}ms" for number in range(20, 40)]
    mount = mounted(mounts, origin, ["drop-reused", *others])
    on_mount(under.wait_for_names, mount.path(), len(others) + 1, 20.0)  # which leaves as many connections idle
    assert on_mount(under.sha256, mount.path("drop-reused")) == expected(origin)
    assert mount.counters()["retries"] == 0


def test_stalled_readers_delay_nobody_else(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    stalled = [f"stall@2-2,delay@{number}-{number}" for number in range(1000, 1120)]  # 120 names for one behaviour
    mount = mounted(mounts, origin, [*stalled, "close"], options=())
    on_mount(under.wait_for_names, mount.path(), len(stalled) + 1, 20.0)
    readers = start(under.digests, [mount.path(name) for name in stalled])
    for name in stalled:
        origin.wait(origin.url(name, BLOB), requests=2)
    assert len(on_mount(under.look, mount.path())) == len(stalled) + 1
    assert on_mount(under.sha256, mount.path("close")) == expected(origin)
    assert on_mount(under.errno_of_stat, mount.path("missing")) == errno.ENOENT
    origin.release()
    assert set(readers.result()) == {expected(origin)}


def test_a_name_whose_origin_is_silent_delays_no_other(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    """The kernel looks up one name at a time in a directory, and lets nobody list it meanwhile."""
    mount = mounted(mounts, origin, ["stall@1", "close"], options=())
    waiting = start(under.sha256, mount.path("stall@1"))
    origin.wait(origin.url("stall@1", BLOB), requests=1)
    for _ in range(3):
        assert on_mount(under.names, mount.path()) == ["close"]
        assert on_mount(under.sha256, mount.path("close")) == expected(origin)
        assert on_mount(under.errno_of_stat, mount.path("missing")) == errno.ENOENT
    origin.release()
    assert waiting.result() == expected(origin)
    assert on_mount(under.look, mount.path())["stall@1"].size == MIB


def test_an_origin_without_ranges_is_read_in_one_pass(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    name, source = "random-32M-x", tmp_path / "source"
    source.write_bytes(origin.expected(name))
    url = origin.url("no-range,rate=32M", name)
    first, second = (mounts("blob=" + url) for _ in range(2))
    tasks = [start(under.differing_reads, first.path("blob"), str(source), 3, 20, seed) for seed in range(2)]
    origin.wait(url, requests=2)  # two processes that begin in the same instant may each begin a pass
    tasks += [start(under.differing_reads, second.path("blob"), str(source), 3, 20, 2)]
    assert [task.result() for task in tasks] == [[], [], []]
    assert on_mount(under.sha256, first.path("blob")) == hashlib.sha256(source.read_bytes()).hexdigest()
    asked = origin.stats(url)
    assert asked["requests"] == 2, "one for the metadata and one for all the bytes"


def test_an_empty_blob_is_one_whatever_the_origin_answers_for_it(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    behaviours = ["close", "no-range", "no-head", "no-validators", "redirect"]
    mount = mounts(*(f"{name}={origin.url(name, 'random-0-x')}" for name in behaviours))
    assert {name: seen.size for name, seen in on_mount(under.look, mount.path()).items()} == dict.fromkeys(
        behaviours, 0
    )
    assert [on_mount(under.read, mount.path(name)) for name in behaviours] == [b""] * 5


def test_a_name_whose_origin_says_no_is_absent_and_status_says_why(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    refused = ["status=404", "status=410", "redirect=11", "redirect-loop"]
    mount = mounted(mounts, origin, [*refused, "close"])
    assert on_mount(under.names, mount.path()) in ([], ["close"])
    assert [on_mount(under.errno_of_stat, mount.path(name)) for name in refused] == [errno.ENOENT] * len(refused)
    assert on_mount(under.sha256, mount.path("close")) == expected(origin)
    assert set(mount.status()["reasons"]) == set(refused)


def test_a_url_that_leads_nowhere_fails_its_mount_with_one_line(origin: MisbehavingOrigin, tmp_path: Path) -> None:
    at = tmp_path / "mount"
    at.mkdir()
    for url in (
        origin.url("status=404", BLOB), origin.url("redirect-loop", BLOB), origin.url("whole-206", BLOB),
        origin.url("garbage", BLOB), origin.base.replace("127.0.0.1", "no-such-host.invalid") + "/x",
        "http://127.0.0.1:1/x",
    ):  # fmt: skip
        failed = lazyfs("mount", "--store", tmp_path / "store", url, at)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert failed.stderr.startswith(f"lazyfs: {url}: ")


@pytest.mark.parametrize("behaviour", ["mislabelled-206", "wrong-byte=900K"])
def test_with_a_digest_nobody_reads_a_wrong_blob_to_its_end(
    behaviour: str, origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    entry = {"path": "blob", "url": origin.url(behaviour, BLOB), "size": MIB, "digest": f"sha256:{expected(origin)}"}
    (tmp_path / "files.jsonl").write_text(json.dumps(entry) + "\n")
    mount = mounts(tmp_path / "files.jsonl", options=OPTIONS)
    passage = on_mount(under.pass_through, mount.path("blob"))
    assert (passage.error, passage.size < MIB) == (errno.EIO, True)


@pytest.mark.parametrize("behaviour", ["no-range,no-length", "no-range,chunked", "total"])
def test_a_size_in_a_manifest_stands_in_for_one_that_the_origin_does_not_give(
    behaviour: str, origin: MisbehavingOrigin, mounts: Mounts
) -> None:
    mount = mounted(mounts, origin, [behaviour], MIB)
    assert on_mount(under.pass_through, mount.path(behaviour)).digest == expected(origin)
