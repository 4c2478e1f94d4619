"""Mounts whose origins come and go: mirrors, hosts that are dead, and what they may cost a reader."""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx

MIB = 1 << 20
BLOB = "random-8M-x"


@pytest.fixture
def pair(tmp_path: Path, docroot: Path) -> Iterator[tuple[Nginx, Nginx]]:
    """Two origins with the same files, dates and all."""
    with Nginx(tmp_path / "one", docroot) as one, Nginx(tmp_path / "two", docroot) as two:
        yield one, two


def made(docroot: Path, name: str, size: int) -> str:
    """Put a file of random bytes there; return its SHA-256."""
    content = MisbehavingOrigin().expected(f"random-{size}-{name}")
    (docroot / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def manifest(path: Path, *entries: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_mirror_takes_over_in_the_middle_of_a_file_and_gives_back(
    pair: tuple[Nginx, Nginx], docroot: Path, mounts: Mounts
) -> None:
    one, two = pair
    digests = {name: made(docroot, name, 4 * MIB) for name in ("a", "b", "c")}
    mount = mounts(f"{one.url}/", options=("--mirror", f"{one.url}/={two.url}/"))
    on_mount(under.wait_for_names, mount.path(), 3, 20.0)
    assert len(on_mount(under.read, mount.path("a"))) == 4 * MIB
    assert two.requests() == []
    reader = start(under.hold_and_read, mount.path("b"))
    reader.wait_until_open()
    one.stop()
    assert hashlib.sha256(reader.result()).hexdigest() == digests["b"]
    assert mount.counters()["failovers"] > 0
    one.start()
    two.stop()
    assert on_mount(under.sha256, mount.path("c")) == digests["c"]
    assert mount.counters()["errors"] == 0


def test_names_and_listings_come_from_a_mirror_when_the_first_is_dead_from_the_start(
    pair: tuple[Nginx, Nginx], docroot: Path, mounts: Mounts
) -> None:
    one, two = pair
    (docroot / "deep").mkdir()
    digest = made(docroot, "deep/blob", MIB + 5)
    one.stop()
    mount = mounts(f"{one.url}/", f"named={one.url}/deep/blob", options=("--mirror", f"{one.url}/={two.url}/"))
    for name in ("named", "deep/blob"):
        assert on_mount(under.sha256, mount.path(name)) == digest


def test_an_index_that_is_dead_does_not_hide_what_another_lists(
    pair: tuple[Nginx, Nginx], docroot: Path, mounts: Mounts
) -> None:
    one, two = pair
    (docroot / "deep").mkdir()
    digest = made(docroot, "deep/blob", MIB)
    mount = mounts(f"{one.url}/", f"{two.url}/json/", options=("--read-timeout", "3"))
    one.stop()
    assert on_mount(under.sha256, mount.path("deep/blob")) == digest
    assert "deep/" in mount.status()["reasons"]
    failed = lazyfs("add", mount.at, f"{one.url}/unknown/")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)


def three_mirrors(origin: MisbehavingOrigin) -> dict[str, Any]:
    """Return an entry of a manifest with a digest, of whose three URLs the last has the right bytes."""
    first, second = (origin.url(f"wrong-byte={at}M", BLOB) for at in (5, 6))
    digest = hashlib.sha256(origin.expected(BLOB)).hexdigest()
    mirrors = [second, origin.plain(BLOB)]
    return {"path": "blob", "url": first, "mirrors": mirrors, "size": 8 * MIB, "digest": f"sha256:{digest}"}


def test_bad_bytes_come_from_another_mirror_and_status_says_so(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    entry = three_mirrors(origin)
    mount = mounts(manifest(tmp_path / "files.jsonl", entry))
    assert on_mount(under.pass_through, mount.path("blob")).error == errno.EIO, "it had read wrong bytes"
    assert "its digest is" in mount.status()["reasons"]["blob"]
    assert on_mount(under.read_when_it_works, mount.path("blob"), 60.0) == origin.expected(BLOB)


def test_fetch_tries_all_mirrors_for_the_right_bytes(origin: MisbehavingOrigin, tmp_path: Path) -> None:
    entry = three_mirrors(origin)
    files, out = manifest(tmp_path / "files.jsonl", entry), tmp_path / "out"
    done = lazyfs("fetch", files, "-o", out, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == origin.expected(BLOB)
    files = manifest(files, {**entry, "mirrors": entry["mirrors"][:1]})
    failed = lazyfs("fetch", files, "--store", tmp_path / "other")
    lines = [line for line in failed.stderr.splitlines() if line.startswith("lazyfs:")]
    assert (failed.returncode, len(lines)) == (1, 1), failed.stderr
    assert "its digest is" in lines[0]


def test_a_mirror_with_another_blob_is_never_mixed_in(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    first = origin.url("status=503@4-,no-last-modified", BLOB)
    entry = {"path": "blob", "url": first, "mirrors": [origin.url("no-validators", "random-8M-another")]}
    mount = mounts(manifest(tmp_path / "files.jsonl", entry), options=("--read-timeout", "3"))
    passage = on_mount(under.pass_through, mount.path("blob"))
    assert passage.error == errno.EIO
    assert passage.digest == hashlib.sha256(origin.expected(BLOB, 0, passage.size)).hexdigest()


def test_a_dead_host_costs_one_deadline_and_then_quick_errors(nginx: Nginx, docroot: Path, mounts: Mounts) -> None:
    for name in ("a", "b", "c", "d"):
        made(docroot, name, MIB)
    mount = mounts(f"{nginx.url}/", options=("--read-timeout", "5"))
    on_mount(under.wait_for_names, mount.path(), 4, 20.0)
    nginx.stop()
    assert on_mount(under.pass_through, mount.path("a")).error == errno.EIO
    began = time.monotonic()
    for name in ("b", "c", "d"):
        assert on_mount(under.pass_through, mount.path(name)).error == errno.EIO
    assert time.monotonic() - began < 10, "three deadlines would be 15 s"
    nginx.start()
    assert len(on_mount(under.read_when_it_works, mount.path("a"), 60.0)) == MIB
