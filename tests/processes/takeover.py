"""`tools/takeover`: how soon who waits for a block goes on when the process that fetches it is killed.

Every round has a blob, an origin that stalls in the middle of its block 1, a process that asks for this block and has
its lock, and one that waits for it. The first is killed; measured is the time until the other's request for the block
is at the origin. The clock is the same for all, as they are on one host.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path

import trio

from lazyfs.blob import Limits
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.origin.client import Client, ClientOptions
from lazyfs.records import MIN_BLOCK_SIZE as BLOCK
from lazyfs.store import Store
from lazyfs.versions import Known, blob_id_for
from tests.model.world import content_of

SIZE = 3 * BLOCK
CONTENT = content_of(SIZE)
PATIENCE = 30.0

MEDIAN, WORST = 0.05, 0.25
"""Units: seconds.  What is promised."""


class _Origin(ThreadingHTTPServer):
    """Serves CONTENT under every path; the first to ask for its block 1 gets half of it, and nothing more."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()
        self._asked = threading.Condition()
        self._times: dict[str, list[float]] = defaultdict(list)

    def note(self, path: str) -> int:
        """Note that block 1 is asked for, and return which time that is."""
        now = time.monotonic()
        with self._asked:
            self._times[path].append(now)
            self._asked.notify_all()
            return len(self._times[path])

    def asked(self, path: str) -> int:
        """Return how often block 1 was asked for."""
        with self._asked:
            return len(self._times[path])

    def when(self, path: str, number: int) -> float:
        """Wait until it was asked for so often, and return when that was."""
        with self._asked:
            assert self._asked.wait_for(lambda: len(self._times[path]) >= number, PATIENCE), "nobody asks for the block"
            return self._times[path][number - 1]


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Origin

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        body = CONTENT[first : last + 1]
        number = self.server.note(self.path) if first <= BLOCK <= last else 0
        self.send_response(206)
        self.send_header("ETag", f'"{self.path}"')
        self.send_header("Content-Range", f"bytes {first}-{last}/{SIZE}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if number == 1:
            self.wfile.write(body[: BLOCK // 2])
            self.server.over.wait()
        else:
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextmanager
def _origin() -> Iterator[_Origin]:
    with _Origin() as origin:
        thread = threading.Thread(target=origin.serve_forever)
        thread.start()
        try:
            yield origin
        finally:
            origin.over.set()
            origin.shutdown()
            thread.join()


def _read(store: Path, url: str, said: Connection) -> None:
    """Read block 1, in a process of its own; say when it begins, and whether it was right."""

    async def main() -> None:
        counters, opened = Counters(), Store.open(store, BLOCK)
        async with trio.open_nursery() as nursery:
            client = Client(ClientOptions(), counters, nursery)
            found = await client.probe(url)
            assert found is not None
            blobs = Blobs(opened, client, counters, nursery, Limits())
            known = Known(url, found.version, found.ranged, found.head)
            blob = await blobs.open(blob_id_for(url, found.version, None), known)
            said.send("begins")
            said.send(bytes(await blob.read(BLOCK, BLOCK)) == CONTENT[BLOCK : 2 * BLOCK])
            blobs.close(blob)
            await client.aclose()
        opened.close()

    trio.run(main)


def rounds(directory: Path, count: int, context: BaseContext, seed: int = 0) -> Iterator[float]:
    """Play so many rounds, and yield for each how long it took to go on. *Units*: seconds."""
    dice = random.Random(seed)
    with _origin() as origin:
        for number in range(count):
            path = f"/{number}"
            holder, _ = _start(context, directory, origin.url + path)
            origin.when(path, 1)
            waiter, said = _start(context, directory, origin.url + path)
            assert said.recv() == "begins"
            time.sleep(dice.uniform(0.05, 0.1))  # it looks every 10 ms by then; at some moment between two looks
            assert origin.asked(path) == 1, "it does not wait"
            assert holder.pid is not None
            killed = time.monotonic()
            os.kill(holder.pid, signal.SIGKILL)
            yield origin.when(path, 2) - killed
            assert said.recv() is True, "wrong bytes"
            for process in (holder, waiter):
                process.join(PATIENCE)


def _start(context: BaseContext, store: Path, url: str) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(store, url, theirs), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return process, ours


@contextmanager
def _load(count: int) -> Iterator[None]:
    """Have so many processes that want a core each."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure, print a line, and end with 1 when it took longer than is promised."""
    options = _parser().parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lazyfs.blobs", "lazyfs.origin.client", "lazyfs.store", "tests.model.world"])
    with tempfile.TemporaryDirectory(prefix="lazyfs-takeover-") as name, _load(options.load):
        took = sorted(rounds(Path(name) / "store", options.rounds, context, options.seed))
    median, worst = statistics.median(took), took[-1]
    shown = ", ".join(
        f"{name} {seconds * 1e3:.1f} ms"
        for name, seconds in (("median", median), ("p99", took[int(len(took) * 0.99)]), ("worst", worst))
    )
    print(f"{len(took)} rounds beside {options.load} busy processes on {os.cpu_count()} cores: {shown}")
    sys.exit(median > MEDIAN or worst > WORST)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/takeover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="in each of which a process is killed (200)")
    parser.add_argument("--load", type=int, default=0, help="processes that are busy at the same time (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (0)")
    return parser


if __name__ == "__main__":
    main()
