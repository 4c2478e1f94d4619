"""Boots over a link: from a local file, after a download, and from a lazy mount in several forms."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.boot.debian import INITRD, KERNEL, QCOW2, RAW, Debian
from tests.boot.qemu import Machine, boot
from tests.certificates import LOOPBACK, Authority
from tests.mounts import Mount, Mounts, lazyfs
from tests.servers import Nginx
from tools.benching.origin import LASTING, Linked


@dataclass(frozen=True)
class Form:
    """A way to serve and mount the disk."""

    disk: str
    options: tuple[str, ...] = ()
    tls: bool = False

    @property
    def kind(self) -> str:
        """The disk's form, as QEMU calls it."""
        return "qcow2" if self.disk == QCOW2 else "raw"


FORMS: Final = {
    "raw": Form(RAW),
    "qcow2": Form(QCOW2),
    "raw-no-passthrough": Form(RAW, ("--no-passthrough",)),
    "raw-tls": Form(RAW, tls=True),
}


@dataclass(frozen=True)
class Boot:
    """A boot: seconds until the machine was up, with those of the mount or the download before it.

    *Units*: `fetched` bytes of bodies.
    """

    seconds: float
    fetched: int = 0
    requests: int = 0


class Scene:
    """The origin with a Debian, a link in front of it, and what is made of both in `work`."""

    def __init__(self, work: Path, debian: Debian, rtt: float, rate: float, profiles: Sequence[Path] = ()) -> None:
        self.debian, self._work, self._rtt, self._rate = debian, work, rtt, rate
        self._given = [word for profile in profiles for word in ("--profile", str(profile))]
        self._entered = contextlib.ExitStack()
        self._links: dict[bool, str] = {}
        self._mounts = Mounts(work)
        self._stores = 0

    def __enter__(self) -> Scene:
        with contextlib.ExitStack() as stack:
            authority = Authority(self._work / "authority")
            self._authority = authority.pem
            for tls in (False, True):
                pem = authority.issue("server", *LOOPBACK) if tls else None
                served = self.debian.served
                nginx = stack.enter_context(Nginx(self._work / f"nginx-{tls}", served, tls=pem, http=LASTING))
                link = stack.enter_context(Linked(nginx.port, self._rtt, self._rate))
                self._links[tls] = link.url.replace("http:", "https:") if tls else link.url
            stack.callback(self._mounts.end)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def local(self, form: Form) -> Boot:
        """Boot from the file itself."""
        return Boot(self._boot(str(self.debian.served), form))

    def download(self, form: Form) -> Boot:
        """Download the disk and boot from what has come."""
        place = self._work / "downloaded"
        place.mkdir()
        began = time.monotonic()
        trust = ssl.create_default_context(cafile=self._authority)
        for name in (KERNEL, INITRD, form.disk):
            with (
                urllib.request.urlopen(f"{self._links[form.tls]}/{name}", context=trust) as body,
                (place / name).open("wb") as file,
            ):
                shutil.copyfileobj(body, file, 1 << 20)
        took = time.monotonic() - began
        size = self.debian.size(form.disk)
        up = self._boot(str(place), form)
        shutil.rmtree(place)
        return Boot(took + up, size, 3)

    def cold_and_again(self, form: Form) -> tuple[Boot, Boot]:
        """Boot from a mount with an empty store, and once more from another mount with the store as it is then."""
        with self.new_store() as store:
            return self.lazy(form, store), self.lazy(form, store)

    def lazy(self, form: Form, store: Path, options: Sequence[str] = (), export: Path | None = None) -> Boot:
        """Mount, boot and unmount; with `export`, write the profiles of what was read to that directory before."""
        words = [*form.options, *self._given, *options, *(["--ca-file", str(self._authority)] if form.tls else [])]
        began = time.monotonic()
        mount = self._mounts(f"{self._links[form.tls]}/", options=words, store=store)
        mounted = time.monotonic() - began
        up = self._boot(mount.path().rstrip("/"), form)
        counters = mount.counters()
        if export is not None:
            _export(mount, form, export)
        mount.umount()
        return Boot(mounted + up, counters["origin_bytes"], counters["origin_requests"])

    @contextlib.contextmanager
    def new_store(self) -> Iterator[Path]:
        """Give out a store that is new, and remove it at the end."""
        self._stores += 1
        store = self._work / f"store{self._stores}"
        yield store
        shutil.rmtree(store)

    def _boot(self, directory: str, form: Form) -> float:
        machine = Machine(
            f"{directory}/{KERNEL}", f"{directory}/{form.disk}", form=form.kind, initrd=f"{directory}/{INITRD}"
        )
        return boot(machine, self._work / "overlay")


@dataclass(frozen=True)
class Profiled:
    """What a profile brings: boots without and with it, from a local file, and the seconds that its bytes take."""

    without: Boot
    with_it: Boot
    local: Boot
    transfer: float

    def lines(self) -> list[str]:
        """Say it."""
        ideal = self.local.seconds + self.transfer
        return [
            f"cold without a profile {self.without.seconds:.1f} s, with one {self.with_it.seconds:.1f} s:"
            f" {self.with_it.seconds / self.without.seconds:.2f} of the time",
            f"local {self.local.seconds:.1f} s, and the profile's bytes {self.transfer:.1f} s on the link:"
            f" with one takes {self.with_it.seconds / ideal:.2f} of both",
        ]


def with_profile(scene: Scene, form: Form, rate: float, directory: Path) -> Profiled:
    """Boot with an empty store, export what was recorded, and boot so with another empty store and the profile."""
    with scene.new_store() as store:
        without = scene.lazy(form, store, export=directory)
    options = [word for profile in sorted(directory.iterdir()) for word in ("--profile", str(profile))]
    with scene.new_store() as store:
        with_it = scene.lazy(form, store, options)
    return Profiled(without, with_it, scene.local(form), with_it.fetched / rate)


def _export(mount: Mount, form: Form, directory: Path) -> None:
    """Write the profile of each file that was read."""
    directory.mkdir()
    for name in (KERNEL, INITRD, form.disk):
        done = lazyfs("profile", "export", mount.path(name), "-o", directory / f"{name}.profile")
        assert done.returncode == 0, done.stderr
