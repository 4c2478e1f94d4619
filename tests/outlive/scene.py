"""What is mounted: an origin with a tree of small files, a few large blobs, and images, which are mounted in turn.

blobs/complete   all of it in the store, pinned: the kernel reads it past the daemon
blobs/partial    half of it in the store at first
blobs/cold       never all in the store, which may hold only BOUND of all
digest           with a digest, which no index gives
images/ext4      all of it in the store, pinned; mounted by loop, and the lower layer of an overlay that is written
images/erofs     mounted by loop; without passthrough from the file itself, too
tree/            hundreds of files of up to 40 KB
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import under
from tests.mounts import Mounts, Task, lazyfs, on_mount, run, start
from tests.outlive import loads
from tests.servers import Nginx

MIB: Final = 1 << 20

FILES: Final = 300

BOUND: Final = 0.6
"""The part of all bytes that the store may keep."""

RATE: Final = "30m"
"""nginx's limit for each connection: a fetch is under way for long enough to be cut short."""

PATIENCE: Final = 120.0

ENDS: Final = 30.0
"""Seconds for all loads to end."""


@dataclass(frozen=True)
class Scene:
    """The origin, and what it has in `docroot`; `parts` has the files of which the images are made."""

    directory: Path
    docroot: Path
    parts: Path
    manifest: Path
    url: str

    @property
    def sources(self) -> list[str]:
        """What to mount."""
        return [f"{self.url}/", str(self.manifest)]

    def source(self, name: str) -> str:
        """Return the file that a name under the mount must have the bytes of."""
        return str(self.docroot.parent / "digest" if name == "digest" else self.docroot / name)

    @property
    def total(self) -> int:
        """The bytes of all blobs."""
        return sum(path.stat().st_size for path in self.docroot.rglob("*") if path.is_file())


