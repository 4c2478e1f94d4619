"""`tools/container`: a shell in a container, from `rootfs/` of a lazy mount, beside pull, unpack and run.

The image is a Debian with Python, Perl, Git and a compiler, one eStargz layer in a registry behind a link with a round
trip and a rate. A start's time begins with the mount, or with the pull, and ends when the shell has said its word. All
of it ends by itself. It takes root, mmdebstrap, docker-registry, skopeo, umoci and crun.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.boot.debian import apt_sources, default_directory, release
from tests.containers import run_container
from tests.images import overlay
from tests.layers import writing
from tests.layers.writing import diff_id
from tests.mounts import Mounts, run
from tests.registries import Layer, Registry, make_image
from tools.benching.origin import Linked

MIB: Final = 1024 * 1024
MBIT: Final = 125_000

PACKAGES: Final = "python3,perl,git,gcc,curl,ca-certificates"
"""What makes it an image as people have them, some 500 MB unpacked."""

TOGETHER: Final = 8
"""Containers that are started at once."""

NAME: Final = "team/debian:1"

_PATIENCE: Final = 1200.0


@dataclass(frozen=True)
class Start:
    """*Units*: seconds; `fetched` bytes of bodies."""

    seconds: float
    fetched: int


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    needed = ("mmdebstrap", "docker-registry", "skopeo", "umoci", "crun")
    if missing := [name for name in needed if not shutil.which(name)]:
        sys.exit(f"tools/container: not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        sys.exit("tools/container: it takes root, to unpack an image and to run it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # and clean up
    layer = _layer(options.directory.absolute())
    starts: dict[str, list[Start]] = {"lazy, cold": [], "lazy, second": [], "pull, unpack, run": []}
    with tempfile.TemporaryDirectory(prefix="container-", dir=options.directory) as temporary:
        work = Path(temporary)
        made = make_image(work / "layout", [layer])
        with Registry(work / "registry") as registry:
            registry.push(made, NAME)
            with Linked(registry.port, options.rtt / 1000, options.rate * MBIT) as link:
                host = link.url.removeprefix("http://")
                for number in range(options.rounds):
                    here = work / f"round{number}"
                    here.mkdir()
                    starts["lazy, cold"].append(_lazy(here, "cold", host))
                    starts["lazy, second"].append(_lazy(here, "second", host))
                    starts["pull, unpack, run"].append(_pulled(here, host, layer))
                    shutil.rmtree(here)
                together = _together(work, host)
    print(
        f"an image of {len(layer.content) / 1e6:.0f} MB",
        "| start | s | MB fetched | of all |",
        "|---|---|---|---|",
        sep="\n",
    )
    for name, each in starts.items():
        seconds, fetched = (statistics.median(getattr(one, field) for one in each) for field in ("seconds", "fetched"))
        print(f"| {name} | {seconds:.2f} | {fetched / 1e6:.2f} | {fetched / len(layer.content):.1%} |")
    pairs = zip(starts["pull, unpack, run"], starts["lazy, cold"], strict=True)
    ratio = statistics.median(pulled.seconds / lazy.seconds for pulled, lazy in pairs)
    print(f"a cold start comes {ratio:.1f} times sooner")
    print(f"{TOGETHER} at once, on one store, took {together.seconds:.2f} s and {together.fetched / 1e6:.2f} MB in all")


def _together(work: Path, host: str) -> Start:
    """Start several at once, each from a mount of its own, on one store."""
    (here := work / "together").mkdir()
    began = time.monotonic()
    with ThreadPoolExecutor(TOGETHER) as pool:
        starts = list(pool.map(lambda number: _lazy(here, f"start{number}", host), range(TOGETHER)))
    return Start(time.monotonic() - began, sum(start.fetched for start in starts))


def _lazy(here: Path, name: str, host: str) -> Start:
    (work := here / name).mkdir()
    mounts = Mounts(work)
    began = time.monotonic()
    try:
        mount = mounts(f"oci://{host}/{NAME}", store=here / "store")
        with overlay(Path(mount.path("rootfs")), work, work / "root") as root:
            _say(root, work)
            seconds = time.monotonic() - began
        return Start(seconds, mount.counters()["origin_bytes"])
    finally:
        mounts.end()


def _pulled(here: Path, host: str, layer: Layer) -> Start:
    began = time.monotonic()
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
    run([*words, f"docker://{host}/{NAME}", f"oci:{here / 'pulled'}:image"], _PATIENCE)
    run(["umoci", "raw", "unpack", "--image", f"{here / 'pulled'}:image", here / "unpacked"], _PATIENCE)
    _say(here / "unpacked", here)
    return Start(time.monotonic() - began, len(layer.content))


def _say(root: Path, work: Path) -> None:
    done = run_container(root, work, "/bin/sh", "-c", "echo hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def _layer(directory: Path) -> Layer:
    """Return the image's one layer; the first time it is made, which takes a few minutes, and kept."""
    kept, described = directory / "container.estargz", directory / "container.json"
    if not described.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=directory) as work:
            listed, made = Path(work) / "sources.list", Path(work) / "debian.tar"
            listed.write_text(apt_sources())
            words = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "--mode=root"]
            run([*words, release(), made, listed], _PATIENCE)
            written = writing.estargz(made.read_bytes(), chunk=4 * MIB)
        kept.write_bytes(written.blob)
        described.write_text(json.dumps([diff_id(written), written.annotations]))
    digest, annotations = json.loads(described.read_text())
    return Layer(kept.read_bytes(), digest, annotations=annotations)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/container", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many (3)")
    parser.add_argument("--rtt", type=float, default=20.0, help="milliseconds of the link's round trip (20)")
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s of the link (100)")
    parser.add_argument("--directory", type=Path, default=default_directory(), help="what is made is kept there")
    return parser


if __name__ == "__main__":
    main()
