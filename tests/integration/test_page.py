"""The page at the metrics address: what it asks for, what it refuses, and what people see of it in a browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import under
from tests.browser import Browser
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Mount, Mounts, on_mount, start
from tests.servers import MisbehavingOrigin, Nginx

METRICS = ("--metrics", ":0")
HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>.img'
"""A path of two names, since there is a slash in it."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser, for one test after the other."""
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser


def place_of(mount: Mount) -> tuple[str, int]:
    """Return where a mount serves its page."""
    host, _, port = mount.status()["metrics"].rpartition(":")
    return host, int(port)


def asked(
    place: tuple[str, int], target: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return the answer to a request, and its body."""
    with closing(http.client.HTTPConnection(*place, timeout=PATIENCE)) as connection:
        connection.request(method, target, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


def told(place: tuple[str, int], target: str) -> Any:
    """Return what the JSON of an answer says."""
    answer, body = asked(place, target)
    assert answer.status == 200, body
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(body)


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_it_asks_for_and_what_it_refuses(mounts: Mounts, nginx: Nginx, docroot: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9.img")
    (docroot / strange).write_bytes(os.urandom(1 << 20))
    names = [{"path": f"d/{number}", "url": f"{nginx.url}/{number}", "size": 5} for number in range(250)]
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    mount = mounts(f"{nginx.url}/caf%E9.img", tmp_path / "names.jsonl", options=METRICS)
    place = place_of(mount)

    answer, body = asked(place, "/")
    policy = answer.headers["Content-Security-Policy"]
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert {answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"]} == {"nosniff", "no-store"}
    assert not re.search(rb"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", body), "it names no other place"
    assert asked(place, "/", "HEAD")[1] == b""
    assert asked(place, "/metrics")[1].startswith(b"# HELP ")

    for target, method, host, status in [
        ("/api/map", "GET", "127.0.0.1", 400), ("/api/map?blob=../../etc", "GET", "127.0.0.1", 400),
        (f"/api/map?blob=url-{'0' * 64}", "GET", "localhost", 200), ("/api/files?offset=x", "GET", "127.0.0.1", 400),
        ("/api/files?" + "a=1&" * 20, "GET", "127.0.0.1", 400), ("/api/", "GET", "127.0.0.1", 404),
        ("/page.js", "GET", "127.0.0.1", 404), ("/api/state", "POST", "127.0.0.1", 405),
        ("/", "GET", "attacker.example", 421), ("/api/state", "GET", "attacker.example:80", 421),
    ]:  # fmt: skip
        answer, body = asked(place, target, method, Host=host)
        assert answer.status == status, target
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert body.count(b"\n") <= 1

    state = told(place, "/api/state")
    assert (state["mountpoint"], state["files"]) == (str(mount.at), 251)
    found = told(place, "/api/files?limit=10")
    assert (len(found["files"]), found["more"], found["total"]) == (10, True, 251)
    on_mount(under.read, mount.path(strange), 0, 4096)
    (file,) = told(place, "/api/files?search=" + quote("CAF\udce9", errors="surrogateescape"))["files"]
    assert (file["path"], file["present"]) == (strange, 256 << 10)
    assert [one["path"] for one in told(place, "/api/files?search=d/24")["files"]][:2] == ["d/24", "d/240"]
    page = told(place, "/api/files?offset=240&limit=50")
    assert (len(page["files"]), page["more"]) == (11, False)
    found = told(place, f"/api/map?blob={file['blob']}&cells=2")
    assert (found["each"], found["present"], found["bytes"]["present"]) == (2, [1, 0], 256 << 10)
    assert " ERROR " not in mount.log()


@contextmanager
def fetching(mount: Mount, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process of its own fetch a URL."""
    words = [sys.executable, "-m", "lazyfs", "fetch", "--store", mount.store, url]
    with subprocess.Popen(list(map(str, words)), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def seen(browser: Browser, mount: Mount) -> None:
    """Open a mount's page, and wait until it shows something."""
    host, port = place_of(mount)
    browser.look(1280, 900)
    browser.open(f"http://{host}:{port}/")
    browser.until("document.body?.dataset.state === 'live' && document.querySelectorAll('#files tr').length > 0")


def choose(browser: Browser, name: str) -> None:
    """Choose the file of that name."""
    buttons = "[...document.querySelectorAll('#files button')]"
    browser.evaluate(f"{buttons}.find((button) => button.textContent === {json.dumps(name)}).click()")


def test_a_fetch_is_seen_live_and_the_end_of_the_mount(
    origin: MisbehavingOrigin, mounts: Mounts, browser: Browser, tmp_path: Path
) -> None:
    url = origin.url("rate=1500K", "random-4M-live")
    names = [{"path": HOSTILE, "url": origin.plain("random-1M-x"), "size": 1 << 20}, {"path": "disk.img", "url": url}]
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    mount = mounts(tmp_path / "names.jsonl", options=(*METRICS, "--no-passthrough"))
    seen(browser, mount)
    browser.until(f"document.querySelector('#files button').textContent === {json.dumps(HOSTILE)}")
    browser.until("document.querySelectorAll('#files tr').length === 2")
    choose(browser, "disk.img")
    present = "(view.map?.present ?? []).filter(Boolean).length"
    with fetching(mount, url) as process:
        first = browser.until(present)
        assert 0 < first < 16
        browser.until(f"{present} > {first} && document.getElementById('map-share').textContent.endsWith('/s')")
        browser.until("document.getElementById('fetching').textContent !== '0 B'")
        browser.until("document.querySelector('#files tr').textContent.startsWith('disk.img')")
        assert ", fetching" in browser.text("files")
        assert process.wait(PATIENCE) == 0
    browser.until("document.getElementById('map-share').textContent === 'complete'")
    assert on_mount(under.sha256, mount.path("disk.img"))
    browser.until("document.getElementById('read-now').textContent !== '0 B/s'")
    assert browser.evaluate("document.querySelectorAll('#files img, #files script').length") == 0
    assert browser.evaluate("window.hurt") is None
    assert (browser.problems, browser.strangers()) == ([], [])

    port = place_of(mount)[1]
    mount.umount()
    browser.until("!document.getElementById('gone').hidden")
    again = mounts(tmp_path / "names.jsonl", options=("--metrics", f":{port}"), at=mount.at)
    browser.until("document.getElementById('gone').hidden")
    browser.until(f"document.getElementById('about').textContent.includes('daemon {again.pid}')")
    assert [problem for problem in browser.problems if "ERR_" not in problem] == []


def test_ten_thousand_files(nginx: Nginx, docroot: Path, mounts: Mounts, browser: Browser, tmp_path: Path) -> None:
    (docroot / "file").write_bytes(os.urandom(1 << 20))
    names = [{"path": f"images/{number:05}.img", "url": f"{nginx.url}/file?{number}", "size": 1 << 20}
             for number in range(10_000)]  # fmt: skip
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    mount = mounts(tmp_path / "names.jsonl", options=METRICS)
    before = resident(mount.pid)
    seen(browser, mount)
    browser.until("document.getElementById('files-count').textContent === '10,000'")
    assert browser.evaluate("document.querySelectorAll('#files tr').length") == 50
    for _ in range(2):
        browser.evaluate("document.getElementById('next').click()")
    browser.until("document.getElementById('range').textContent === '101 to 150 and more'")
    browser.until("document.querySelector('#files button').textContent === 'images/00100.img'")
    browser.type("search", "09876")
    browser.until("document.getElementById('range').textContent === '1 to 1'")
    assert browser.text("files").startswith("images/09876.img")
    reading = start(under.read, mount.path("images/09876.img"), 0, 4096)
    browser.until("document.getElementById('files').textContent.includes('25 %')")
    assert reading.result() == (docroot / "file").read_bytes()[:4096]
    browser.type("search", "no such")
    browser.until("document.getElementById('range').textContent === 'none'")
    assert (browser.problems, browser.strangers()) == ([], [])
    assert resident(mount.pid) - before < 24 << 20
    assert " ERROR " not in mount.log()


def test_a_million_blocks_in_the_dark_and_on_a_narrow_screen(
    origin: MisbehavingOrigin, mounts: Mounts, browser: Browser
) -> None:
    mount = mounts(f"big.img={origin.plain('random-256G-big')}", options=METRICS)
    on_mount(under.direct_reads, mount.path("big.img"), [0, 200 << 30], 4096)
    before = resident(mount.pid)
    seen(browser, mount)
    choose(browser, "big.img")
    browser.until("document.getElementById('map-name').textContent.includes('1,048,576 blocks')")
    browser.until("document.getElementById('map-share').textContent === 'under 1 %'")
    browser.evaluate("document.getElementById('map').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowLeft")
    assert browser.text("cell").startswith("Blocks 0 to 255, at 0 B: 1 present")
    colours = []
    for dark in (False, True):
        browser.look(400, 800, dark=dark)
        colours.append(browser.until("getComputedStyle(document.body).backgroundColor"))
        assert browser.evaluate("document.documentElement.scrollWidth") <= 400
        assert browser.evaluate("document.getElementById('map').clientWidth") > 250
    assert len(set(colours)) == 2
    on_mount(under.direct_read, mount.path("big.img"), 100 << 30, 4096)
    browser.until("document.getElementById('present').textContent === '768.0 KiB'")
    assert (browser.problems, browser.strangers()) == ([], [])
    assert resident(mount.pid) - before < 48 << 20
