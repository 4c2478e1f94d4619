"""Registries for tests: Debian's docker-registry on loopback, a token server of our own, and images made from
directories, which skopeo puts there.

    with Registry(tmp_path / "registry") as registry:
        made = make_image(tmp_path / "layout", [layer(directory), layer(other, "zstd")])
        registry.push(made, "team/app:1")
        registry.image("team/app:1")            # oci://127.0.0.1:PORT/team/app:1

A layer is made by GNU tar and gzip or zstd; one in a format that no tool at hand makes is a `Layer` with any bytes.
What an image looks like on the disk is an OCI image layout, which skopeo and umoci read: `made.reference` names it.
Debian's umoci (0.4) knows no zstd: what it is to unpack is made of the same directories, packed otherwise.

*Source*: OCI image-spec v1.1 (manifest.md, config.md, image-layout.md); the configuration of distribution 2.8.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.servers import Nginx
from tests.serving import PATIENCE, Server, Words

Compression = Literal["none", "gzip", "zstd"]
Form = Literal["oci", "v2s2", "v2s1"]

USER, PASSWORD = "ann", "a secret"
"""Whom registries let in that ask for a password, and whom the token server knows."""

_HTPASSWD = f"{USER}:$2b$04$jF5HJgjuD3B72U699GljOO2uXflRKmHFkhmE3Hco5h0bFuiYW7hgG\n"

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"

_MEDIA_TYPES: dict[Compression, str] = {"none": TAR, "gzip": f"{TAR}+gzip", "zstd": f"{TAR}+zstd"}


@dataclass(frozen=True)
class Layer:
    """A layer as it is to lie in the registry; `diff_id` is the digest of its uncompressed tar."""

    content: bytes = field(repr=False)
    diff_id: str
    media_type: str = _MEDIA_TYPES["gzip"]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of its blob."""
        return digest_of(self.content)


@dataclass(frozen=True)
class Made:
    """An image in an image layout of its own; `manifest` are its very bytes, and `digest` is theirs."""

    layout: Path
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return digest_of(self.manifest)

    @property
    def reference(self) -> str:
        """The image as umoci names it; skopeo says `oci:` before it."""
        return f"{self.layout}:image"


