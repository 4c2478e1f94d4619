"""`rootfs/`: the merged tree of an image in a registry, through a real mount, beside what umoci unpacks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lazyfs.layers import estargz as tables
from lazyfs.layers import zstdchunked
from tests import trees, under
from tests.containers import run_container, shell_tree
from tests.images import overlay
from tests.layers import everything, reading, writing
from tests.mounts import Mount, Mounts, lazyfs, on_mount, run, start, wait_for_end
from tests.registries import Layer, Registry, digest_of, layer, make_image, registry_with, tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices, and give files away")

MIB = 1024 * 1024


def estargz(plain: bytes, chunk: int = 4096) -> Layer:
    """Return a tar as an eStargz layer."""
    written = writing.estargz(plain, chunk=chunk)
    return Layer(written.blob, writing.diff_id(written), annotations=written.annotations)


def zstd_chunked(plain: bytes) -> Layer:
    """Return a tar as a zstd:chunked layer."""
    written = writing.zstd_chunked(plain)
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    return Layer(written.blob, digest_of(plain), kind, annotations=written.annotations)


FORMS: dict[str, Callable[[bytes], Layer]] = {
    "tar": lambda plain: layer(plain, "none"),
    "gzip": lambda plain: layer(plain, "gzip"),
    "zstd": lambda plain: layer(plain, "zstd"),
    "estargz": estargz,
    "zstd_chunked": zstd_chunked,
}


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three layers of a tree with one of everything, uncompressed."""
    return everything.layers(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def unpacked(layers: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What umoci unpacks."""
    work = tmp_path_factory.mktemp("umoci")
    made = make_image(work / "layout", [layer(one) for one in layers])
    run(["umoci", "raw", "unpack", "--image", made.reference, work / "rootfs"])
    return work / "rootfs"


IMPLIED = {"implied", "implied/here"}
DISTURBED = {".", "opaque/deep"}
"""Directories whose times umoci leaves as they come: no layer names the first, and it changes the others at last."""


def without_times(names: dict[str, trees.Name]) -> dict[str, trees.Name]:
    """Leave out what differs from one run of umoci to the next."""
    return {path: replace(it, mtime_ns=0) if path in IMPLIED | DISTURBED else it for path, it in names.items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_tree_is_what_umoci_unpacks(
    form: str, layers: list[bytes], unpacked: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """Names, types, modes, owners, times, link groups and counts, targets, devices, attributes and every byte."""
    with registry_with(tmp_path, "team/app:1", [FORMS[form](one) for one in layers]) as (registry, _):
        mount = mounts(registry.image("team/app:1"))
        found = on_mount(trees.described, mount.path("rootfs"))
        wanted = on_mount(trees.described, str(unpacked))
        assert without_times(found) == without_times(wanted)
        # diff calls two devices unlike unless they are one: those were compared above.
        run(["diff", "-r", "--no-dereference", "-x", "dev", "-x", "empty", unpacked, mount.path("rootfs")])
        assert mount.status()["problems"] == 0


@pytest.fixture(scope="module")
def shell_layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar with a shell, and much that a shell does not need."""
    tree = shell_tree(tmp_path_factory.mktemp("shell") / "tree")
    dice = random.Random(5)
    (tree / "usr" / "share").mkdir(parents=True)
    for number in range(40):
        (tree / "usr" / "share" / f"large{number}").write_bytes(dice.randbytes(MIB))
    return tar(tree)


@pytest.fixture
def shell(shell_layer: bytes, mounts: Mounts, tmp_path: Path) -> Iterator[tuple[Registry, Layer, Mount]]:
    """A mount of an eStargz image of that."""
    packed = estargz(shell_layer, 4 * MIB)
    with registry_with(tmp_path, "team/shell:1", [packed]) as (registry, _):
        yield registry, packed, mounts(registry.image("team/shell:1"))


def test_what_looks_at_names_fetches_no_layer(shell: tuple[Registry, Layer, Mount]) -> None:
    """Listing all names with their attributes costs the table of contents, once; what is above it costs nothing."""
    _, packed, mount = shell
    run(["sh", "-c", f"ls -lR {mount.path('blobs')} && cat {mount.path('manifest.json')} {mount.path('config.json')}"])
    assert mount.counters()["origin_bytes"] < 10_000
    on_mount(under.tree, mount.path("rootfs"))
    run(["ls", "-lR", mount.path("rootfs")])
    assert mount.counters()["origin_bytes"] < 0.05 * len(packed.content)


def test_a_container_starts_with_a_twentieth_of_its_image(shell: tuple[Registry, Layer, Mount], tmp_path: Path) -> None:
    """Cold: from `rootfs/` as the lower layer of an overlay, which it may write."""
    _, packed, mount = shell
    with overlay(Path(mount.path("rootfs")), tmp_path, tmp_path / "root") as root:
        done = run_container(root, tmp_path, "/bin/sh", "-c", "echo hello > /tmp/file; cat /tmp/file; id -u; ls /usr")
        assert (done.returncode, done.stdout) == (0, "hello\n0\nshare\n"), done.stderr
    assert mount.counters()["origin_bytes"] <= 0.05 * len(packed.content)


def test_it_goes_on_in_the_next_daemon(shell: tuple[Registry, Layer, Mount]) -> None:
    """Names and numbers stay, and so does what is open and half read."""
    _, _, mount = shell
    before = on_mount(under.tree, mount.path("rootfs"))
    path = mount.path("rootfs/usr/share/large7")
    wanted = on_mount(under.sha256, path)
    reading = start(under.hold_and_read, path)
    reading.wait_until_open()
    os.kill(mount.pid, signal.SIGKILL)
    wait_for_end([mount.pid])
    reading.go()
    assert hashlib.sha256(reading.result()).hexdigest() == wanted
    assert on_mount(under.tree, mount.path("rootfs")) == before
    on_mount(under.sha256, mount.path("rootfs/usr/share/large8"))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_there_again_without_the_registry(form: str, layers: list[bytes], mounts: Mounts, tmp_path: Path) -> None:
    """All names are, and what was read; the rest fails, and says so."""
    with registry_with(tmp_path, "team/app:1", [FORMS[form](one) for one in layers]) as (registry, _):
        source = registry.image("team/app:1")
        first = mounts(source)
        before = on_mount(trees.described, first.path("rootfs"))
        first.umount()
    again = mounts(source, options=["--offline"])
    assert on_mount(trees.described, again.path("rootfs")) == before


def test_a_tag_that_moves_brings_another_tree(mounts: Mounts, tmp_path: Path) -> None:
    """And what both images have in common stays as it is, in the kernel, too."""
    with Registry(tmp_path / "registry") as registry:
        for number in range(3):
            tree = tmp_path / f"tree{number}"
            (tree / "etc").mkdir(parents=True)
            (tree / "etc" / "version").write_text(f"{number}\n")
            (tree / f"only{number}").write_text("here")
        common = layer(tmp_path / "tree0")
        registry.push(make_image(tmp_path / "one", [common, layer(tmp_path / "tree1", "zstd")]), "team/app:1")
        mount = mounts(registry.image("team/app:1"), options=["--revalidate", "0"])
        before = on_mount(under.look, mount.path("rootfs"))["only0"]
        number = on_mount(os.lstat, mount.path("rootfs/only0")).st_ino
        assert run(["cat", mount.path("rootfs/etc/version")]).stdout == "1\n"
        registry.push(make_image(tmp_path / "two", [common, layer(tmp_path / "tree2", "none")]), "team/app:1")
        on_mount(under.opened_until, mount.path("rootfs/etc/version"), hashlib.sha256(b"2\n").hexdigest(), 20.0)
        assert on_mount(under.names, mount.path("rootfs")) == ["etc", "only0", "only2"]
        assert on_mount(under.look, mount.path("rootfs"))["only0"] == before
        assert on_mount(os.lstat, mount.path("rootfs/only0")).st_ino == number


def damage(registry: Registry, layer: Layer, place: int) -> None:
    """Flip a byte of a layer where the registry has it on its disk."""
    digest = layer.digest.removeprefix("sha256:")
    (path,) = (registry.directory / "data").glob(f"**/blobs/sha256/{digest[:2]}/{digest}/data")
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0x40]))


