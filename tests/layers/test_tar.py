"""Members of tars: as they were written, wherever other tools may write them so, and refused in one line else."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.errors import LayerError
from lazyfs.layers import tar
from lazyfs.layers.members import Member, Packing, Piece, Type
from tests.layers import samples, writing


def read(layer: bytes, **options: Any) -> list[Member]:
    return list(tar.members(io.BytesIO(layer), **options))


def refusal(layer: bytes, **options: Any) -> str:
    with pytest.raises(LayerError) as caught:
        read(layer, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def one(name: str, content: bytes = b"", **attributes: Any) -> Member:
    [found] = read(writing.tar([(name, attributes)], {name: content}))
    return found


def content(layer: bytes, member: Member) -> bytes:
    zeros = Packing.ZEROS
    return b"".join(
        bytes(piece.length) if piece.packing is zeros else layer[piece.at : piece.at + piece.stored]
        for piece in member.pieces
    )


class OnlyRead(io.RawIOBase):
    """A stream that cannot seek, and gives less than is asked for."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, length: int = -1, /) -> bytes:
        return self._file.read(min(length, 100))


class Counted(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    count = 0

    def read(self, length: int | None = -1, /) -> bytes:
        found = super().read(length)
        self.count += len(found)
        return found


def test_a_member_as_it_was_written() -> None:
    layer = writing.tar(
        [("bin/tool", {"mode": 0o4755, "uid": 1000, "gid": 1 << 31, "mtime": 7})], {"bin/tool": b"x" * 700}
    )
    at = layer.index(b"x" * 700)
    assert read(layer) == [
        Member("bin/tool", Type.FILE, 0o4755, 1000, 1 << 31, 7 * 10**9, 700, pieces=(Piece(0, 700, at, 700),))
    ]


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("./a", "a"),
        ("a//b/.", "a/b"),
        ("./", ""),
        ("/", ""),
        (".", ""),
        ("a/", "a"),
        ("...", "..."),
        ("a\udcff", "a\udcff"),
    ],
)
def test_paths(written: str, path: str) -> None:
    assert one(written, type="dir").path == path


@pytest.mark.parametrize("name", ["..", "../a", "a/../b", "a/..", "/etc", "//a", "a" * 256, "a/" * 2049, "é" * 128])
def test_names_that_lead_out_or_are_too_long_are_refused(name: str) -> None:
    message = refusal(writing.tar([(name, {})]))
    assert message.startswith("tar, at byte 0: ")
    assert repr(name)[:20] in message


def test_hard_links_lead_to_a_path_in_the_layer_and_symbolic_ones_anywhere() -> None:
    assert one("a", type="hardlink", linkname="./b//c").target == "b/c"
    assert one("a", type="hardlink", linkname="/b").target == "b"
    assert one("a", type="symlink", linkname="/../..//x").target == "/../..//x"
    for target in ("../b", "/", ""):
        refusal(writing.tar([("a", {"type": "hardlink", "linkname": target})]))
    refusal(writing.tar([("a", {"type": "symlink", "linkname": ""})]))
    refusal(writing.tar([("a", {"type": "symlink", "linkname": "x" * 4096})]))


def test_devices() -> None:
    assert one("a", type="char", devmajor=1, devminor=3).device == (1, 3)
    assert one("a", type="block", devmajor=4095).type is Type.BLOCK
    assert one("a", type="fifo").type is Type.FIFO
    assert "major" in refusal(writing.tar([("a", {"type": "char", "devmajor": 4096})]))


@given(st.integers(-(2**63), 2**63 - 1))
def test_times_are_exact(ns: int) -> None:
    seconds, rest = divmod(abs(ns), 10**9)
    text = f"{'-' if ns < 0 else ''}{seconds}.{rest:09d}"
    assert one("a", pax_headers={"mtime": text}).mtime_ns == ns


@pytest.mark.parametrize("text", ["", "x", "1e3", "1.x", "--1", "1" * 12, "nan", " 1", "1,5"])
def test_times_that_are_none(text: str) -> None:
    layer = writing.tar([("a", {"pax_headers": {"mtime": text}, "mtime": 3})])
    assert read(layer)[0].mtime_ns == 3 * 10**9 if not text else "time" in refusal(layer)


@given(st.dictionaries(st.text("abcü.", min_size=1, max_size=20), st.binary(max_size=300), max_size=5))
def test_attributes_are_any_bytes(xattrs: dict[str, bytes]) -> None:
    headers = {f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in xattrs.items()}
    assert dict(one("a", pax_headers=headers).xattrs) == xattrs


def test_attributes_as_libarchive_writes_them() -> None:
    headers = {"LIBARCHIVE.xattr.user.a%3Db": "AP8", "LIBARCHIVE.xattr.user.c": "AA==", "SCHILY.xattr.user.c": "right"}
    assert one("a", pax_headers=headers).xattrs == (("user.a=b", b"\0\xff"), ("user.c", b"right"))
    assert "base64" in refusal(writing.tar([("a", {"pax_headers": {"LIBARCHIVE.xattr.user.a": "A"}})]))


