"""Unpacking layers that are compressed as a whole: what the one pass finds out, and the pieces after it."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.errors import LayerError
from lazyfs.extents import Extent
from lazyfs.layers.members import Packing
from lazyfs.rootfs import unpacking
from lazyfs.rootfs.unpacking import Stream, first_pass, packing_of, unpacked

MIB = 1024 * 1024


class File(io.BytesIO):
    """A layer, which says how far it was read, and may fail."""

    def __init__(self, content: bytes, fails: BaseException | None = None) -> None:
        super().__init__(content)
        self.failure: BaseException | None = None
        self.came = 0
        self._fails = fails

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on."""
        if self._fails is not None:
            self.failure = self._fails
            raise self._fails
        content = super().read(size)
        self.came += len(content)
        return content


def content_of(size: int) -> bytes:
    """Return bytes that compress, but not to nothing."""
    return b"".join(random.Random(n).randbytes(4096) * 4 for n in range(-(-size // 16384)))[:size]


CONTENT = content_of(20 * MIB + 12345)


def gzipped(content: bytes) -> bytes:
    """Compress in one member."""
    return gzip.compress(content, 1)


def gzipped_in_members(content: bytes) -> bytes:
    """Compress in members of 3 MiB."""
    return b"".join(gzip.compress(content[at : at + 3 * MIB], 1) for at in range(0, len(content), 3 * MIB))


def zstd_in_frames(content: bytes) -> bytes:
    """Compress in frames of 3 MiB, with one between them that is skipped."""
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"none"
    return b"".join(zstd.compress(content[at : at + 3 * MIB], 1) + skipped for at in range(0, len(content), 3 * MIB))


def zstd_in_one(content: bytes) -> bytes:
    """Compress in one frame."""
    return zstd.compress(content, 1)


FORMS: list[Callable[[bytes], bytes]] = [gzipped, gzipped_in_members, zstd_in_frames, zstd_in_one]


def passed(packed: bytes) -> Stream:
    """Make the first pass, of which something is read and the rest is not."""
    file = first_pass(File(packed), len(packed), packing_of(packed), "layer")
    assert file.read(1000) == CONTENT[:1000]
    return file.finish()


@pytest.mark.parametrize("form", FORMS)
def test_what_the_pass_found_out_leads_to_any_piece_of_it(form: Callable[[bytes], bytes]) -> None:
    """Also when it was kept, and read again."""
    packed = form(CONTENT)
    stream = Stream.unpack(passed(packed).pack())
    assert stream is not None
    assert stream.size == len(CONTENT)
    for start, stop in ((0, 1), (5 * MIB - 1, 7 * MIB + 5), (len(CONTENT) - 3, len(CONTENT)), (0, len(CONTENT))):
        pieces = list(unpacked(File(packed), stream, Extent(start, stop), "layer"))
        assert [at for at, _ in pieces] == list(range(start, stop, unpacking.PIECE))
        assert b"".join(piece for _, piece in pieces) == CONTENT[start:stop]


@pytest.mark.parametrize(("form", "few"), [(gzipped, True), (zstd_in_frames, True), (zstd_in_one, False)])
def test_a_piece_takes_few_of_the_packed_bytes_where_that_is_possible(
    form: Callable[[bytes], bytes], few: bool
) -> None:
    """That is what `seekable` would have said of a larger one."""
    packed = form(CONTENT)
    file = File(packed)
    list(unpacked(file, passed(packed), Extent(16 * MIB, 16 * MIB + 10), "layer"))
    assert (file.came < len(packed) // 2) is few


def test_a_stream_without_points_to_go_on_from_is_not_seekable() -> None:
    """One zstd frame that is larger than what may be unpacked in vain."""
    large = bytes(unpacking.FAR + 1)
    for packed, seekable in ((zstd.compress(large), False), (gzip.compress(large, 1), True)):
        file = first_pass(File(packed), len(packed), packing_of(packed), "layer")
        stream = file.finish()
        assert stream.seekable is seekable
        assert stream.light.seekable is seekable


def test_the_index_of_a_large_layer_stays_small() -> None:
    """32 KiB for each point, of which there are no more than one in 4 MiB."""
    assert len(passed(gzipped(CONTENT)).index) < 7 * 33 * 1024
    assert passed(gzipped(CONTENT)).light.index == b""


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_is_cut_short_is_damaged(form: Callable[[bytes], bytes]) -> None:
    """At the first pass, or, for gzip whose end nobody misses, when a piece that lacks is read."""
    packed = form(CONTENT)
    stream = passed(packed)
    with pytest.raises(LayerError, match="layer"):
        list(unpacked(File(packed[: len(packed) // 2]), stream, Extent(0, len(CONTENT)), "layer"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", [OSError("the origin fails"), KeyboardInterrupt()])
def test_what_the_file_raises_goes_through(form: Callable[[bytes], bytes], failure: BaseException) -> None:
    """A library in between may hide it."""
    packed = form(CONTENT)
    stream = passed(packed)
    with pytest.raises(type(failure)):
        list(unpacked(File(packed, failure), stream, Extent(0, 1), "layer"))
    with pytest.raises(type(failure)):
        first_pass(File(packed, failure), len(packed), stream.packing, "layer").read(1)


@pytest.mark.parametrize("form", [gzipped, zstd_in_one])
def test_a_layer_that_unpacks_to_far_too_much_is_refused(
    form: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, wherever that is: nothing has to be written out for it."""
    monkeypatch.setattr(unpacking, "MOST", MIB)
    bomb = form(bytes(64 * MIB))
    assert len(bomb) * unpacking.TIMES < 60 * MIB
    file = first_pass(File(bomb), len(bomb), packing_of(bomb), "layer")
    with pytest.raises(LayerError, match="unpacks to more than"):
        file.finish()


SMALL = {form: form(content_of(MIB)) for form in FORMS}
SMALL_STREAMS = {form: first_pass(File(it), len(it), packing_of(it), "layer").finish() for form, it in SMALL.items()}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(FORMS), st.integers(0, 10**9), st.integers(1, 255), st.booleans())
def test_a_damaged_layer_is_refused_or_does_not_matter(
    form: Callable[[bytes], bytes], place: int, flip: int, kept: bool
) -> None:
    """No other error, and nothing that goes on for ever."""
    damaged = bytearray(SMALL[form])
    damaged[place % len(damaged)] ^= flip
    stream = SMALL_STREAMS[form]
    try:
        if kept:
            list(unpacked(File(bytes(damaged)), stream, Extent(0, stream.size), "layer"))
        else:
            file = first_pass(File(bytes(damaged)), len(damaged), stream.packing, "layer")
            while file.read(MIB):
                pass
            file.finish()
    except LayerError:
        pass


@settings(deadline=None)
@given(st.binary())
def test_what_was_kept_by_another_version_is_of_no_use(kept: bytes) -> None:
    """It is made again."""
    assert Stream.unpack(kept) is None
    assert Stream.unpack(b'[0, "gzip", 5]\n' + zlib.compress(b"")) is None
    assert Stream.unpack(b'[1, "bzip", 5]\n' + zlib.compress(b"")) is None


def test_the_first_bytes_say_how_a_layer_is_packed() -> None:
    """Whatever its manifest calls it."""
    assert packing_of(gzip.compress(b"")[:4]) is Packing.GZIP
    assert packing_of(zstd.compress(b"")[:4]) is Packing.ZSTD
    assert packing_of(b"\x5f\x2a\x4d\x18") is Packing.ZSTD
    assert packing_of(b"etc/") is packing_of(b"") is Packing.PLAIN