@contextlib.contextmanager
def serving(directory: Path, scale: int) -> Iterator[Scene]:
    """Make it, and serve it. *Units*: `scale` MiB, of the digest's blob; all is 18 times that."""
    docroot, parts = directory / "docroot", directory / "parts"
    for below in (docroot / "blobs", docroot / "images", parts):
        below.mkdir(parents=True)
    for name, size in (("complete", 3), ("partial", 3), ("cold", 6)):
        _fill(docroot / "blobs" / name, size * scale * MIB + 333)
    _fill(directory / "digest", scale * MIB + 77)
    for number in range(8):
        _fill(parts / f"part{number}", scale * MIB // 4 + 1000 * number)
    run(["mkfs.erofs", "--quiet", docroot / "images" / "erofs", parts])
    run(["mkfs.ext4", "-q", "-d", parts, docroot / "images" / "ext4", f"{2 * scale + 8}M"])
    _make_tree(docroot / "tree")
    digest = hashlib.sha256((directory / "digest").read_bytes()).hexdigest()
    rules = f"limit_rate {RATE}; location = /digest {{ alias {directory}/digest; }}"
    with Nginx(directory / "nginx", docroot, server=rules) as nginx:
        manifest = directory / "digest.jsonl"
        manifest.write_text(json.dumps({"path": "digest", "url": f"{nginx.url}/digest", "digest": f"sha256:{digest}"}))
        yield Scene(directory, docroot, parts, manifest, nginx.url)


def _make_tree(tree: Path) -> None:
    dice = random.Random(1)
    for number in range(FILES):
        path = tree / f"d{number % 10}" / f"e{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(dice.randrange(1, 40_000)))


def _fill(path: Path, size: int) -> None:
    path.write_bytes(random.Random(str(path.name)).randbytes(size))


class Stage:
    """A mount of the scene, and the loads on it."""

    def __init__(self, scene: Scene, mounts: Mounts, options: list[str], at: Path) -> None:
        self._mounts, self._scene, self._at = mounts, scene, at
        self._options = [*options, "--max-cache", str(int(scene.total * BOUND))]
        self.mount_again()
        self._loads: dict[str, Task[loads.Seen]] = {}
        self._images: list[Path] = []

    def mount_again(self) -> None:
        """Mount it, where no mount of it is alive."""
        self.mount = self._mounts(*self._scene.sources, options=self._options, at=self._at)

    def warm(self) -> None:
        """Put into the store what is to be there from the start."""
        for word in ("fetch", "pin"):
            done = lazyfs(word, *map(self.mount.path, ("blobs/complete", "images/ext4")), timeout=PATIENCE)
            assert done.returncode == 0, done.stderr
        half = Path(self._scene.source("blobs/partial")).stat().st_size // 2
        on_mount(under.pass_through, self.mount.path("blobs/partial"), half)

    def begin(self) -> None:
        """Start all loads."""
        path, source = self.mount.path, self._scene.source
        blobs = ["blobs/complete", "blobs/partial"]
        self._start("sequential", "sequential", path("blobs/cold"), source("blobs/cold"))
        self._start("sequential, with a digest", "sequential", path("digest"), source("digest"))
        for how in ("buffered", "direct", "mapped"):
            for name in ("blobs/complete", "blobs/partial"):
                self._start(f"{how}, {name.removeprefix('blobs/')}", "at_random", path(name), source(name), how)
        self._start("ls -lR", "looking", path("tree"), source("tree"))
        docroot = self._scene.docroot
        small = [str(file.relative_to(docroot)) for file in docroot.glob("tree/*/*/*")]
        self._start("open and close", "opening", path(), str(docroot), small + 20 * blobs)
        self._start("idle", "idling")
        self._mount_images()
        for task in self._loads.values():
            task.wait_until_open()

    def _start(self, shown: str, name: str, *args: object) -> None:
        self._loads[shown] = start(loads.run, name, *args)

    def _mount_images(self) -> None:
        directory, parts = self._scene.directory, str(self._scene.parts)
        erofs, ext4 = self.mount.path("images/erofs"), self.mount.path("images/ext4")
        at = self._mounted("erofs", "-o", "ro,loop", erofs)
        self._start("erofs, loop", "comparing", at, parts, erofs)
        if not self.mount.status()["passthrough"]["on"]:  # with it the mount is stacked: the kernel refuses that erofs
            at = str(self._image())
            on_mount(loads.mount_file, "erofs", erofs, at)
            self._start("erofs, from the file", "comparing", at, parts, erofs)
        at = self._mounted("ext4", "-o", "ro,loop,noload", ext4)
        self._start("ext4, loop", "comparing", at, parts, ext4)
        (writable := directory / "writable").mkdir(exist_ok=True)
        self._start("overlay, written", "overwriting", at, parts, ext4, str(writable))

    def _image(self) -> Path:
        """Make a place to mount an image at."""
        at = self._scene.directory / f"image{len(self._images)}"
        at.mkdir(exist_ok=True)
        self._images.append(at)
        return at

    def _mounted(self, kind: str, *words: str) -> str:
        at = self._image()
        run(["mount", "-t", kind, *words, at])
        return str(at)

    def end(self) -> tuple[dict[str, loads.Seen], list[str]]:
        """Tell all loads to end; return what they saw, and what went wrong with whom."""
        seen, wrong = dict[str, loads.Seen](), list[str]()
        for task in self._loads.values():
            with contextlib.suppress(BrokenPipeError):  # its result says why it has ended
                task.go()
        deadline = time.monotonic() + ENDS
        for name, task in self._loads.items():
            try:
                seen[name] = task.result(max(1.0, deadline - time.monotonic()))
            except TimeoutError:
                wrong.append(f"{name} does not end: it waits in {_stack(task.pid)}")
            except Exception as exc:
                wrong.append(f"{name} failed: {str(exc).strip()[-500:]}")
        self._loads.clear()
        return seen, wrong

    def unmount_images(self, *, lazy: bool) -> list[str]:
        """Unmount the images; return what could not be."""
        wrong = []
        merged = self._scene.directory / "writable" / "merged"  # by a load that ended as it should not
        run(["umount", "-l", merged], check=False)
        for at in self._images:
            done = run(["umount", *(["-l"] if lazy else []), at], check=False)
            wrong += [f"{at}: {done.stderr.strip()}"] if done.returncode else []
        self._images.clear()
        return wrong


def _stack(pid: int) -> str:
    with contextlib.suppress(OSError):
        return " ".join(Path(f"/proc/{pid}/stack").read_text().split()[1::2]) or "nothing"
    return "nowhere"
