"""What the processes of test_processes.py do, each with as little loaded as a user's program has."""

from __future__ import annotations

import os
import zipfile
import zlib
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import fsspec


def read_archive(url: str, store: str, begin: Barrier, first: int, checksums: dict[str, int], says: Connection) -> None:
    """Read all members of a zip through fsspec, the `first` one first, and say of each that it is right."""
    begin.wait()
    with fsspec.open(f"lazyfs::{url}", lazyfs={"store": store}) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        for name in names[first:] + names[:first]:
            says.send((name, zlib.crc32(archive.read(name)) == checksums[name]))
    says.send(None)


def read_with(fs: Any, url: str, says: Connection) -> None:
    """Read the start of a file with an instance that came along."""
    says.send((fs.cat_file(url, 0, 10), os.getpid()))


INTERRUPTED = """
import os, signal, sys, threading
import lazyfs

url, stalled, store = sys.argv[1:]
with lazyfs.open(url, store=store) as file, lazyfs.open(stalled, store=store) as slow:
    reader = threading.Thread(target=lambda: print("other", len(slow.read_at(300_000, 10)), flush=True))
    reader.start()

    def interrupt():
        for line in sys.stdin:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        print("reading", flush=True)
        slow.read(10)
    except KeyboardInterrupt:
        print("interrupted", file.read(5), flush=True)
    reader.join()
    print("again", len(slow.read(10)), flush=True)
"""
"""Two threads wait for a stalled origin; the main one is interrupted, and the other gets its bytes."""

FORKED = """
import os, sys
import lazyfs

url, stalled, store = sys.argv[1:]
file, slow = lazyfs.open(url, store=store), lazyfs.open(stalled, store=store)
start = file.read(10)
pids = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        assert file.read(10) == file.read_at(10, 10), "the cursor is the child's own"
        file.seek(1_000_000 * (number + 1))
        same = file.read(10) == lazyfs.open(url, store=store).read_at(1_000_000 * (number + 1), 10)
        sys.exit(0 if same else 1)
    pids.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
assert file.read(10) == file.read_at(10, 10)
if os.fork() == 0:
    os.setsid()
    sys.stdin.read()  # a child that outlives its parent, and reads nothing
    sys.exit(0)
print("reading", flush=True)
slow.read(10)
"""
"""Children read what was open before they were; the last one lives on when the parent is killed in a read."""

LEFT_OPEN = """
import sys, threading
sys.modules["pyfuse3"] = sys.modules["click"] = sys.modules["fsspec"] = None
import lazyfs
assert not any(name.startswith("lazyfs.") for name in sys.modules), "it is cheap"
assert set(lazyfs.__all__) < set(dir(lazyfs))

url, stalled, store = sys.argv[1:]
file, other = lazyfs.open(url, store=store), lazyfs.Store(store=store, hedge=0).open(url)
assert file.read(10) == other.read(10)

def later():
    threading.main_thread().join()
    print("later", len(file.read_at(2_000_000, 10)), flush=True)

threading.Thread(target=later).start()
slow = lazyfs.open(stalled, store=store)
threading.Thread(target=slow.read, args=(10,), daemon=True).start()
"""
"""Neither files nor stores are closed; one thread reads on after the main one, another waits for what never comes."""

MANY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
import fsspec

url, count, store = sys.argv[1:]
urls = [f"{url}{number}" for number in range(int(count))]
found = fsspec.filesystem("lazyfs", store=store).cat_ranges(urls, 0, None)
print(found == [b"%d" % number for number in range(int(count))], flush=True)
"""
"""More files are read in one call than a process of so few descriptors may have open."""

NEVER_ENDING = """
import sys, threading
import lazyfs

url, store = sys.argv[1:]
began = threading.Event()

def read():
    for number in range(1 << 60):
        try:
            with lazyfs.open(url, store=store, headers={"X-Number": str(number)}) as file:
                file.read(10)
        except ValueError:
            assert began.is_set()
        began.set()

threading.Thread(target=read, daemon=True).start()
began.wait()

def begin_another():
    threading.main_thread().join()
    threading.Thread(target=finish).start()

def finish():
    file = lazyfs.open(url, store=store)
    print("finished", len(file.read(10)), flush=True)

threading.Thread(target=begin_another).start()
"""
"""A daemon thread opens without an end; a thread that is to be waited for begins only when the main one is over."""
