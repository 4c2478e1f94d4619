"""Indexes, manifests and configs: what is read of them, which image is picked, and what is refused."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.errors import SourceError, UsageError
from lazyfs.sources.image import Document, Image, pick, read_image
from lazyfs.sources.platforms import Platform, choose, of_this_machine, parse_platform

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
DIGESTS = [f"sha256:{digit * 64}" for digit in "abc"]
BASE = "https://r.example/v2/app/"


def descriptor(digest: str = DIGESTS[0], size: int = 1, kind: str = f"{OCI}layer.v1.tar+gzip", **more: Any) -> Any:
    return {"digest": digest, "size": size, "mediaType": kind, **more}


def manifest(media_type: str = f"{OCI}manifest.v1+json", **changes: Any) -> Document:
    config = descriptor(DIGESTS[1], kind=f"{OCI}config.v1+json")
    content = {"schemaVersion": 2, "config": config, "layers": [descriptor()], **changes}
    text = json.dumps({key: value for key, value in content.items() if value is not None})
    return Document.of(text.encode(), media_type)


def read(document: Document) -> Image:
    return read_image("oci://r.example/app:1", BASE, None, document)


# Which of them


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", 0), ("linux/amd64/v2", 1), ("linux/amd64/v3", 1), ("linux/arm64", 2), ("linux/arm64/v8", 2),
        ("linux/arm", 4), ("linux/arm/v7", 4), ("linux/arm/v6", 3), ("linux/arm/v5", None), ("windows/amd64", None),
        ("linux/riscv64", 5), ("linux/arm/v8", 4),
    ],
)  # fmt: skip
def test_the_image_that_runs_best(wanted: str, chosen: int | None) -> None:
    names = ("linux/amd64", "linux/amd64/v2", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "linux/riscv64")
    assert choose([(parse_platform(name), at) for at, name in enumerate(names)], parse_platform(wanted)) == chosen


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux/a/b/c", "linux/\n"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(UsageError, match="no platform"):
        parse_platform(text)


def test_this_machine_is_one() -> None:
    assert re.fullmatch(r"linux/[a-z0-9]+(/v[0-9])?", str(of_this_machine()))


def test_an_index_names_what_there_is() -> None:
    kind = f"{OCI}manifest.v1+json"
    entries = [
        descriptor(DIGESTS[0], kind=kind, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
        descriptor(DIGESTS[1], kind=kind, platform={"os": "unknown", "architecture": "unknown"}),
        descriptor(DIGESTS[2], kind="application/x-other", platform={"os": "linux", "architecture": "amd64"}),
        "nonsense",
    ]
    index = Document.of(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), f"{OCI}index.v1+json")
    assert pick(index, Platform("linux", "arm64")).digest == DIGESTS[0]
    with pytest.raises(SourceError, match=r"no image for linux/amd64; there is: linux/arm64/v8$"):
        pick(index, Platform("linux", "amd64"))


# What they are


@pytest.mark.parametrize(
    ("said", "own", "is_index"),
    [
        (f"{OCI}index.v1+json", None, True),
        (f"{DOCKER}distribution.manifest.list.v2+json; charset=utf-8", None, True),
        (f"{OCI}manifest.v1+json", f"{OCI}index.v1+json", False),
        ("application/json", f"{DOCKER}distribution.manifest.v2+json", False),
        ("application/json", f"{OCI}index.v1+json", True),
        ("", None, False),
    ],
)
def test_what_a_document_is(said: str, own: str | None, is_index: bool) -> None:
    assert manifest(said, mediaType=own).is_index is is_index


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document.of(b"<html>", "text/html"), "not a JSON object"),
        (Document.of(b"[]", ""), "not a JSON object"),
        (Document.of(b"[" * 100_000, ""), "not a JSON object"),
        (manifest("", mediaType="application/x-signature"), "it is no manifest, but application/x-signature"),
        (manifest("", schemaVersion=1), "schema 1"),
        (manifest(f"{DOCKER}distribution.manifest.v1+prettyjws", schemaVersion=1), "schema 1"),
        (manifest("text/plain", layers=None), "it is no manifest, but text/plain"),
    ],
)
def test_what_is_no_manifest(document: Document, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        _ = document.is_index


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": None}, "its config is not described"),
        ({"config": descriptor(kind="application/vnd.oci.empty.v1+json"), "artifactType": "application/x-a\nb"},
         r"an artifact \(application/x-a\\nb\), not an image"),
        ({"layers": {}}, "no layers"),
        ({"layers": ["x"]}, "its layer 1 is not described"),
        ({"layers": [descriptor(), descriptor(kind="text/html")]}, "its layer 2 is text/html"),
        ({"layers": [descriptor("sha512:" + "a" * 128)]}, "a digest other than sha256: sha512:a"),
        ({"layers": [descriptor("sha256:" + "A" * 64)]}, "no digest"),
        ({"layers": [descriptor(DIGESTS[0] + "\n")]}, "no digest"),
        ({"layers": [descriptor(size=-1)]}, "no size"),
        ({"layers": [descriptor(size=1 << 63)]}, "no size"),
        ({"layers": [descriptor(size=True)]}, "no size"),
        ({"layers": [descriptor(), descriptor(size=2)]}, "two sizes"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_meant(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        read(manifest(**changes))


def test_what_is_read_of_a_manifest() -> None:
    kinds = [f"{OCI}layer.v1.tar", f"{OCI}layer.v1.tar+zstd", f"{DOCKER}image.rootfs.diff.tar.gzip",
             f"{OCI}layer.nondistributable.v1.tar+gzip", f"{DOCKER}image.rootfs.foreign.diff.tar.gzip"]  # fmt: skip
    layers = [descriptor(kind=kind) for kind in kinds]
    layers[3] |= {"urls": ["https://else.example/x", "file:///etc/passwd", 7], "annotations": {"a": "b", "c": 1}}
    image = read(manifest(layers=layers, annotations={"x": "y"}))
    assert [layer.media_type for layer in image.layers] == kinds
    assert image.layers[3].urls == (f"{BASE}blobs/{DIGESTS[0]}", "https://else.example/x")
    assert (image.layers[3].annotations, image.annotations) == ({"a": "b"}, {"x": "y"})
    assert image.named.digest == image.manifest.digest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([*DIGESTS, f"{OCI}layer.v1.tar"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "platform", "os", "urls", "annotations"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["config", "layers", "manifests", "annotations", "artifactType"]), json_values))
def test_whatever_a_registry_says_it_is_an_image_or_refused(content: dict[str, Any]) -> None:
    document = Document.of(json.dumps(content).encode(), f"{OCI}manifest.v1+json")
    for call in (lambda: read(document), lambda: pick(document, Platform("linux", "amd64"))):
        with contextlib.suppress(SourceError):
            call()
