"""Small layers with one of everything, to be damaged."""

from __future__ import annotations

import io
import random
import tarfile

from tests.layers import writing

MEMBERS: list[tuple[str, writing.Entry]] = [
    ("./", {"type": "dir", "mode": 0o755}),
    ("bin/", {"type": "dir", "mode": 0o2755}),
    ("bin/tool", {"mode": 0o4755, "mtime": 1.5, "pax_headers": {"SCHILY.xattr.user.x": "\udcff\0"}}),
    ("bin/again", {"type": "hardlink", "linkname": "bin/tool"}),
    ("dev/null", {"type": "char", "devmajor": 1, "devminor": 3}),
    ("dev/disk", {"type": "block", "devmajor": 8}),
    ("pipe", {"type": "fifo"}),
    ("lib", {"type": "symlink", "linkname": "usr/lib"}),
    ("lib/through", {}),
    ("loop", {"type": "symlink", "linkname": "loop/x"}),
    ("up", {"type": "symlink", "linkname": "../../../etc"}),
    ("up/file", {"uid": 1 << 22}),
    ("d" * 90 + "/" + "e" * 90, {}),
    ("caf\udce9", {"pax_headers": {"LIBARCHIVE.xattr.user.y": "AAEC", "mtime": "17.000000001"}}),
    ("dir/.wh.gone", {}),
    ("dir/.wh..wh..opq", {}),
    ("large", {}),
]
CONTENTS = {"bin/tool": b"#!/bin/sh\n" * 30, "lib/through": b"x", "large": bytes(3000) + b"end" * 400, "up/file": b"y"}

LOWER: list[tuple[str, writing.Entry]] = [
    ("usr/lib/", {"type": "dir"}),
    ("usr/lib/low", {}),
    ("dir/gone", {}),
    ("dir/kept/x", {}),
    ("bin", {"type": "symlink", "linkname": "usr"}),
]


def tars() -> list[bytes]:
    """Return tars in PAX and in GNU's format, and sparse ones of each kind."""
    pax = writing.tar(MEMBERS, CONTENTS)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("n" * 150 + "/" + "m" * 120, "plain"):
            info = tarfile.TarInfo(name)
            info.size, info.uid = 700, 1 << 30
            archive.addfile(info, io.BytesIO(b"z" * 700))
        link = tarfile.TarInfo("long")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 300
        archive.addfile(link)
    return [pax, out.getvalue(), *map(sparse, ("old", "0.0", "0.1", "1.0"))]


SPARSE = b"first" + bytes(4091) + b"second" + bytes(900)
_RUNS = [(0, 5), (4096, 6), (len(SPARSE), 0)]


def sparse(form: str) -> bytes:
    """Return a tar with the file `sparse`, which is `SPARSE`, in one of GNU tar's forms."""
    stored = b"".join(SPARSE[at : at + length] for at, length in _RUNS)
    info = tarfile.TarInfo("sparse")
    info.size = len(stored)
    front = b""
    if form == "old":
        info.type = tarfile.GNUTYPE_SPARSE
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        for n, (at, length) in enumerate(_RUNS):
            header[386 + 24 * n : 410 + 24 * n] = b"%011o\0%011o\0" % (at, length)
        header[483:495] = b"%011o\0" % len(SPARSE)
        return sealed(bytes(header)) + stored + bytes(-len(stored) % 512 + 1024)
    flat = [number for run in _RUNS for number in run]
    info.pax_headers = {
        "GNU.sparse.major": form[0],
        "GNU.sparse.minor": form[2],
        "GNU.sparse.realsize": str(len(SPARSE)),
    }
    records = b""
    if form == "0.0":
        info.pax_headers = {"GNU.sparse.size": str(len(SPARSE)), "GNU.sparse.numblocks": "3"}
        for at, length in _RUNS:
            records += _record("GNU.sparse.offset", at) + _record("GNU.sparse.numbytes", length)
    elif form == "0.1":
        info.pax_headers = {"GNU.sparse.size": str(len(SPARSE)), "GNU.sparse.map": ",".join(map(str, flat))}
    else:
        front = "".join(f"{number}\n" for number in [len(_RUNS), *flat]).encode()
        front += bytes(-len(front) % 512)
        info.size += len(front)
        info.pax_headers |= {"GNU.sparse.name": "sparse", "GNU.sparse.realsize": str(len(SPARSE))}
        info.name = "GNUSparseFile.0/sparse"
    records = b"".join(_record(key, value) for key, value in info.pax_headers.items()) + records
    info.pax_headers = {}
    extended = tarfile.TarInfo("PaxHeaders/sparse")
    extended.type, extended.size = tarfile.XHDTYPE, len(records)
    whole = extended.tobuf() + records + bytes(-len(records) % 512) + info.tobuf() + front + stored
    return whole + bytes(-len(whole) % 512 + 1024)


def _record(key: str, value: object) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while len(f"{length}") + len(rest) != length:
        length = len(f"{length}") + len(rest)
    return f"{length}".encode() + rest


def sealed(header: bytes) -> bytes:
    """Return a header block with the checksum that it should have."""
    return header[:148] + b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32) + header[156:]


_KINDS = (*["reg"] * 3, *["dir"] * 3, *["out"] * 2, "fifo", "symlink", "hardlink", "opaque")


def image(dice: random.Random) -> list[bytes]:
    """Return random layers whose few names meet: over each other, through links, as whiteouts."""
    known: list[str] = []
    return [_layer(dice, known) for _ in range(dice.choice((1, 2, 3, 3)))]


def _layer(dice: random.Random, known: list[str]) -> bytes:
    members: list[tuple[str, writing.Entry]] = []
    contents = {}
    for _ in range(dice.choice((1, 3, 6, 10))):
        path = "/".join(dice.choice("abs") for _ in range(dice.choice((1, 1, 2, 3))))
        parent, slash, name = path.rpartition("/")
        attributes: writing.Entry = {"uid": dice.randrange(1000), "mtime": dice.randrange(1000), "mode": 0o4711}
        kind = dice.choice(
            ("reg", "reg", "reg", "dir", "dir", "dir", "dir", "fifo", "symlink", "hardlink", "out", "out", "opaque")
        )
        if kind == "reg":
            known.append(path)
            contents[path] = b"x" * dice.randrange(1000)
        elif kind == "hardlink":
            attributes["linkname"] = dice.choice(known or ["nothing"])
        elif kind == "symlink":
            path = f"{parent}{slash}s"
            attributes["linkname"] = dice.choice(("", "/", "../", "./")) + dice.choice(("a", "b", "a/b", "s"))
        elif kind == "out":
            path = f"{parent}{slash}.wh.{name}"
        elif kind == "opaque":
            path += "/.wh..wh..opq"
        members.append((path, attributes if kind in ("out", "opaque") else attributes | {"type": kind}))
    return writing.tar(members, contents)