def digest_of(content: bytes) -> str:
    """Return `sha256:HEX`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tar(directory: Path) -> bytes:
    """Return a directory as a tar with pax headers: owners, times, attributes and all, as GNU tar packs it."""
    words: Words = ["tar", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--sort=name"]
    return _output([*words, "--xattrs", "--xattrs-include=*", "-C", directory, "-c", "."])


def layer(
    content: Path | bytes, compression: Compression = "gzip", annotations: Mapping[str, str] | None = None
) -> Layer:
    """Return a directory, or the bytes of a tar, as a layer."""
    plain = content if isinstance(content, bytes) else tar(content)
    packed = plain
    if compression == "gzip":
        packed = gzip.compress(plain, mtime=0)
    elif compression == "zstd":
        packed = _output(["zstd", "-q", "-c"], plain)
    return Layer(packed, digest_of(plain), _MEDIA_TYPES[compression], annotations or {})


def make_image(
    layout: Path,
    layers: Sequence[Layer],
    *,
    platform: str = "linux/amd64",
    config: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Made:
    """Write an image of these layers, the lowest first, as the image `image` of a new image layout.

    `config` is what containers of it run: the member of that name (`{"Cmd": ["/bin/sh"]}`).
    """
    os, architecture, *variant = platform.split("/")
    described = {
        "architecture": architecture,
        "os": os,
        **({"variant": variant[0]} if variant else {}),
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created_by": "a test"} for _ in layers],
    }
    configuration = json.dumps(described).encode()
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(configuration, CONFIG),
        "layers": [
            _descriptor(one.content, one.media_type)
            | ({"annotations": dict(one.annotations)} if one.annotations else {})
            for one in layers
        ],
        **({"annotations": dict(annotations)} if annotations else {}),
    }).encode()  # fmt: skip
    _write_layout(layout, manifest, MANIFEST, [configuration, *(one.content for one in layers)])
    return Made(layout, manifest, configuration, tuple(layers))


class Registry(Server):
    """Debian's docker-registry, with its blobs in `directory`.

    `password`: it asks for USER and PASSWORD (Basic). `tokens`: it asks for tokens of that server (Bearer).
    """

    programs = ("docker-registry",)

    def __init__(self, directory: Path, *, password: bool = False, tokens: TokenServer | None = None) -> None:
        super().__init__(directory, directory)
        self._password, self._tokens = password, tokens

    def configure(self) -> str:
        """Keep it all in one directory, and take Docker's old schema 1, too."""
        auth: dict[str, Any] = {}
        if self._password:
            (self.directory / "htpasswd").write_text(_HTPASSWD)
            auth = {"htpasswd": {"realm": "tests", "path": str(self.directory / "htpasswd")}}
        if self._tokens is not None:
            auth = {"token": {"realm": f"{self._tokens.url}/token", "service": SERVICE, "issuer": ISSUER,
                              "rootcertbundle": str(self._tokens.certificate)}}  # fmt: skip
        described: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "relativeurls": True},
            "compatibility": {"schema1": {"enabled": True}},
        }
        return json.dumps(described | ({"auth": auth} if auth else {}))

    def command(self) -> Words:
        """Run it; what it reads is YAML, and so JSON."""
        return [self.program(), "serve", self.configuration]

    @property
    def host(self) -> str:
        """`HOST:PORT`, as it stands in references."""
        return f"127.0.0.1:{self.port}"

    def image(self, name: str) -> str:
        """Return an image here as a source of lazyfs."""
        return f"oci://{self.host}/{name}"

    def push(self, made: Made, name: str, form: Form = "oci") -> str:
        """Have skopeo put an image there, under `REPO:TAG`, in one of the forms; return its manifest's digest."""
        file = self.directory / "pushed"
        words: Words = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        words += ["--preserve-digests"] if form == "oci" else ["--format", form]
        words += ["--dest-creds", f"{USER}:{PASSWORD}"] if self._password or self._tokens else []
        _output([*words, "--digestfile", file, f"oci:{made.reference}", f"docker://{self.host}/{name}"])
        return file.read_text().strip()

    def put(self, name: str, manifest: bytes, media_type: str) -> str:
        """Put a manifest there as it stands, under `REPO:TAG` or `REPO@DIGEST`; return its digest."""
        self.ask("PUT", _manifest_path(name), manifest, media_type)
        return digest_of(manifest)

    def put_index(self, name: str, images: Mapping[str, str | Made]) -> bytes:
        """Put an index under `REPO:TAG`, of images that are in REPO by platform; return its bytes."""
        entries = []
        for platform, image in images.items():
            os, architecture, *variant = platform.split("/")
            described = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
            content = image.manifest if isinstance(image, Made) else self.manifest(f"{name.partition(':')[0]}@{image}")
            entries.append({**_descriptor(content, MANIFEST), "platform": described})
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self.put(name, index, INDEX)
        return index

    def put_blob(self, repository: str, content: bytes) -> str:
        """Put a blob there; return its digest."""
        _, place = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        path = place.replace(self.url, "", 1)
        mark = "&" if "?" in path else "?"
        self.ask("PUT", f"{path}{mark}digest={digest_of(content)}", content, "application/octet-stream")
        return digest_of(content)

    def manifest(self, name: str) -> bytes:
        """Return the manifest under `REPO:TAG` or `REPO@DIGEST`, as it lies there."""
        content, _ = self.ask("GET", _manifest_path(name))
        return content

    def delete(self, name: str) -> None:
        """Delete the manifest `REPO@DIGEST`."""
        self.ask("DELETE", _manifest_path(name))

    def ask(self, method: str, path: str, body: bytes | None = None, media_type: str = "") -> tuple[bytes, str]:
        """Ask it for something, with the password where it wants one; return the body and the Location."""
        headers = {"Accept": f"{MANIFEST}, {INDEX}, application/vnd.docker.distribution.manifest.v2+json"}
        headers |= {"Content-Type": media_type} if media_type else {}
        if self._password:
            headers["Authorization"] = basic(USER, PASSWORD)
        if self._tokens is not None:
            repository = path.removeprefix("/v2/").rpartition("/manifests/")[0] or path.split("/blobs/")[0][4:]
            scope = f"repository:{repository}:pull,push,delete"
            headers["Authorization"] = f"Bearer {self._tokens.token(scope)}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read(), answer.headers.get("location", "")

    def fronted(self, directory: Path, *, server: str = "", tls: Path | None = None) -> Nginx:
        """Return an nginx before it, which logs each request; not yet started. `server`: as of Nginx, before ours."""
        passed = f"location /v2/ {{ proxy_pass {self.url}; proxy_set_header Host $http_host; proxy_buffering off; }}"
        return Nginx(directory, self.directory, server=f"{server} {passed}", tls=tls)


