"""Whatever an origin does wrong, a reader gets the right bytes or an error in time; never other bytes.

Each name under the mount is the behaviour of the misbehaving origin behind it (`tools/origin --help`).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable

from tests import under
from tests.mounts import Mount, Mounts, start
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
    "status=503:d1@2-2", "status=408@2-2", "drop@1", "drop@2-3", "drop-reused", "garbage@2-2", "short@2-2", "short=300K@2-2",
    "reset@2-2", "reset=0@2-2", "reset=300K@2-3", "no-range,reset@2-2", "no-range,short@2-3", "stall=1@2-2",
    "stall-body=1000:1@2-2", "elsewhere@2-2", "whole-206@2-2", "no-content-range@2-2", "part-200@2-2", "always-gzip@2-2",
    "endless@2-2", "huge-headers@2-2", "chunked,reset@2-2", "no-length,short@2-2", "no-range,chunked@2-,reset@2-2",
]  # fmt: skip
"""After a while at the most, the right bytes."""

HOPELESS = [
    "always-gzip", "elsewhere", "whole-206", "part-200", "no-content-range", "garbage", "drop", "status",
    "stall", "stall-body=0", "stall-body@2-", "rate@2-", "short@2-", "reset=0@2-", "no-length,short@2-",
    "chunked,reset@2-", "endless@2-", "huge-headers", "status=429:60", "status=429:60@2-", "status=503:d60@2-",
    "no-range,rate@2-", "status=500", "status=404@2-", "status=403@2-",
    "status=416@2-", "less=300K",
]  # fmt: skip
"""Never the right bytes, so an error."""


def mounted(mounts: Mounts, origin: MisbehavingOrigin, behaviours: Iterable[str], size: int | None = None) -> Mount:
    """Mount the same blob once for each behaviour."""
    manifest = mounts.directory / "behaviours.jsonl"
    entries = [{"path": name, "url": origin.url(name, BLOB), "size": size} for name in behaviours]
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return mounts(manifest, options=OPTIONS)


def read_all(mount: Mount, names: Iterable[str]) -> dict[str, under.Passage]:
    """Read all files at once, each from end to end."""
    tasks = {name: start(under.pass_through, mount.path(name)) for name in names}
    return {name: task.result() for name, task in tasks.items()}


def expected(origin: MisbehavingOrigin) -> str:
    return hashlib.sha256(origin.expected(BLOB)).hexdigest()


def test_what_passes_or_does_not_matter_ends_in_the_right_bytes(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    mount = mounted(mounts, origin, HARMLESS)
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
