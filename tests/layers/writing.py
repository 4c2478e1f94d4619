"""Writes what other people's tools write: eStargz and zstd:chunked layers out of a tar, and images as OCI layouts.

No tool in Debian makes such layers. *Source*: containerd/stargz-snapshotter docs/estargz.md, estargz/build.go and
estargz/gzip.go; containers/storage pkg/chunked/compressor/compressor.go and pkg/chunked/internal/minimal; OCI
image-spec v1.1, image-layout.md. Tars are read with `tarfile`, so that nothing of what is tested takes part. Names that
are not UTF-8 are kept as escapes, and times to the nanosecond, where Go's writers lose them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import struct
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Entry = dict[str, Any]

_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
_SKIPPABLE = b"\x50\x2a\x4d\x18"


@dataclass(frozen=True)
class Written:
    """A layer's blob, the annotations that its manifest has for it, and its table of contents."""

    blob: bytes
    annotations: dict[str, str] = field(default_factory=dict)
    table: bytes = b""


def digest(content: bytes) -> str:
    """Return the digest of bytes, as images write it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def diff_id(estargz: Written) -> str:
    """Return the digest of what an eStargz layer unpacks to: a tar with some members of its own."""
    with gzip.open(io.BytesIO(estargz.blob)) as file:  # gzip.decompress copies all that is left for every member
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def estargz(layer: bytes, *, chunk: int = 4096, shared: int = 0, legacy: bool = False) -> Written:
    """Return an eStargz layer with pieces of `chunk` bytes.

    With `shared`, pieces share a gzip member until it has that many bytes (`innerOffset`). `legacy` is stargz's footer.
    """
    stream = _Packed(lambda plain: gzip.compress(plain, 6, mtime=0))
    landmark = tarfile.TarInfo(".no.prefetch.landmark")
    landmark.size = 1
    entries: list[Entry] = []
    for info, headers, content in [(landmark, landmark.tobuf(), b"\x0f"), *_members(layer)]:
        stream.plain += headers
        entry = _entry(info)
        entries.append(entry)
        if content:
            entry |= {"digest": digest(content)}
        for at in range(0, len(content), chunk):
            part = content[at : at + chunk]
            if len(stream.plain) >= shared:
                stream.cut()
            if at:
                entries.append(entry := {"name": info.name, "type": "chunk"})
            entry |= {"offset": len(stream.blob), "chunkOffset": at, "chunkDigest": digest(part)}
            entry["innerOffset"] = len(stream.plain)
            entry["chunkSize"] = 0 if at + chunk >= len(content) else chunk
            stream.plain += part
        stream.plain += bytes(-len(content) % 512)
    stream.cut()
    table = json.dumps({"version": 1, "entries": entries}).encode()
    index = tarfile.TarInfo("stargz.index.json")
    index.size = len(table)
    at = len(stream.blob)
    stream.plain += index.tobuf() + table + bytes(-len(table) % 512 + 1024)
    stream.cut()
    extra = b"%016xSTARGZ" % at
    if not legacy:
        extra = b"SG" + struct.pack("<H", len(extra)) + extra
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\1\0\0\xff\xff" + bytes(8)
    annotations = {"containerd.io/snapshot/stargz/toc.digest": digest(table)}
    return Written(bytes(stream.blob) + footer, annotations, table)


def zstd_chunked(layer: bytes, *, chunk: int = 4096, short_footer: bool = False) -> Written:
    """Return a zstd:chunked layer with pieces of `chunk` bytes; `short_footer` is that of stargz-snapshotter."""
    stream = _Packed(zstd.compress)
    entries: list[Entry] = []
    for info, headers, content in _members(layer):
        stream.plain += headers
        main = entry = _entry(info)
        entries.append(entry)
        if content:
            main |= {"digest": digest(content)}
        for at in range(0, len(content), chunk):
            part = content[at : at + chunk]
            stream.cut()
            if at:
                entries.append(entry := {"name": info.name, "type": "chunk"})
            entry["offset"] = len(stream.blob)
            if len(content) > chunk:
                entry |= {"chunkOffset": at, "chunkSize": len(part), "chunkDigest": digest(part)}
                if not part.strip(b"\0"):
                    entry["chunkType"] = "zeros"
            stream.plain += part
            stream.cut()
            main["endOffset"] = len(stream.blob)
        stream.plain += bytes(-len(content) % 512)
    stream.plain += bytes(1024)
    stream.cut()
    table = json.dumps({"version": 1, "entries": entries, "tarSplitDigest": digest(b"split")}).encode()
    packed = zstd.compress(table)
    at = len(stream.blob) + 8
    footer = struct.pack("<4Q", at, len(packed), len(table), 1)
    if short_footer:
        footer += b"GnUlInUx"
    else:
        footer += struct.pack("<3Q", at + len(packed) + 8, 5, 5) + b"GNUlInUx"
    blob = bytes(stream.blob) + _skippable(packed) + _skippable(b"split") + _skippable(footer)
    annotations = {
        "io.github.containers.zstd-chunked.manifest-position": f"{at}:{len(packed)}:{len(table)}:1",
        "io.github.containers.zstd-chunked.manifest-checksum": digest(packed),
        "io.github.containers.zstd-chunked.tarsplit-position": f"{at + len(packed) + 8}:5:5",
    }
    return Written(blob, annotations, table)


def _skippable(content: bytes) -> bytes:
    return _SKIPPABLE + struct.pack("<I", len(content)) + content


class _Packed:
    """A blob that is being written, and what is not packed into it yet."""

    def __init__(self, pack: Callable[[bytes], bytes]) -> None:
        self._pack = pack
        self.blob = bytearray()
        self.plain = bytearray()

    def cut(self) -> None:
        """Let a member or frame end here."""
        if self.plain:
            self.blob += self._pack(bytes(self.plain))
            self.plain.clear()


def _members(layer: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(layer), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            headers, content = layer[info.offset : info.offset_data], b""
            if file := archive.extractfile(info) if info.isreg() else None:
                content = file.read()
            if info.issparse():  # becomes one that is not
                info.pax_headers = {key: v for key, v in info.pax_headers.items() if not key.startswith("GNU.sparse.")}
                info.size, info.type = len(content), tarfile.REGTYPE
                headers = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            yield info, headers, content


def _entry(info: tarfile.TarInfo) -> Entry:
    entry: Entry = {
        "name": info.name + "/" * info.isdir(),
        "type": _TYPES[info.type],
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "modtime": _rfc3339(info.pax_headers.get("mtime", str(info.mtime))),
    }
    if info.isreg():
        entry["size"] = info.size
    if info.issym() or info.islnk():
        entry["linkName"] = info.linkname
    if info.isdev():
        entry |= {"devMajor": info.devmajor, "devMinor": info.devminor}
    prefix = "SCHILY.xattr."
    xattrs = {
        key.removeprefix(prefix): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for key, value in info.pax_headers.items()
        if key.startswith(prefix)
    }
    return entry | ({"xattrs": xattrs} if xattrs else {})


def _rfc3339(seconds: str) -> str:
    whole, _, fraction = seconds.partition(".")
    assert not seconds.startswith("-")
    return datetime.fromtimestamp(int(whole), UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{fraction or 0}Z"


def layout(directory: Path, layers: Sequence[bytes | Written]) -> None:
    """Write an image, called `latest`, of uncompressed tars and of layers that a function above made of one."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(media_type: str, content: bytes, **more: Any) -> Entry:
        (blobs / digest(content)[7:]).write_bytes(content)
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)} | more

    kind = "application/vnd.oci.image."
    descriptors, diff_ids = [], []
    for layer in layers:
        if isinstance(layer, bytes):
            descriptors.append(blob(f"{kind}layer.v1.tar", layer))
            diff_ids.append(digest(layer))
        else:
            packing = "zstd" if layer.blob.startswith(b"\x28\xb5\x2f\xfd") else "gzip"
            plain = gzip.decompress(layer.blob) if packing == "gzip" else zstd.decompress(layer.blob)
            descriptors.append(blob(f"{kind}layer.v1.tar+{packing}", layer.blob, annotations=layer.annotations))
            diff_ids.append(digest(plain))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "config": blob(f"{kind}config.v1+json", json.dumps(config).encode()),
        "layers": descriptors,
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    index = {"schemaVersion": 2, "manifests": [blob(f"{kind}manifest.v1+json", json.dumps(manifest).encode(), **named)]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def layers_of(directory: Path, name: str) -> list[bytes]:
    """Return the layers of an image in a layout, as uncompressed tars."""

    def blob(descriptor: Entry) -> bytes:
        content: bytes = (directory / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()
        return content

    index = json.loads((directory / "index.json").read_text())
    [chosen] = [m for m in index["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == name]
    found = [blob(layer) for layer in json.loads(blob(chosen))["layers"]]
    return [gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer for layer in found]


def tar(members: Iterable[tuple[str, Entry]], contents: dict[str, bytes] | None = None) -> bytes:
    """Return a tar of members, in PAX, each a name and the attributes of its `TarInfo`, type `reg` if not said."""
    kinds = {name: number for number, name in _TYPES.items()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for name, attributes in members:
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, kinds[value] if key == "type" else value)
            content = (contents or {}).get(name, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()