SERVICE, ISSUER = "the registry of tests", "a token server of tests"


class TokenServer(Server):
    """Gives tokens that a Registry believes: to nobody and to USER, as tests/tokenserver.py says."""

    programs = (sys.executable,)

    def __init__(self, directory: Path, *, public: Sequence[str] = (), life: int = 300) -> None:
        super().__init__(directory, directory)
        self.certificate, self._key = directory / "token.pem", directory / "token.key"
        self._log = directory / "tokens.jsonl"
        self._public, self._life = public, life
        _output(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens",
                 "-keyout", self._key, "-out", self.certificate])  # fmt: skip

    def configure(self) -> str:
        """Tell it what it needs to know."""
        described = {
            "port": self.port, "certificate": str(self.certificate), "key": str(self._key), "issuer": ISSUER,
            "log": str(self._log), "public": list(self._public), "life": self._life,
            "authorization": basic(USER, PASSWORD),
        }  # fmt: skip
        return json.dumps(described)

    def command(self) -> Words:
        """Run it."""
        return [self.program(), "-I", Path(__file__).with_name("tokenserver.py"), self.configuration]

    def token(self, scope: str) -> str:
        """Return a token of a scope, asked for as USER."""
        query = urllib.parse.urlencode({"service": SERVICE, "scope": scope})
        request = urllib.request.Request(f"{self.url}/token?{query}", headers={"Authorization": basic(USER, PASSWORD)})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(json.load(answer)["token"])

    def asked(self) -> list[dict[str, Any]]:
        """Return what was asked of it: `scope`, `service`, `authorization` and `status` of each request."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def forget(self) -> None:
        """Forget what was asked."""
        self._log.write_bytes(b"")


def basic(user: str, password: str) -> str:
    """Return an Authorization of a user's."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextlib.contextmanager
def registry_with(
    directory: Path, name: str, layers: Sequence[Layer], **options: Any
) -> Iterator[tuple[Registry, Made]]:
    """Run a Registry that has one image of these layers, as `make_image` makes it with `options`."""
    made = make_image(directory / "layout", layers, **options)
    with Registry(directory / "registry") as registry:
        registry.push(made, name)
        yield registry, made


def _manifest_path(name: str) -> str:
    if "@" in name:
        repository, _, reference = name.partition("@")
    else:
        repository, _, reference = name.rpartition(":")
    return f"/v2/{repository}/manifests/{reference}"


def _descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _write_layout(layout: Path, manifest: bytes, media_type: str, blobs: Sequence[bytes]) -> None:
    directory = layout / "blobs" / "sha256"
    directory.mkdir(parents=True)
    for content in (manifest, *blobs):
        (directory / digest_of(content).removeprefix("sha256:")).write_bytes(content)
    named = {**_descriptor(manifest, media_type), "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


def _output(words: Words, given: bytes = b"") -> bytes:
    done = subprocess.run(words, input=given, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, words))}: {done.stderr.decode(errors='replace')}"
    return done.stdout