def test_attributes_that_no_kernel_takes() -> None:
    assert one("a", pax_headers={"SCHILY.xattr.user.x": "v" * 65536}).xattrs[0][1] == b"v" * 65536
    assert "65537" in refusal(writing.tar([("a", {"pax_headers": {"SCHILY.xattr.user.x": "v" * 65537}})]))
    refusal(writing.tar([("a", {"pax_headers": {"SCHILY.xattr." + "n" * 256: "v"}})]))


@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files(form: str) -> None:
    layer = samples.sparse(form)
    [member] = read(layer)
    assert (member.path, member.size) == ("sparse", len(samples.SPARSE))
    assert content(layer, member) == samples.SPARSE
    assert [piece.packing is Packing.ZEROS for piece in member.pieces] == [False, True, False, True]


def test_names_in_the_manner_of_gnu() -> None:
    long_name, long_target, odd = "n" * 150 + "/" + "m" * 120, "t" * 300, tarfile.TarInfo("short")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (long_name, "s"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, long_target
            archive.addfile(info)
        header = bytearray(odd.tobuf(tarfile.GNU_FORMAT))
        header[345:369] = b"14720465632\x0014720465632\0"  # two times, where POSIX has the prefix
        archive.fileobj.write(samples.sealed(bytes(header)))
    found = read(out.getvalue())
    assert [(m.path, m.target) for m in found] == [(long_name, long_target), ("s", long_target), ("short", "")]


def test_a_prefix() -> None:
    info = tarfile.TarInfo("p" * 90 + "/" + "n" * 90)
    assert read(info.tobuf(tarfile.USTAR_FORMAT))[0].path == info.name


def test_global_headers_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"mtime": "5", "path": "elsewhere"}) as archive:
        archive.addfile(tarfile.TarInfo("here"))
    assert [(member.path, member.mtime_ns) for member in read(out.getvalue())] == [("here", 0)]


def test_what_has_no_content_by_its_type_has_none() -> None:
    header = bytearray(tarfile.TarInfo("link").tobuf())
    header[156:157], header[157:162], header[124:135] = b"1", b"other", b"00000001000"
    after = tarfile.TarInfo("after").tobuf()
    assert [member.path for member in read(samples.sealed(bytes(header)) + after)] == ["link", "after"]


def test_content_is_not_read_where_that_can_be_helped() -> None:
    file = Counted(writing.tar([("a", {}), ("b", {})], {"a": b"x" * 10_000_000, "b": b"y" * 100}))
    assert [member.size for member in tar.members(file)] == [10_000_000, 100]
    assert file.count <= 3 * 512


@pytest.mark.parametrize("layer", samples.tars())
def test_a_stream_that_cannot_seek_gives_the_same(layer: bytes) -> None:
    assert list(tar.members(OnlyRead(layer))) == read(layer)


@pytest.mark.parametrize("layer", samples.tars())
def test_a_tar_that_is_cut_short(layer: bytes) -> None:
    """Cut at the start of a header it is whole, as far as anybody can tell; anywhere else it is not."""
    whole = read(layer)
    for end in range(0, len(layer) - 1024, 256):
        try:
            found = read(layer[:end])
        except LayerError:
            with pytest.raises(LayerError):
                list(tar.members(OnlyRead(layer[:end])))
        else:
            assert found == whole[: len(found)]
            assert list(tar.members(OnlyRead(layer[:end]))) == found


def test_damage_in_the_middle_is_not_the_end() -> None:
    layer = bytearray(writing.tar([("a", {}), ("b", {}), ("c", {})]))
    layer[512] ^= 1
    assert refusal(bytes(layer)).startswith("tar, at byte 512: no header of a tar")


def test_bounds() -> None:
    layer = writing.tar([(str(n), {}) for n in range(10)])
    assert len(read(layer, most=10)) == 10
    assert "more than 9 members" in refusal(layer, most=9)
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[156:157] = b"V"
    assert "unknown type b'V'" in refusal(samples.sealed(bytes(header)))


def test_sizes_that_leave_the_stream() -> None:
    layer = bytearray(tarfile.TarInfo("a").tobuf())
    for size in (b"00000000001", b"77777777777", b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, b"\xff" * 12):
        layer[124 : 124 + len(size)] = size
        refusal(samples.sealed(bytes(layer)))
        with pytest.raises(LayerError):
            list(tar.members(OnlyRead(samples.sealed(bytes(layer)))))


def extended(kind: bytes, records: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(records)
    return info.tobuf() + records + bytes(-len(records) % 512)


def test_extended_headers_that_hurt() -> None:
    """Each of these took tarfile minutes, all memory, or its stack."""
    last = tarfile.TarInfo("a").tobuf()
    digits = b"1" * 500_000
    read(extended(b"x", b"%d SCHILY.x=%s\n" % (len(digits) + 17, digits)) + last)
    for layer in (
        extended(b"x", digits),
        extended(b"x", b"5 " * 400_000 + b"a=b\n"),
        extended(b"x", b"9 a=b\n"),
        extended(b"x", b"5 ab\n"),
        extended(b"x", b"6 a=b\n"[:5]),
        extended(b"L", b"x\0") * 5000 + last,
        extended(b"x", b"") + bytes(1024),
        extended(b"g", bytes(2 << 20)) + last,
    ):
        refusal(layer)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_anything_else_is_no_tar(content: bytes) -> None:
    try:
        found = read(content)
    except LayerError:
        return
    assert found == []
