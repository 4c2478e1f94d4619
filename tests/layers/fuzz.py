"""`tools/fuzz-layers`: damaged tars, tables of contents, footers and packed members, and what is made of them.

Damage is random or knows the format: checksums are made right again, numbers and texts become such as hurt. Whatever
comes of it must be members, or a LayerError of one line; it must come soon, with little memory, and no name of the tree
that is merged of them may lead out of it. Prints what was wrong and a tally; ends with 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import xxhash

from lazyfs.errors import LayerError
from lazyfs.layers import estargz, expanding, packed, tar, toc, zstdchunked
from lazyfs.layers.members import Member, Packing
from lazyfs.layers.merge import Directory, merge, walk
from tests.layers import samples, writing
from tests.layers.reading import from_estargz, from_tar, from_zstd_chunked

PATIENCE = 10
"""Seconds of processor time for one case."""
MEMORY = 768 * 1024 * 1024
"""Bytes of address space that all of it may take on top of what it starts with."""

Mutation = Callable[[random.Random, bytes], bytes]
Reading = Callable[[bytes], list[Member]]

_NUMBERS = (0, 1, -1, 255, 4095, 2**31, 2**32 - 1, 2**33, 2**63 - 1, 2**63, 2**64, 10**30)
_TEXTS = ("", ".", "..", "/", "../x", "/etc/passwd", "a/../../b", "a//b/./c", "\0", "a\0b", "\ud800", "\udcff",
          "x" * 300, "a/" * 3000, "lib", ".wh.", ".wh..", ".wh...", ".wh..wh..opq", "bin", "loop/y")  # fmt: skip


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="tools/fuzz-layers", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10_000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="the kinds whose names have this in them")
    options = parser.parse_args()
    kinds = {name: kind for name, kind in _kinds().items() if options.only in name}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGPROF, _too_long)
    wrong = 0
    for name, (seeds, mutation, reading) in kinds.items():
        tally: Counter[str] = Counter()
        longest = 0.0
        for number in range(options.seed, options.seed + options.rounds):
            dice = random.Random(f"{name} {number}")
            began = time.process_time()
            try:
                tally[_outcome(mutation(dice, dice.choice(seeds)), reading)] += 1
            except Exception:
                wrong += 1
                print(f"WRONG: {name}, --seed {number} --rounds 1:\n{traceback.format_exc()}", flush=True)
            longest = max(longest, time.process_time() - began)
        print(
            f"{name}: " + ", ".join(f"{n} {what}" for what, n in sorted(tally.items())) + f"; {longest:.2f} s at most"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{'WRONG' if wrong else 'ok'}: {wrong} wrong, {peak} MiB at most")
    sys.exit(1 if wrong else 0)


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"it has not ended within {PATIENCE} s")


def _outcome(damaged: bytes, reading: Reading) -> str:
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        members = reading(damaged)
        _check(merge([LOWER, members]))
        _check(merge([members, LOWER]))
    except LayerError as exc:
        if not str(exc).isprintable() or len(str(exc)) > 1000:
            raise AssertionError("the error is not one line") from exc
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "taken"


LOWER, _ = from_tar(writing.tar(samples.LOWER))


def _check(root: Directory) -> None:
    """Fail on a name that leads out, or that no directory could have."""
    for path, node in walk(root):
        if isinstance(node, Directory):
            for name in node.children:
                raw = name.encode("utf-8", "surrogateescape")
                assert raw not in (b"", b".", b".."), (path, name)
                assert not {b"/", b"\0"} & {raw[at : at + 1] for at in range(len(raw))}, (path, name)
                assert len(raw) <= 255, (path, name)
        assert sum(piece.length for piece in node.member.pieces) == node.member.size


def _kinds() -> dict[str, tuple[list[bytes], Mutation, Reading]]:
    tars = samples.tars()
    tables = [writing.estargz(tars[0], chunk=512), writing.zstd_chunked(tars[0], chunk=512)]
    forms = (from_tar(tars[0])[0], from_estargz(tars[0])[0], from_zstd_chunked(tars[0])[0])
    return {
        "tar": (tars, _tar, _read_tar),
        "tar, streamed": (tars, _tar, _stream_tar),
        "eStargz table": ([tables[0].table], _json, lambda text: toc.parse(text, Packing.GZIP, len(tables[0].blob))),
        "zstd:chunked table": (
            [tables[1].table],
            _json,
            lambda text: toc.parse(text, Packing.ZSTD, len(tables[1].blob)),
        ),
        "eStargz layer": ([tables[0].blob], _tail, _read_estargz),
        "zstd:chunked layer": ([tables[1].blob], _tail, _read_zstd_chunked),
        "packed": ([packed.pack(form) for form in forms], _packed, packed.unpack),
    }


# --- reading


def _read_tar(layer: bytes) -> list[Member]:
    found = list(tar.members(io.BytesIO(layer)))
    for member in found:
        for piece in member.pieces:
            assert piece.packing is Packing.ZEROS or 0 <= piece.at <= piece.at + piece.stored <= len(layer)
            if piece.length <= 1 << 20:
                expanding.content(piece, layer[piece.at : piece.at + piece.stored])
    return found


class _Streamed(io.BytesIO):
    def seekable(self) -> bool:
        """Say no."""
        return False

    def read(self, length: int | None = -1, /) -> bytes:
        """Read less than is asked for, now and then."""
        return super().read(length if length is None or length < 700 else 700)


def _stream_tar(layer: bytes) -> list[Member]:
    return list(tar.members(_Streamed(layer)))


def _read_estargz(blob: bytes) -> list[Member]:
    extent = estargz.toc_extent(blob[-estargz.FOOTER :], len(blob))
    if extent is None:
        return []
    at, length = extent
    found = estargz.members(estargz.table(blob[at : at + length], None), at)
    _expand(found, blob)
    return found


def _read_zstd_chunked(blob: bytes) -> list[Member]:
    place = zstdchunked.footer_place(blob[-zstdchunked.FOOTER :], len(blob))
    if place is None:
        return []
    table = zstdchunked.table(blob[place.offset : place.offset + place.length], place, None)
    found = zstdchunked.members(table, place)
    _expand(found, blob)
    return found


def _expand(found: list[Member], blob: bytes) -> None:
    for member in found:
        for piece in member.pieces:
            assert 0 <= piece.at <= piece.at + piece.stored <= len(blob)
            if piece.skip + piece.length <= 1 << 20:
                expanding.content(piece, blob[piece.at : piece.at + piece.stored])


# --- damage


def _bytes(dice: random.Random, content: bytes) -> bytes:
    """Change a few bytes, or cut, repeat, move or zero a run of them."""
    damaged = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        at = dice.randrange(len(damaged) + 1)
        length = dice.choice((1, 2, 8, 64, 512, 3000))
        match dice.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del damaged[at : at + length]
            case 2:
                damaged[at:at] = damaged[at : at + length] * dice.choice((1, 1, 50))
            case 3:
                damaged[at : at + length] = bytes(min(length, len(damaged) - at))
            case 4:
                damaged[at : at + length] = dice.choice((b"\xff", b"9", b"7", b"/", b"\x80", b"\n")) * length
            case 5:
                del damaged[at:]
    return bytes(damaged)


_FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8),
           (337, 8), (345, 155), (386, 12), (398, 12), (482, 1), (483, 12))  # fmt: skip


def _tar(dice: random.Random, content: bytes) -> bytes:
    """Damage a tar, mostly in fields of its headers, whose checksums are then made right again."""
    if dice.random() < 0.2:
        return _bytes(dice, content)
    damaged = bytearray(content)
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    for _ in range(dice.choice((1, 2, 4))):
        at = dice.choice(headers)
        offset, length = dice.choice(_FIELDS)
        damaged[at + offset : at + offset + length] = _field(dice, length)
        damaged[at : at + 512] = samples.sealed(bytes(damaged[at : at + 512]))
        if dice.random() < 0.3 and content[at + 156 : at + 157] in b"xLK":
            place = at + 512 + dice.randrange(200)
            damaged[place : place + 8] = _field(dice, 8)
    if dice.random() < 0.1:
        block = dice.choice(headers)
        damaged[block:block] = damaged[block : block + dice.choice((512, 1024, 1536))] * dice.choice((1, 3, 3000))
    return bytes(damaged)


def _field(dice: random.Random, length: int) -> bytes:
    match dice.randrange(5):
        case 0:
            value = b"%o" % abs(dice.choice(_NUMBERS))
        case 1:
            value = b"\x80" + (abs(dice.choice(_NUMBERS)) % 256 ** (length - 1 or 1)).to_bytes(
                max(length - 1, 1), "big"
            )
        case 2:
            value = b"\xff" * length
        case 3:
            value = dice.choice(_TEXTS).encode("utf-8", "surrogatepass")
        case _:
            value = dice.choice(
                (b"0", b"1", b"2", b"5", b"S", b"L", b"K", b"x", b"g", b"V", b"\0", b"10 a=b\n", b"=", b"9")
            )
    return value[:length].ljust(length, dice.choice((b"\0", b" ", b"7")))


def _json(dice: random.Random, content: bytes) -> bytes:
    """Damage JSON, mostly by values that are not what they should be."""
    if dice.random() < 0.2:
        return _bytes(dice, content)
    found = json.loads(content)
    entries = found["entries"]
    for _ in range(dice.choice((1, 2, 4))):
        entry = dice.choice(entries)
        match dice.randrange(6):
            case 0:
                entry[dice.choice([*entry, "xattrs", "chunkType", "offset", "endOffset"])] = _value(dice)
            case 1:
                entry.pop(dice.choice(list(entry)), None)
            case 2:
                entries.insert(dice.randrange(len(entries)), dict(entry))
            case 3:
                dice.shuffle(entries)
            case 4:
                found[dice.choice(["version", "entries"])] = dice.choice([_value(dice), found["entries"]])
            case 5:
                entry |= dice.choice(entries)
        if not isinstance(found["entries"], list) or not all(isinstance(entry, dict) and entry for entry in entries):
            break
    return json.dumps(found).encode()


def _value(dice: random.Random) -> Any:
    values: list[Any] = [*_NUMBERS, *_TEXTS, None, True, 1.5, float("inf"), [], {}, {"type": "reg"}, {"user.x": "A"}]
    values += [
        {"": "AA=="},
        {"user.x": 1},
        [[[]]],
        "chunk",
        "reg",
        "hardlink",
        "symlink",
        "zeros",
        "9999-99-99T99:99:99Z",
    ]
    return dice.choice(values)


def _tail(dice: random.Random, content: bytes) -> bytes:
    """Damage a blob, mostly near its end, where it says where the rest is."""
    keep = len(content) - dice.choice((8, 80, 80, 2000, len(content)))
    head, tail = content[: max(keep, 0)], content[max(keep, 0) :]
    if dice.random() < 0.3 and len(tail) >= 72:
        at = len(tail) - dice.choice((64, 56, 48, 40))
        number = abs(dice.choice((*_NUMBERS, len(content), len(content) - 1))) % 2**64
        return head + tail[:at] + struct.pack("<Q", number) + tail[at + 8 :]
    return head + _bytes(dice, tail)


def _packed(dice: random.Random, content: bytes) -> bytes:
    """Damage packed members, mostly inside, with a checksum that is right."""
    if dice.random() < 0.2:
        return _bytes(dice, content)
    columns = _bytes(dice, expanding.expand(Packing.ZSTD, content[28:], 1 << 30))
    length = dice.choice((len(columns),) * 9 + (2**30,))
    body = struct.pack("<Q", length) + expanding.compress(columns)
    return content[:12] + xxhash.xxh3_64_digest(body) + body


if __name__ == "__main__":
    main()