def few_files(directory: Path) -> bytes:
    """Make a tar of ten files, each in pieces of its own."""
    directory.mkdir()
    for number in range(10):
        (directory / f"file{number}").write_bytes(random.Random(number).randbytes(20_000 + number))
    return tar(directory)


@pytest.mark.parametrize("form", ["estargz", "zstd_chunked"])
def test_a_damaged_piece_fails_its_file_and_nothing_else(form: str, mounts: Mounts, tmp_path: Path) -> None:
    """Its log names the layer."""
    packed = FORMS[form](few_files(tmp_path / "few"))
    with registry_with(tmp_path, "team/app:1", [packed]) as (registry, _):
        written = writing.Written(packed.content, dict(packed.annotations))
        members = reading.estargz_members(written) if form == "estargz" else reading.zstd_chunked_members(written)
        (file,) = (member for member in members if member.path == "file4")
        damage(registry, packed, file.pieces[2].at + 30)
        mount = mounts(registry.image("team/app:1"))
        for number in range(10):
            name = f"file{number}"
            found = on_mount(under.pass_through, mount.path(f"rootfs/{name}"))
            if number == 4:
                assert (found.error, found.size) == (errno.EIO, 2 * 4096)
            else:
                assert (found.error, found.digest) == (0, under.sha256(str(tmp_path / "few" / name)))
        log = mount.log()
        assert f"layer {packed.digest}, at byte {file.pieces[2].at}" in log
        assert len(log.splitlines()) < 10


