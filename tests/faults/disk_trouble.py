"""Walks a fault through a scripted session: each call on the store's files fails once, or from there on.

`tools/disk-trouble` does it for every call and every error, tests/faults/test_failing_disk.py for some.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.failing_disk import KINDS, Fault, Mode, Plan, build
from tests.mounts import ENVIRONMENT, ROOT
from tests.servers import Nginx

PATIENCE: Final = 60.0
"""Seconds for the answer to one fault: two sessions and a look at what is left."""

OFTEN: Final = 100
"""The last n of which every n-th call fails: those of more are much like one that fails once."""

SIZES: Final = {"through": 7 * 65536 + 321, "digest": 3 * 65536 + 7}


@dataclass
class Walker:
    """A process that runs the script as often as one likes."""

    process: subprocess.Popen[bytes]

    def attempt(self, fault: Fault) -> dict[str, Any]:
        """Run the script with a fault; return what came of it. *Raises*: TimeoutError; EOFError, when it has ended."""
        return self._ask(fault.error, fault.mode, fault.n)

    def calls(self, error: str) -> int:
        """Return how many calls of the script could fail with an error."""
        found = self._ask(error, Mode.ONCE, 0)
        assert not found["wrong"], found["wrong"]
        return int(found["counted"])

    def _ask(self, error: str, mode: Mode, n: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"error": error, "mode": mode, "n": n}).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            raise TimeoutError(f"{error} {mode.name} {n}: no answer within {PATIENCE:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"{error} {mode.name} {n}: the process has ended")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def walker(directory: Path) -> Iterator[Walker]:
    """Start an origin, and a process whose disk can be made to fail."""
    docroot, store = directory / "docroot", directory / "store"
    docroot.mkdir()
    dice = random.Random(4)
    for name, size in SIZES.items():
        (docroot / name).write_bytes(dice.randbytes(size))
    digest = hashlib.sha256((docroot / "digest").read_bytes()).hexdigest()
    plan = Plan(directory / "plan", below=store)
    with Nginx(directory / "nginx", docroot) as nginx:
        manifest = directory / "files.jsonl"
        url = f"{nginx.url}/digest"
        manifest.write_text(json.dumps({"path": "known", "url": url, "digest": f"sha256:{digest}"}))
        given = {
            "store": str(store),
            "plan": str(plan.path),
            "sources": [f"{nginx.url}/", str(manifest)],
            "contents": {"through": str(docroot / "through"), "known": str(docroot / "digest")},
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.disk_session"],
            cwd=ROOT,
            env={**ENVIRONMENT, **plan.environment(build(directory))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(given).encode() + b"\n")
            yield Walker(process)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()


def faults(walker: Walker, error: str, mode: Mode, every: int, start: int = 1) -> Iterator[Fault]:
    """Yield the faults of a walk, each `every` calls behind the one before."""
    last = OFTEN if mode is Mode.EVERY else walker.calls(error)
    for n in range(start, last + 1, every):
        yield Fault(error, mode, n)


def main() -> None:
    """Walk, print, and end with 1 when something was wrong."""
    options = _parser().parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="lazyfs-trouble-", dir=options.directory) as name:
        for error in options.error or KINDS:
            for mode in [Mode[word.upper()] for word in options.mode or ("once", "from", "every")]:
                directory = Path(name) / f"{error}-{mode.name}"
                directory.mkdir()
                wrong += _walk(directory, error, mode, options.every, options.start)
    sys.exit(1 if wrong else 0)


def _walk(directory: Path, error: str, mode: Mode, every: int, start: int) -> int:
    ends, failed, wrong = Counter[str](), 0, 0
    with walker(directory) as walked:
        for fault in faults(walked, error, mode, every, start):
            found = walked.attempt(fault)
            ends[found.get("end", "wrong")] += 1
            failed += found.get("failed", 0)
            if found["wrong"]:
                wrong += 1
                print(f"WRONG: {fault}: {found['wrong']}", flush=True)
    print(f"{error} {mode.name.lower()}: {dict(ends)}, {failed} calls failed, {wrong} wrong", flush=True)
    return wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/disk-trouble", description=__doc__)
    parser.add_argument("--error", action="append", choices=tuple(KINDS), help="repeatable (all)")
    parser.add_argument("--mode", action="append", choices=("once", "from", "every"), help="repeatable (all)")
    parser.add_argument("--every", type=int, default=1, help="only each so many calls (1)")
    parser.add_argument("--start", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--directory", help="where the stores are made (the temporary directory)")
    return parser


if __name__ == "__main__":
    main()
