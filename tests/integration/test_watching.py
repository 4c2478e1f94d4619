"""Watching a mount: its metrics, what it has under way while reads are stuck, its log, and `status --watch`."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lazyfs.problems import PROBLEMS_KEPT
from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Mount, Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx

PLANTED = "pLaNtEd-S3cret"
WATCH = [sys.executable, "-m", "lazyfs", "status", "--watch", "--interval", "0.1"]

Samples = dict[tuple[str, ...], float]


def scrape(mount: Mount) -> str:
    """Return the page of a mount's metrics."""
    with urllib.request.urlopen(f"http://{mount.status()['metrics']}/metrics", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def samples(page: str) -> Samples:
    """Return what a page says, by name and the values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


def dumped(mount: Mount) -> list[str]:
    """Have a daemon say what it has under way, and return that."""
    before = mount.log()
    os.kill(mount.pid, signal.SIGUSR1)
    until(lambda: " requests: " in mount.log()[len(before) :], "what is under way")
    until(lambda: mount.log().endswith("\n"), "the end of a line")
    return [line.partition(": ")[2] for line in mount.log()[len(before) :].splitlines()]


def test_metrics_say_what_status_says(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(os.urandom(3 << 20))
    mount = mounts(f"{nginx.url}/file", options=("--metrics", ":0"))
    on_mount(under.sha256, mount.path("file"))
    found, status = samples(scrape(mount)), mount.status()
    counters = status["counters"]
    assert found["lazyfs_read_bytes_total",] == counters["read_bytes"] > 0
    assert found["lazyfs_blocks_total", "fetched"] == counters["blocks_fetched"] == 12
    assert found["lazyfs_blocks_total", "hit"] == counters["blocks_hit"]
    assert found["lazyfs_origin_bytes_total", nginx.url] == counters["origin_bytes"] == 3 << 20
    requests = sum(value for name, value in found.items() if name[0] == "lazyfs_origin_requests_total")
    assert requests == counters["origin_requests"]
    assert found["lazyfs_origin_first_byte_seconds_count", nginx.url] == requests
    assert found["lazyfs_store_used_bytes",] >= 3 << 20
    assert found["lazyfs_store_degraded",] == found["lazyfs_daemon_restarts_total",] == 0
    assert {label for _, *labels in found for label in labels if "://" in label} == {nginx.url}


def test_a_mount_without_metrics_listens_nowhere(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"{nginx.url}/file")
    assert mount.status()["metrics"] is None
    tables = "".join(Path(f"/proc/{mount.pid}/net/{table}").read_text() for table in ("tcp", "tcp6"))
    listening = {line.split()[9] for line in tables.splitlines() if line.split()[3] == "0A"}  # of all processes
    ours = {os.readlink(f"/proc/{mount.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{mount.pid}/fd")}
    assert not {f"socket:[{inode}]" for inode in listening} & ours


def test_a_port_that_is_taken_fails_the_mount(mounts: Mounts, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    (docroot / "file").write_bytes(b"content")
    at = tmp_path / "at"
    at.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = lazyfs("mount", "--store", mounts.store, "--metrics", place, f"{nginx.url}/file", at)
    assert done.returncode == 1
    assert done.stderr == (
        f"lazyfs: the metrics cannot be served at {place}: Address already in use; "
        "name another place with --metrics, or port 0 for any that is free\n"
    )


@pytest.mark.parametrize("place", ["nowhere", "host:1", "127.0.0.1", "::1:80", "127.0.0.1:65536", "[::1:9", ":"])
def test_a_place_that_is_none_is_refused(place: str, tmp_path: Path) -> None:
    done = lazyfs("mount", "--metrics", place, "http://127.0.0.1:1/x", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert repr(place) in done.stderr


def test_scrapers_that_mean_harm_cost_nobody_anything(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(os.urandom(3 << 20))
    mount = mounts(f"{nginx.url}/file", options=("--metrics", ":0"))
    host, _, port = mount.status()["metrics"].rpartition(":")
    crowd = []
    for number in range(40):
        crowd.append(socket.create_connection((host, int(port)), PATIENCE))
        with contextlib.suppress(ConnectionError):  # it was sent away already
            crowd[-1].sendall((b"", b"GET /metrics HTTP/1.1\r\n", b"\0" * 100_000)[number % 3])
    assert on_mount(under.read, mount.path("file"), 1 << 20, 4096) == (docroot / "file").read_bytes()[1 << 20 :][:4096]
    assert "lazyfs_reads_total" in scrape(mount)
    for one in crowd:
        one.close()
    assert " ERROR " not in mount.log()


def test_what_is_under_way_is_said_while_reads_are_stuck(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    name = "random-8M-x"
    url, whole = origin.url("stall@2-", name), origin.expected(name)
    mount = mounts("stuck=" + url, "well=" + origin.plain(name), options=("--hedge", "0"))
    stuck = start(under.read, mount.path("stuck"), 1 << 20, 4096)
    origin.wait(url, requests=2)
    until(lambda: mount.status()["flights"] == 1, "the flight")
    said = dumped(mount)
    blob = next(line for line in said if line.startswith("  stuck: 1 open")).rpartition(" ")[2]
    (flight,) = (line for line in said if "wanted for" in line)
    assert re.fullmatch(
        rf"  {blob} \({re.escape(url)}\): block 4, 0 of them landed; for \d+\.\d s; wanted for demand; "
        "block 4 waited for",
        flight,
    )
    (locks,) = (line for line in said if "/lock: " in line)
    assert re.fullmatch(rf"  blobs/../{blob}/lock: .*", locks)
    assert {"block 4", "in use (shared)"} <= set(locks.partition(": ")[2].split(", "))
    assert f"  {origin.base}: 1 slots of 16 taken, 0 requests wait for one" in said
    (request,) = (line for line in said if line.startswith(f"  {url}: "))
    assert re.fullmatch(r".*: demand, for \d+\.\d s, the origin was heard \d+\.\d s ago", request)
    assert on_mount(under.read, mount.path("well"), 5 << 20, 4096) == whole[5 << 20 :][:4096], "it goes on meanwhile"
    origin.release()
    assert stuck.result() == whole[1 << 20 :][:4096]


def test_an_origin_that_fails_thousands_of_times_is_a_few_lines(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    gone, failing = 1500, 500
    names = [{"path": f"gone/{number}", "url": origin.url("status=404", f"x{number}")} for number in range(gone)]
    names += [
        {"path": f"failing/{number}", "url": origin.url("status=404@2-", f"random-1M-{number}")}
        for number in range(failing)
    ]
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    mount = mounts(tmp_path / "names.jsonl", options=("--metrics", "0", "--log-format", "json"))
    until(lambda: mount.status()["problems"] == gone, "all of them to fail")
    on_mount(under.wait_for_names, mount.path("failing"), failing, 20.0)
    assert on_mount(under.failing_reads, mount.path("failing")) == failing
    found = samples(scrape(mount))
    assert found["lazyfs_origin_requests_total", origin.base, "4xx"] >= gone + failing
    assert found["lazyfs_origin_faults_total", "refused", origin.base] >= gone + failing
    log = Path(mount.status()["log"])
    mount.umount()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for logger, count in ("lazyfs.problems", PROBLEMS_KEPT), ("lazyfs.failures", failing):
        said = [line.get("more", 1) for line in lines if line["logger"] == logger]
        assert len(said) <= 6
        assert sum(said) == count, "all of them are accounted for"
    assert len(lines) <= 20


def test_no_secret_is_in_what_watches(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    base = origin.base.replace("http://", f"http://user:{PLANTED}@")
    url = f"{base}/b/stall@2-/random-1M-x?token={PLANTED}#{PLANTED}"
    options = ("--metrics", "0", "--log-level", "debug", "--log-format", "json", "--read-timeout", "4", "--hedge", "0")
    mount = mounts(f"x={url}", options=(*options, "--header", f"X-Secret: {PLANTED}"))
    stuck = start(under.read, mount.path("x"), 1 << 19, 4096)
    until(lambda: mount.status()["flights"] == 1, "the flight")
    os.kill(mount.pid, signal.SIGUSR1)
    until(lambda: "requests: 1" in mount.log(), "what is under way")
    shown = [scrape(mount), json.dumps(mount.status()), watched(mount, "--json"), watched(mount)]
    with pytest.raises(OSError, match="Input/output error"):
        stuck.result()
    shown.append(mount.log())
    assert all(PLANTED not in text for text in shown)
    assert all("/random-1M-x" not in text for text in shown[:1] + shown[2:4]), "nor a URL in labels"
    assert any(json.loads(line)["fault"] == "deadline_exceeded" for line in shown[-1].splitlines() if "fault" in line)


def watched(mount: Mount, *options: str) -> str:
    """Return what `status --watch` says in some periods, until nobody reads it any more."""
    with watching(*options, mount.at) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = "".join(process.stdout.readline() for _ in range(12 if not options else 3))
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == "", "it ends without a word when nobody reads it"
    return said


def test_watching_says_what_happens_in_each_period(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(os.urandom(3 << 20))
    mount = mounts(f"{nginx.url}/file")
    with watching("--json", "--store", mount.store) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["mounts"][0]["rates"]["read_bytes"] == 0
        on_mount(under.sha256, mount.path("file"))
        lines = [first]
        while lines[-1]["mounts"][0]["counters"]["read_bytes"] < 3 << 20:
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "\n", "the line that ^C is on"
    assert {*first} == {"time", "store", "mounts", "silent"}
    assert first["store"]["path"] == str(mount.store)
    spent = itertools.pairwise(lines)
    read = sum(after["mounts"][0]["rates"]["read_bytes"] * (after["time"] - one["time"]) for one, after in spent)
    assert read == pytest.approx(3 << 20, rel=0.2)
    assert lines[-1]["mounts"][0]["origins"][nginx.url]["bytes"] == 3 << 20


def test_watching_a_mount_ends_with_it(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"{nginx.url}/file")
    with watching(mount.at) as process:
        assert process.stdout is not None
        assert re.match(rf"\d\d:\d\d:\d\d  store {mount.store}: ", process.stdout.readline())
        mount.umount()
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read().startswith(f"lazyfs: {mount.at} is not a lazyfs mount; ")


def test_the_slowest_reads_are_said_with_what_they_waited_for(origin: MisbehavingOrigin, mounts: Mounts) -> None:
    late, flaky = origin.url("stall@2-2", "random-1M-late"), origin.url("status=503@2-2", "random-1M-flaky")
    mount = mounts(f"late={late}", f"d/flaky={flaky}", options=("--hedge", "0", "--block-size", "64K"))
    reading = start(under.direct_read, mount.path("late"), 1 << 19, 4096)
    until(lambda: any(read["under_way"] for read in mount.status()["slow_reads"]), "who waits now")
    origin.release()
    reading.result()
    on_mount(under.direct_read, mount.path("d/flaky"), 4096, 4096)
    slow, retried = mount.status()["slow_reads"]
    if slow["path"] != "late":
        slow, retried = retried, slow
    assert {name: slow[name] for name in ("path", "offset", "length", "command", "why", "under_way", "error")} == {
        "path": "late", "offset": 1 << 19, "length": 4096, "command": "python", "why": "first_byte",
        "under_way": False, "error": None,
    }  # fmt: skip
    assert slow["pid"] == reading.pid
    assert (retried["path"], retried["faults"]) == ("d/flaky", ["HTTP 503"])
    assert retried["waited"]["retry"] > 0
    said = shown(mount)
    assert re.search(rf"\d m?s: late, 4\.0 KiB at 512\.0 KiB, python \({reading.pid}\): first byte [\d.]+ m?s", said)
    assert "d/flaky, 4.0 KiB at 4.0 KiB" in said
    assert ", after: HTTP 503" in said


def shown(mount: Mount) -> str:
    """Return one period of what `status --watch` says."""
    with watching(mount.at) as process:
        assert process.stdout is not None
        lines = list(itertools.takewhile(lambda line: line != "\n", itertools.islice(process.stdout, 2, None)))
    return "".join(lines)


@contextmanager
def watching(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `status --watch`."""
    command = [*WATCH, *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_watching_on_a_terminal_draws_over_itself(mounts: Mounts, nginx: Nginx, docroot: Path) -> None:
    (docroot / "file").write_bytes(b"content")
    mount = mounts(f"{nginx.url}/file")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 6, 40, 0, 0))
    words = [*WATCH, str(mount.at)]
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while said.count(b"\x1b[5F\x1b[J") < 3:
        said += os.read(ours, 4096)
    os.write(ours, b"\x03")  # Ctrl-C
    assert process.wait(PATIENCE) == 130
    said += os.read(ours, 4096)
    os.close(ours)
    assert b"Traceback" not in said
    blocks = said.decode().split("\x1b[J")[1:4]
    for block in blocks:
        lines = block.removesuffix("\x1b[5F").splitlines()
        assert len(lines) == 5, "it fits"
        assert all(len(line) < 40 for line in lines)
