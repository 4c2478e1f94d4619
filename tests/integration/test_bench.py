"""tools/bench: its link is as slow as it says and changes nothing, and all of its lines come out."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest

from lazyfs import mountinfo
from tests.mounts import Words, run
from tests.servers import Nginx
from tests.serving import PATIENCE, reserved_port
from tools.benching import processes
from tools.benching.link import Stream, Way
from tools.benching.origin import Linked
from tools.benching.processes import Group, Hung
from tools.benching.results import FIGURES, LINES, REQUIREMENTS

BYTES = bytes(range(256)) * 4096


def connect(link: Linked) -> http.client.HTTPConnection:
    """Return a connection across the link."""
    return http.client.HTTPConnection(urlsplit(link.url).netloc, timeout=PATIENCE)


def test_link_takes_a_round_trip_to_connect_and_one_for_each_request(nginx: Nginx, docroot: Path) -> None:
    (docroot / "blob").write_bytes(b"x")
    with Linked(nginx.port, rtt=0.1, rate=0) as link:
        connection, moments = connect(link), [time.monotonic()]
        for _ in range(2):
            connection.request("GET", "/blob")
            assert connection.getresponse().read() == b"x"
            moments.append(time.monotonic())
        connection.close()
    assert moments[1] - moments[0] >= 0.2
    assert moments[2] - moments[1] >= 0.1


def test_link_gives_its_rate_to_all_connections_together(nginx: Nginx, docroot: Path) -> None:
    (docroot / "blob").write_bytes(BYTES)
    with Linked(nginx.port, rtt=0.0, rate=4 * len(BYTES)) as link:
        began = time.monotonic()
        connections = [connect(link) for _ in range(2)]
        for connection in connections:
            connection.request("GET", "/blob")
        for connection in connections:
            answer = hashlib.sha256(connection.getresponse().read())
            assert answer.digest() == hashlib.sha256(BYTES).digest()
            connection.close()
        taken, counts = time.monotonic() - began, link.counts()
    assert taken >= 2 / 4
    assert (counts["connections"], counts["requests"]) == (2, 2)
    assert counts["down"] > 2 * len(BYTES)
    assert 0 < counts["up"] < 1000


def test_a_connection_that_is_being_opened_holds_up_nobody_else() -> None:
    way, (left, right) = Way(rate=100.0, delay=1.0), socket.socketpair()
    with left, right:
        streams = [Stream(way, right, right, opens=opens) for opens in (50.0, 0.0)]
        dues = []
        for stream in streams:
            left.send(b"x" * 100)
            dues.append(stream.take(now=10.0))
    assert dues == [51.0, 13.0]


def test_link_ends_a_connection_whose_client_has_gone() -> None:
    with reserved_port() as server:
        server.listen()
        with Linked(server.getsockname()[1], rtt=0.0, rate=0) as link:
            host, _, port = urlsplit(link.url).netloc.partition(":")
            with socket.create_connection((host, int(port)), PATIENCE) as client:
                accepted, _ = server.accept()
                client.sendall(b"hello")
                with accepted:
                    accepted.settimeout(PATIENCE)
                    assert accepted.recv(10) == b"hello"
                    client.close()
                    assert accepted.recv(10) == b""


def test_all_processes_of_a_subject_are_measured_and_ended(tmp_path: Path) -> None:
    with Group(tmp_path / "said") as group:
        process = group.start(["sh", "-c", "setsid sh -c 'echo $$; while :; do :; done' & echo ready; wait"])
        while len((tmp_path / "said").read_text().split()) < 2 or group.cpu() == 0:
            assert process.poll() is None
        assert len(group.pids()) == 2
        with group.watch_memory() as seen:
            pass
        assert min(seen) > 10_000
    assert not group.pids()
    assert process.returncode is not None


def test_a_program_that_hangs_is_ended_and_said_to() -> None:
    with pytest.raises(Hung, match="sleep 1000: not done within 0 s"):
        processes.run(["sleep", "1000"], 0.1)
    processes.reap()


def test_every_line_comes_out(tmp_path: Path) -> None:
    found, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    words: Words = ["--quick", "--rounds", "1", "--subjects", "lazyfs,local", "--dir", tmp_path, "--json", found]
    done = run([sys.executable, "-m", "tools.benching", *words, "--chart", chart], 4 * PATIENCE, check=False)
    assert done.returncode == 1, done.stderr  # nobody to be compared with is not met
    results = json.loads(found.read_text())
    assert {key for key, figure in results["figures"].items() if "lazyfs" in figure["subjects"]} == set(FIGURES)
    assert {line["line"] for line in results["lines"]} == set(LINES)
    assert len(results["lines"]) == len(REQUIREMENTS)
    assert [line["met"] for line in results["lines"] if line["reference"] is None].count(True) == 0
    assert len(re.findall(r"(?m) (met|NOT met|NOT compared)$", done.stdout)) == len(REQUIREMENTS)
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")
    assert not [mounted for mounted in mountinfo.mounts() if mounted.mountpoint.startswith(str(tmp_path))]


def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "tools.benching", "--only", "warm,cool"], check=False)
    assert done.returncode == 2
    assert "cool: not one of cold, tls" in done.stderr.splitlines()[-1]
