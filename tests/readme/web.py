"""The web that README.md names: files on example.org and others, an image on Docker Hub, all behind one nginx.

It is made once, in a directory; an nginx is started in each world (tests/readme/world.py), in which all these names
mean that world itself.
"""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path
from typing import Final

from tests.certificates import Authority
from tests.containers import shell_tree
from tests.layers import writing
from tests.mounts import lazyfs, run
from tests.registries import MANIFEST, Layer, digest_of, make_image, tar

HOSTS: Final = ("example.org", "one.example", "two.example", "tier.example.net", "registry-1.docker.io", "host")
"""Each has a directory of its own below the document root."""

MIB: Final = 1024 * 1024
DATE: Final = 1_767_225_600
"""Units: seconds since 1970.  The date of every file: a day in 2026."""

_NGINX: Final = """
user root;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/error.log;
events {{ worker_connections 1000; }}
http {{
    default_type application/octet-stream;
    access_log {run}/access.log;
    client_body_temp_path {run}/temp1; proxy_temp_path {run}/temp2; fastcgi_temp_path {run}/temp3;
    uwsgi_temp_path {run}/temp4; scgi_temp_path {run}/temp5;
    server {{
        listen 80;
        listen 8080;
        listen 443 ssl;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        root {root}/$host;
        autoindex on;
        location ~ ^/v2/.*/manifests/ {{ default_type {manifest}; }}
    }}
}}
"""


class Web:
    """It lies in `directory`; `authority` is the certificate that its clients are to trust."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "root"
        authority = Authority(directory / "authority")
        self.authority = authority.pem
        self._pem = authority.issue("web", *(f"DNS:{name}" for name in HOSTS))
        for name in HOSTS:
            (self._root / name).mkdir(parents=True)
        self._example(self._root / "example.org", directory)
        for name in ("one.example", "two.example/copy", "tier.example.net/images"):
            (self._root / name).mkdir(exist_ok=True)
            (self._root / name / "disk.img").hardlink_to(self._root / "example.org/disk.img")
        self._image(self._root / "registry-1.docker.io/v2/library/debian", "stable", directory)

    def configuration(self, running: Path) -> str:
        """Return nginx's configuration; what it writes is in `running`."""
        return _NGINX.format(run=running, root=self._root, pem=self._pem, manifest=MANIFEST)

    def _example(self, root: Path, work: Path) -> None:
        dice = random.Random(1)
        (root / "images").mkdir()
        (root / "disk.img").write_bytes(dice.randbytes(8 * MIB))
        (root / "images/disk.img").hardlink_to(root / "disk.img")
        _disk(root / "images/debian.raw", work)
        run(["qemu-img", "convert", "-O", "qcow2", root / "images/debian.raw", root / "images/debian.qcow2"])
        tree = shell_tree(work / "tree")
        (tree / "home").mkdir()
        done = lazyfs("pack", tree, root / "tree.erofs")
        assert done.returncode == 0, done.stderr
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as file:
            for number in range(8):
                file.writestr(f"data/{number}.bin", dice.randbytes(MIB))
            file.writestr("readme.txt", "A member of a large archive.\n")
        (root / "data.zip").write_bytes(held.getvalue())
        lines = [f'{{"path": "{name}", "url": "https://example.org/{name}"}}\n' for name in ("disk.img", "data.zip")]
        (root / "files.jsonl").write_text("".join(lines))
        for path in root.rglob("*"):
            os.utime(path, (DATE, DATE))

    def _image(self, repository: Path, tag: str, work: Path) -> None:
        """Put an image there, as a registry has it: its manifest by its tag and by its digest, its blobs."""
        packed = writing.estargz(tar(work / "tree"))
        layer = Layer(packed.blob, writing.diff_id(packed), annotations=packed.annotations)
        made = make_image(work / "layout", [layer], config={"Cmd": ["/bin/sh"]})
        for name in (tag, made.digest):
            _put(repository / "manifests" / name, made.manifest)
        for blob in (made.config, layer.content):
            _put(repository / "blobs" / digest_of(blob), blob)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _disk(path: Path, work: Path) -> None:
    """Make a disk that a machine boots from, and powers itself off when it could read far behind the first sector."""
    source = Path(__file__).with_name("bootsector.s")
    run(["as", "--32", "-o", work / "boot.o", source])
    run(["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", work / "boot.bin", work / "boot.o"])
    with path.open("wb") as disk:
        disk.write((work / "boot.bin").read_bytes())
        disk.seek(4 * MIB)
        disk.write(b"FAR!")
        disk.truncate(64 * MIB)
