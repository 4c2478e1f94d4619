"""Processes that read the same: each byte is asked for once, whoever dies; forks, interrupts, and the end."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import fsspec
import pytest

import lazyfs
from tests.mounts import ENVIRONMENT
from tests.processes.sharing import Outcome
from tests.python import processes
from tests.python.conftest import Site
from tests.servers import MisbehavingOrigin, Nginx

PATIENCE = 60.0
MIB = 1 << 20
DATA = random.Random(3).randbytes(5 * MIB)
READERS = 8

together = multiprocessing.get_context("forkserver")
together.set_forkserver_preload(["fsspec.implementations.http", "lazyfs.python.fsspec", "tests.python.processes"])


@pytest.fixture(scope="module")
def checksums(running: Site) -> dict[str, int]:
    """A zip, and what its members are."""
    dice = random.Random(4)
    with zipfile.ZipFile(running.docroot / "archive.zip", "w") as archive:
        for number in range(READERS):
            archive.writestr(f"member{number}", dice.randbytes(3 * MIB + number))
        return {member.filename: member.CRC for member in archive.infolist()}


@contextmanager
def readers(url: str, store: Path, checksums: dict[str, int]) -> Iterator[dict[Connection, BaseProcess]]:
    """Start processes that read a zip, all at once, each with another member first."""
    begin = together.Barrier(READERS)
    started: dict[Connection, BaseProcess] = {}
    try:
        for number in range(READERS):
            hears, says = together.Pipe(duplex=False)
            args = url, str(store), begin, number, checksums, says
            started[hears] = together.Process(target=processes.read_archive, args=args)
            started[hears].start()
            says.close()
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.join(PATIENCE)


def finish(started: dict[Connection, BaseProcess]) -> None:
    """Wait until all have read everything, and it was right."""
    for hears in started:
        while (said := received(hears)) is not None:
            assert said[1], said


def received(hears: Connection) -> tuple[str, bool] | None:
    assert hears.poll(PATIENCE), "a reader says nothing"
    said: tuple[str, bool] | None = hears.recv()
    return said


def test_eight_processes_ask_for_each_byte_of_a_zip_once(site: Site, there: Path, checksums: dict[str, int]) -> None:
    with readers(site.url("archive.zip"), there, checksums) as started:
        finish(started)
    outcome = Outcome("", [], site.nginx.requests())
    assert outcome.fetched_twice() == []
    assert site.sent() == (site.docroot / "archive.zip").stat().st_size
    assert site.sent(metadata=True) - site.sent() <= READERS, "a byte of metadata for each"


def test_one_that_is_killed_stops_no_other(site: Site, there: Path, checksums: dict[str, int], tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", site.docroot, server="limit_rate 4m;") as slow:
        with readers(f"{slow.url}/archive.zip", there, checksums) as started:
            (hears, *_) = wait(list(started), PATIENCE)
            assert isinstance(hears, Connection)
            assert received(hears) is not None
            started.pop(hears).kill()  # while it reads what comes after its first member
            finish(started)
        sent = sum(request.body_bytes for request in slow.requests())
    assert sent < 1.5 * (site.docroot / "archive.zip").stat().st_size, "what the dead one had not committed"


def test_an_instance_goes_along_to_a_process_that_is_spawned(site: Site, there: Path) -> None:
    url = site.put("data", DATA)
    fs = fsspec.filesystem("lazyfs", store=str(there))
    assert fs.cat_file(url, 0, 10) == DATA[:10]
    spawned = multiprocessing.get_context("spawn")
    hears, says = spawned.Pipe(duplex=False)
    process = spawned.Process(target=processes.read_with, args=(fs, url, says))
    process.start()
    assert hears.poll(PATIENCE)
    assert hears.recv() == (DATA[:10], process.pid)
    process.join(PATIENCE)
    fs.store.close()
    assert site.sent() <= len(DATA)


@contextmanager
def script(text: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script, and be strict with it."""
    command = [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", text, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_interrupt_ends_the_read_that_it_meets_and_no_other(site: Site, there: Path, odd: MisbehavingOrigin) -> None:
    stalled = odd.url("stall@2-3", "random-1M-interrupted")
    with script(processes.INTERRUPTED, site.put("data", DATA), stalled, str(there)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        odd.wait(stalled, requests=3)
        assert process.stdout.readline() == "reading\n"
        process.stdin.write("now\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"interrupted {DATA[:5]!r}\n"
        odd.wait(stalled, most_open=1)
        odd.release()
        out, err = process.communicate(timeout=PATIENCE)
    assert (out.split(), err, process.returncode) == (["other", "10", "again", "10"], "", 0)


def test_processes_that_were_forked_read_on_and_hold_no_locks(site: Site, there: Path, odd: MisbehavingOrigin) -> None:
    stalled = odd.url("stall@2-2", "random-1M-forked")
    with script(processes.FORKED, site.put("data", DATA), stalled, str(there)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n", process.communicate()
        odd.wait(stalled, requests=2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        with lazyfs.Store(store=there, read_timeout=PATIENCE) as store, store.open(stalled) as file:
            assert file.read(10) == odd.expected("random-1M-forked", 0, 10), "the child does not keep its parent's lock"
    assert site.sent() <= len(DATA)


def test_an_interpreter_ends_with_what_was_left_open(site: Site, there: Path, odd: MisbehavingOrigin) -> None:
    stalled = odd.url("stall@2-", "random-1M-open")
    with script(processes.LEFT_OPEN, site.put("data", DATA), stalled, str(there)) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("later 10\n", 0)
    assert not re.search("Warning|Traceback(?s:.*)trio", err), err


def test_more_files_are_read_at_once_than_there_are_descriptors_for(site: Site, there: Path) -> None:
    for number in range(250):
        site.put(f"small{number}", b"%d" % number)
    with script(processes.MANY, site.url("small"), "250", str(there)) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("True\n", 0), err


def test_an_interpreter_ends_though_a_daemon_thread_opens_without_an_end(site: Site, there: Path) -> None:
    with script(processes.NEVER_ENDING, site.put("data", DATA), str(there)) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("finished 10\n", 0), err