@pytest.mark.parametrize("form", ["estargz", "zstd_chunked", "gzip", "zstd"])
def test_a_damaged_table_or_stream_fails_its_tree_and_nothing_else(form: str, mounts: Mounts, tmp_path: Path) -> None:
    """The image's documents are there, and other images; `status` says why this one is not, in one line."""
    packed, sound = FORMS[form](few_files(tmp_path / "few")), layer(few_files(tmp_path / "more"))
    made = [make_image(tmp_path / name, [one]) for name, one in (("bad", packed), ("good", sound))]
    with Registry(tmp_path / "registry") as registry:
        for name, image in zip(("bad", "good"), made, strict=True):
            registry.push(image, f"team/{name}:1")
        place = len(packed.content) // 2
        if form == "estargz":
            place = estargz_table(packed)[0] + 40
        elif form == "zstd_chunked":
            place = int(packed.annotations[zstdchunked.POSITION].split(":")[0]) + 40
        damage(registry, packed, place)
        mount = mounts(*(f"{name}={registry.image(f'team/{name}:1')}" for name in ("bad", "good")))
        assert on_mount(under.errno_of_listing, mount.path("bad/rootfs")) == errno.EIO
        assert len(on_mount(under.names, mount.path("good/rootfs"))) == 10
        assert on_mount(under.read, mount.path("bad/manifest.json")) == made[0].manifest
        (reason,) = mount.status()["reasons"].items()
        assert reason[0] == "bad/rootfs/"
        assert packed.digest in reason[1] or "digest" in reason[1]
        assert "\n" not in reason[1]


def estargz_table(packed: Layer) -> tuple[int, int]:
    """Return where an eStargz layer has its table."""
    found = tables.toc_extent(packed.content[-tables.FOOTER :], len(packed.content))
    assert found is not None
    return found


@pytest.mark.parametrize("form", ["gzip", "zstd", "estargz"])
def test_what_is_kept_of_a_layer_may_rot(form: str, mounts: Mounts, tmp_path: Path) -> None:
    """It is read once more from the layer."""
    packed = FORMS[form](few_files(tmp_path / "few"))
    with registry_with(tmp_path, "team/app:1", [packed]) as (registry, _):
        source = registry.image("team/app:1")
        first = mounts(source)
        before = on_mount(trees.described, first.path("rootfs"))
        first.umount()
        with contextlib.closing(sqlite3.connect(first.store / "catalogue.db")) as catalogue, catalogue:
            rows = catalogue.execute("SELECT url_key, body FROM listings WHERE url LIKE 'layer://%'").fetchall()
            for key, body in rows:
                rotten = body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
                catalogue.execute("UPDATE listings SET body = ? WHERE url_key = ?", (rotten, key))
        assert len(rows) == (1 if form == "estargz" else 2)
        run(["find", first.store / "blobs", "-name", "data", "-size", "+100k", "-execdir", "rm", "map", ";"])
        again = mounts(source)
        assert on_mount(trees.described, again.path("rootfs")) == before


@pytest.mark.parametrize("form", FORMS)
def test_eight_daemons_fetch_each_byte_once(form: str, mounts: Mounts, tmp_path: Path) -> None:
    """All read all of an image at once, on one store."""
    packed = [FORMS[form](few_files(tmp_path / f"few{number}")) for number in range(2)]
    with registry_with(tmp_path, "team/app:1", packed) as (registry, _), registry.fronted(tmp_path / "nginx") as nginx:
        source = f"oci://127.0.0.1:{nginx.port}/team/app:1"
        made = [mounts(source) for _ in range(8)]
        nginx.forget()
        readers = [start(trees.described, mount.path("rootfs")) for mount in made]
        found = [reader.result() for reader in readers]
        assert all(one == found[0] for one in found)
        assert len(found[0]) == 11
        fetched = sum(request.body_bytes for request in nginx.requests() if "/blobs/" in request.uri)
        assert fetched <= sum(len(one.content) for one in packed)


def test_fetch_reads_a_file_of_an_image_through(shell: tuple[Registry, Layer, Mount]) -> None:
    """Then it is there without the registry."""
    registry, packed, mount = shell
    done = lazyfs("fetch", mount.path("rootfs/usr/share/large3"))
    assert done.returncode == 0, done.stderr
    fetched = mount.counters()["origin_bytes"]
    assert MIB <= fetched < len(packed.content) // 4
    registry.__exit__(None, None, None)
    assert len(on_mount(under.read, mount.path("rootfs/usr/share/large3"))) == MIB
