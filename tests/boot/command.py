"""`tools/boot`: a Debian booted by QEMU in software emulation from a lazy mount, beside a local file and a download.

The Debian is made once, which takes a minute or two, and kept. All goes over a link with a round trip and a rate. A
boot's time ends when the machine's init says that it is up; that of a cold or a second boot begins with the mount, and
that of a download with the first request. What a boot writes goes to an overlay. Kernel and initrd come from where the
disk comes from. Ends with 1 when a machine did not come up. It takes root, mmdebstrap and qemu-system-x86.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.boot.debian import debian, default_directory
from tests.boot.measuring import FORMS, Boot, Form, Scene, with_profile
from tests.boot.qemu import NotBooted

MBIT = 125_000


def main() -> None:
    """Measure, print, and end with 1 when a machine did not come up."""
    options = _parser().parse_args()
    if missing := [name for name in ("mmdebstrap", "qemu-system-x86_64", "qemu-img") if not shutil.which(name)]:
        sys.exit(f"tools/boot: not installed: {', '.join(missing)}")
    forms = options.form or list(FORMS)
    if os.geteuid() != 0:
        sys.exit("tools/boot: it takes root, to make a Debian and to mount it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # and clean up
    made = debian(options.directory.absolute(), options.variant)
    rate = options.rate * MBIT
    with (
        tempfile.TemporaryDirectory(prefix="lazyfs-boot-", dir=options.directory) as work,
        Scene(Path(work), made, options.rtt / 1000, rate, options.profile) as scene,
    ):
        if options.with_profile:
            for number in range(options.rounds):
                print(*with_profile(scene, FORMS[forms[0]], rate, Path(work) / f"profiles{number}").lines(), sep="\n")
        else:
            sys.exit(_measure(scene, forms, options.rounds))


def _measure(scene: Scene, forms: list[str], rounds: int) -> int:
    """Do all of it as often as is asked, print a line for each, and return the exit status."""
    boots, failed = defaultdict[tuple[str, str], list[Boot]](list), 0
    ways: dict[str, Callable[[Form], tuple[Boot, ...]]] = {
        "local": lambda form: (scene.local(form),),
        "download first": lambda form: (scene.download(form),),
        "cold, second": scene.cold_and_again,
    }
    for _ in range(rounds):
        for name in forms:
            form = FORMS[name]
            for way, take in ways.items():
                if way != "cold, second" and (form.options or form.tls):
                    continue  # the same as without
                try:
                    for what, taken in zip(way.split(", "), take(form), strict=True):
                        boots[name, what].append(taken)
                        print(f"  {name}: {what} {taken.seconds:.1f} s", file=sys.stderr, flush=True)
                except (NotBooted, AssertionError, OSError) as exc:
                    failed += 1
                    print(f"  {name}: {way}: {exc}", file=sys.stderr, flush=True)
    print("| disk | boot | s | MB fetched | of all | requests |", "|---|---|---|---|---|---|", sep="\n")
    for (name, what), each_time in boots.items():
        seconds, fetched, requests = (
            statistics.median(getattr(each, field) for each in each_time)
            for field in ("seconds", "fetched", "requests")
        )
        share = fetched / scene.debian.size(FORMS[name].disk)
        print(f"| {name} | {what} | {seconds:.1f} | {fetched / 1e6:.0f} | {share:.0%} | {requests:.0f} |")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/boot", description=__doc__)
    parser.add_argument("--form", action="append", choices=FORMS, help="how the disk is served and mounted (all)")
    parser.add_argument("--rounds", type=int, default=1, help="medians of so many (1)")
    parser.add_argument("--rtt", type=float, default=20.0, help="milliseconds of the link's round trip (20)")
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s of the link (100)")
    parser.add_argument("--variant", default="standard", help="of Debian, as mmdebstrap calls them (standard)")
    parser.add_argument("--profile", type=Path, action="append", default=[], help="boot profiles for all lazy mounts")
    parser.add_argument("--with-profile", action="store_true", help="what a profile brings for the first form")
    parser.add_argument("--directory", type=Path, default=default_directory(), help="what is made is kept there")
    return parser


if __name__ == "__main__":
    main()
