"""Registries as sources, through real mounts: docker-registry, and images that skopeo and umoci put there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lazyfs.session import Settings, open_session
from lazyfs.sources.image import Image
from lazyfs.sources.platforms import of_this_machine
from lazyfs.sources.spec import parse_source
from tests import mounts as running
from tests import under
from tests.certificates import Authority
from tests.integration.test_takeover import daemon, next_daemon
from tests.mounts import Mounts, lazyfs, on_mount, run
from tests.registries import (
    CONFIG,
    MANIFEST,
    PASSWORD,
    USER,
    Compression,
    Made,
    Registry,
    TokenServer,
    digest_of,
    layer,
    make_image,
)
from tests.servers import Nginx

BLOCK = 256 * 1024

HERE = str(of_this_machine())


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no logins of the machine's."""
    for name in ("DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setitem(running.ENVIRONMENT, name, str(tmp_path))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a few files, one of which makes a layer of many blocks."""
    directory = tmp_path / "tree"
    (directory / "etc").mkdir(parents=True)
    (directory / "etc" / "motd").write_text("hello\n")
    (directory / "big").write_bytes(bytes(range(256)) * 8192)
    return directory


@pytest.fixture
def made(tmp_path: Path, tree: Path) -> Made:
    """An image of three layers, each packed otherwise."""
    forms: tuple[Compression, ...] = ("none", "gzip", "zstd")
    return make_image(tmp_path / "layout", [layer(tree, form) for form in forms], annotations={"a": "b"})


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that lets everybody in."""
    with Registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def front(tmp_path: Path, registry: Registry) -> Iterator[Nginx]:
    """An nginx before it, which logs requests."""
    with registry.fronted(tmp_path / "front") as front:
        yield front


def image_at(server: Nginx, name: str) -> str:
    """Return an image as a source, asked for through a server."""
    return f"oci://{server.url.removeprefix('http://')}/{name}"


def blob(digest: str) -> str:
    """Return where an image shows a blob."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def variant(tmp_path: Path, name: str, platform: str = "linux/amd64") -> Made:
    """Return a small image that is unlike the others."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "name").write_text(name)
    return make_image(tmp_path / f"layout of {name}", [layer(tmp_path / name)], platform=platform)


@pytest.mark.parametrize("guard", ["none", "password", "tokens"])
def test_what_the_tests_put_into_a_registry_is_what_others_find_there(
    guard: str, tree: Path, made: Made, tmp_path: Path
) -> None:
    with TokenServer(tmp_path / "tokens") as tokens:
        asked = tokens if guard == "tokens" else None
        with Registry(tmp_path / "registry", password=guard == "password", tokens=asked) as registry:
            assert registry.push(made, "team/app:1") == made.digest
            registry.put_index("team/app:all", {"linux/amd64": made, "linux/arm64/v8": made})
            words = ["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false"]
            words += ["--creds", f"{USER}:{PASSWORD}"] if guard != "none" else []
            found = run([*words, f"docker://{registry.host}/team/app:all"]).stdout
            assert [one["digest"] for one in json.loads(found)["manifests"]] == [made.digest] * 2
    plain = make_image(tmp_path / "plain", [layer(tree, "none"), layer(tree, "gzip")])
    run(["umoci", "unpack", "--image", plain.reference, tmp_path / "bundle"])
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "motd").read_text() == "hello\n"


# What is shown, and what that takes


def test_an_image_is_known_by_its_manifest_and_nothing_else_is_asked_for(
    registry: Registry, front: Nginx, made: Made, mounts: Mounts
) -> None:
    registry.push(made, "team/app:1")
    mount = mounts(image_at(front, "team/app:1"))
    assert on_mount(under.names, mount.path()) == ["blobs", "config.json", "manifest.json", "rootfs"]
    seen = on_mount(under.look, mount.path("blobs/sha256"))
    assert {f"sha256:{name}": one.size for name, one in seen.items()} == {
        digest_of(content): len(content) for content in (made.config, *(one.content for one in made.layers))
    }
    assert on_mount(under.read, mount.path("manifest.json")) == made.manifest
    assert [request.uri for request in front.requests()] == ["/v2/team/app/manifests/1"]

    front.forget()
    first = made.layers[0]
    assert on_mount(under.read, mount.path(blob(first.digest)), 3 * BLOCK, 100) == first.content[3 * BLOCK :][:100]
    assert on_mount(under.read, mount.path("config.json")) == made.config
    whole, config = front.requests()
    assert whole.uri == f"/v2/team/app/blobs/{first.digest}"
    assert whole.range == f"bytes={3 * BLOCK}-{4 * BLOCK - 1}", "for a block"
    assert config.uri == f"/v2/team/app/blobs/{digest_of(made.config)}"

    shown = on_mount(under.attributes, mount.path(blob(first.digest)))
    assert shown["user.lazyfs.digest"] == first.digest
    assert shown["user.lazyfs.cached"] == str(BLOCK)
    mount.umount()

    front.forget()
    mount = mounts(image_at(front, "team/app:1"))
    assert on_mount(under.read, mount.path("manifest.json")) == made.manifest
    assert [(request.method, request.uri) for request in front.requests()] == [("HEAD", "/v2/team/app/manifests/1")]


@pytest.mark.parametrize("made_by", ["docker", "umoci"])
def test_images_of_other_makes(made_by: str, registry: Registry, tree: Path, tmp_path: Path, mounts: Mounts) -> None:
    """Docker's schema 2, as skopeo converts to it, and what umoci has made of a directory."""
    gzipped = make_image(tmp_path / "layout", [layer(tree)])
    if made_by == "docker":
        digest = registry.push(gzipped, "app:v2s2", "v2s2")
    else:
        run(["umoci", "init", "--layout", tmp_path / "own"])
        run(["umoci", "new", "--image", f"{tmp_path}/own:image"])
        run(["umoci", "insert", "--image", f"{tmp_path}/own:image", tree, "/"])
        digest = registry.push(Made(tmp_path / "own", b"", b"", ()), "app:v2s2")
    mount = mounts(registry.image("app:v2s2"))
    content = on_mount(under.read, mount.path("manifest.json"))
    assert digest_of(content) == digest
    manifest = json.loads(content)
    for one in (manifest["config"], *manifest["layers"]):
        assert "docker" in one["mediaType"] or made_by == "umoci"
        assert on_mount(under.sha256, mount.path(blob(one["digest"]))) == one["digest"].removeprefix("sha256:")


def test_an_index_leads_to_the_image_for_the_platform(
    registry: Registry, front: Nginx, tmp_path: Path, mounts: Mounts
) -> None:
    own, other = variant(tmp_path, "own", HERE), variant(tmp_path, "other", "linux/s390x")
    for image in (own, other):
        registry.push(image, f"app:{image.layout.name[-3:]}")
    index = registry.put_index("app:1", {HERE: own, "linux/s390x": other})
    mount = mounts(image_at(front, "app:1"))
    assert on_mount(under.names, mount.path()) == ["blobs", "config.json", "index.json", "manifest.json", "rootfs"]
    assert on_mount(under.read, mount.path("index.json")) == index
    assert on_mount(under.read, mount.path("manifest.json")) == own.manifest
    asked = [request.uri for request in front.requests()]
    assert asked == ["/v2/app/manifests/1", f"/v2/app/manifests/{own.digest}"]
    mount = mounts(image_at(front, f"app@{digest_of(index)}"), options=["--platform", "linux/s390x"])
    assert on_mount(under.read, mount.path("manifest.json")) == other.manifest
    failed = lazyfs("fetch", "--store", mounts.store, "--platform", "plan9/mips", registry.image("app:1"))
    assert failed.stderr == (
        f"lazyfs: {registry.image('app:1')}: it has no image for plan9/mips; there is: {HERE}, linux/s390x\n"
    )


def test_several_images_have_names(registry: Registry, made: Made, tmp_path: Path, mounts: Mounts) -> None:
    small = variant(tmp_path, "small")
    registry.push(made, "app:1")
    registry.push(small, "small")
    first, second = registry.image("app:1"), registry.image("small")
    mount = mounts(f"one={first}", f"deep/two={second}")
    assert on_mount(under.read, mount.path("one/manifest.json")) == made.manifest
    assert on_mount(under.read, mount.path("deep/two/manifest.json")) == small.manifest
    assert lazyfs("add", mount.at, first).returncode == 0
    done = lazyfs("add", mount.at, second)
    reason = f"another image is there already; give it a name: NAME={second}:latest"
    assert done.stderr == f"lazyfs: {second}:latest: {reason}\n"
    assert lazyfs("add", mount.at, f"two={second}").returncode == 0
    content = small.layers[0].content
    assert on_mount(under.read, mount.path(f"two/{blob(small.layers[0].digest)}")) == content
    assert on_mount(under.names, mount.path()) == [
        "blobs",
        "config.json",
        "deep",
        "manifest.json",
        "one",
        "rootfs",
        "two",
    ]


def test_fetch_makes_all_of_an_image_complete(registry: Registry, made: Made, mounts: Mounts) -> None:
    registry.push(made, "app:1")
    done = lazyfs("fetch", "--store", mounts.store, registry.image("app:1"))
    assert done.returncode == 0, done.stderr
    registry.stop()
    mount = mounts(registry.image("app:1"), options=["--offline"])
    for one in made.layers:
        assert on_mount(under.sha256, mount.path(blob(one.digest))) == one.digest.removeprefix("sha256:")
    assert on_mount(under.read, mount.path("config.json")) == made.config


# What stays, and what changes


def test_it_is_there_again_without_the_registry(registry: Registry, made: Made, tmp_path: Path, mounts: Mounts) -> None:
    registry.push(made, "app:1")
    registry.push(variant(tmp_path, "own", HERE), "app:own")
    registry.put_index("app:all", {HERE: registry.push(made, "app:1")})
    sources = [f"{name}={registry.image(f'app:{name}')}" for name in ("1", "all")]
    mounts(*sources).umount()
    registry.stop()
    for options in ([], ["--offline"]):
        mount = mounts(*sources, options=options)
        for name in ("1", "all"):
            assert on_mount(under.read, mount.path(f"{name}/manifest.json")) == made.manifest
            assert len(on_mount(under.names, mount.path(f"{name}/blobs/sha256"))) == 4
        mount.umount()
    done = lazyfs("mount", "--store", mounts.store, "--offline", registry.image("app:own"), mount.at)
    assert done.stderr.startswith(f"lazyfs: {registry.image('app:own')}: not in the store"), done.stderr


def test_a_tag_that_has_moved_is_followed(registry: Registry, made: Made, tmp_path: Path, mounts: Mounts) -> None:
    """The new manifest is as long as the old one, so that only the digest tells them apart."""
    before, after = variant(tmp_path, "one"), variant(tmp_path, "two")
    assert len(before.manifest) == len(after.manifest)
    registry.push(before, "app:1")
    mount = mounts(
        registry.image("app:1"), f"by={registry.image('app')}@{before.digest}", options=["--revalidate", "0"]
    )
    assert on_mount(under.names, mount.path(blob(""))) == sorted(
        digest.removeprefix("sha256:") for digest in (digest_of(before.config), before.layers[0].digest)
    )
    reader = running.start(under.hold_and_read, mount.path(blob(before.layers[0].digest)))
    reader.wait_until_open()
    registry.push(after, "app:1")
    wanted = hashlib.sha256(after.manifest).hexdigest()
    assert on_mount(under.opened_until, mount.path("manifest.json"), wanted, 20.0).content == after.manifest
    assert on_mount(under.read, mount.path("config.json")) == after.config
    assert on_mount(under.opened_until, mount.path(blob(after.layers[0].digest)), after.layers[0].digest[7:], 20.0)
    assert on_mount(under.errno_of_stat, mount.path(blob(before.layers[0].digest))) != 0
    assert on_mount(under.read, mount.path("by/manifest.json")) == before.manifest, "a digest stays"
    reader.go()
    assert reader.result() == before.layers[0].content, "who had it open reads on"


def test_the_next_daemon_has_the_same_images(registry: Registry, made: Made, mounts: Mounts) -> None:
    registry.push(made, "app:1")
    mount = mounts(registry.image("app:1"))
    assert lazyfs("add", mount.at, f"two={registry.image('app:1')}").returncode == 0
    before = on_mount(under.tree, mount.path())
    inode = on_mount(os.stat, mount.path("manifest.json")).st_ino
    on_mount(under.read, mount.path("config.json"))
    reader = running.start(under.hold_and_read, mount.path("config.json"))
    reader.wait_until_open()
    registry.stop()
    first = daemon(mount)
    os.kill(first, signal.SIGKILL)
    next_daemon(mount, first)
    reader.go()
    assert reader.result() == made.config
    assert on_mount(under.tree, mount.path()).keys() == before.keys()
    assert on_mount(os.stat, mount.path("manifest.json")).st_ino == inode
    assert on_mount(under.read, mount.path("two/manifest.json")) == made.manifest
    assert on_mount(under.read, mount.path("two/config.json")) == made.config
    assert lazyfs("umount", mount.at).returncode == 0


# Which way


def test_plain_http_is_for_this_host_or_on_demand(
    registry: Registry, made: Made, tmp_path: Path, mounts: Mounts
) -> None:
    """0.0.0.0 is no loopback address, but connections to it stay on this host."""
    registry.push(made, "app:1")
    authority = Authority(tmp_path / "authority")
    with registry.fronted(tmp_path / "front", tls=authority.issue("server", "IP:0.0.0.0")) as front:
        secure = f"oci://0.0.0.0:{front.port}/app:1"
        mount = mounts(secure, options=["--ca-file", authority.pem])
        assert on_mount(under.read, mount.path(blob(made.layers[1].digest))) == made.layers[1].content
        done = lazyfs("fetch", "--store", tmp_path / "other", secure)
        assert done.stderr.startswith(f"lazyfs: https://0.0.0.0:{front.port}/v2/app/manifests/1: "), done.stderr
        assert done.stderr.count("\n") == 1
    plain = f"oci://0.0.0.0:{registry.port}/app:1"
    assert "https://0.0.0.0" in lazyfs("fetch", "--store", mounts.store, plain).stderr
    mount = mounts(plain, options=["--plain-http"])
    assert on_mount(under.read, mount.path("manifest.json")) == made.manifest


# What goes wrong


def test_what_is_no_image_is_refused_in_a_line(registry: Registry, made: Made, tree: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    registry.push(made, "app:1")
    registry.push(make_image(tmp_path / "gzipped", [layer(tree)]), "app:old", "v2s1")
    config, empty = registry.put_blob("app", b"{}"), {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2}
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": config, "size": 2}
    right = {"mediaType": CONFIG, "digest": config, "size": 2}
    odd: dict[str, dict[str, object]] = {
        "chart": {"config": chart},
        "empty": {"config": {**empty, "digest": config}, "artifactType": "application/x-notes"},
        "page": {"config": right, "layers": [{"mediaType": "text/html", "digest": config, "size": 2}]},
    }
    for tag, fields in odd.items():
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], **fields}
        registry.put(f"app:{tag}", json.dumps(manifest).encode(), MANIFEST)
    reasons = {
        "app:2": "the registry has no such image, or no such tag (404); check its name and tag",
        "none:1": "the registry has no such image, or no such tag (404); check its name and tag",
        "app:old": "it is in Docker's schema 1, which says too little of its layers: push it again",
        "app:chart": "it is an artifact (application/vnd.cncf.helm.config.v1+json), not an image",
        "app:empty": "it is an artifact (application/x-notes), not an image",
        "app:page": "its layer 1 is text/html, not that of an image",
    }
    for name, reason in reasons.items():
        done = lazyfs("fetch", "--store", store, registry.image(name))
        assert (done.returncode, done.stderr) == (1, f"lazyfs: {registry.image(name)}: {reason}\n")


def test_what_is_not_what_its_digest_says_is_refused(
    registry: Registry, made: Made, tmp_path: Path, mounts: Mounts
) -> None:
    """A server that sends other manifests under digests, another digest with a tag's, and other bytes of a layer."""
    registry.push(made, "app:1")
    layer = made.layers[2]
    (tmp_path / "wrong").write_bytes(made.manifest + b" ")
    (tmp_path / "layer").write_bytes(layer.content[:-1] + bytes([layer.content[-1] ^ 1]))
    server = (
        f"location = /v2/app/manifests/{made.digest} {{ alias {tmp_path}/wrong; default_type {MANIFEST}; }}"
        f"location = /v2/app/manifests/1 {{ alias {tmp_path}/wrong; default_type {MANIFEST};"
        f" add_header Docker-Content-Digest {made.digest}; }}"
        f"location = /v2/app/blobs/{layer.digest} {{ alias {tmp_path}/layer; }}"
        f"location = /v2/app/manifests/2 {{ proxy_pass {registry.url}/v2/app/manifests/1; }}"
    )
    with registry.fronted(tmp_path / "front", server=server) as front:
        for name in ("app:1", f"app@{made.digest}"):
            done = lazyfs("fetch", "--store", mounts.store, image_at(front, name))
            wrong = f"what the registry sent is not {made.digest}"
            assert (done.returncode, done.stderr) == (1, f"lazyfs: {image_at(front, name)}: {wrong}\n")
        mount = mounts(image_at(front, "app:2"))
        with pytest.raises(OSError, match="Input/output error"):
            on_mount(under.read, mount.path(blob(layer.digest)))
        assert on_mount(under.read, mount.path(blob(made.layers[0].digest)), 0, 10) == made.layers[0].content[:10]


# What others build on


def test_the_layers_of_a_mounted_image(registry: Registry, front: Nginx, made: Made, tmp_path: Path) -> None:
    registry.push(made, "app:1")
    small = variant(tmp_path, "small")
    registry.push(small, "app:2")
    source = image_at(front, "app:1")

    async def main() -> dict[str, Image]:
        async with open_session(Settings(tmp_path / "store")) as session:
            changed: list[str] = []
            session.images.on_change = changed.append
            await session.add(parse_source(source))
            await session.add(parse_source(f"a/b={image_at(front, 'app:2')}"))
            assert changed == ["", "a/b"]
            assert all("/manifests/" in request.uri for request in front.requests())
            found = session.images.mounted
            session.vfs.remove("a")
            assert list(session.images.mounted) == [""]
            return found

    found = trio.run(main)
    layers = found[""].layers
    assert {path: image.manifest.digest for path, image in found.items()} == {"": made.digest, "a/b": small.digest}
    assert found[""].annotations == {"a": "b"}
    assert [(one.digest, one.size, one.media_type) for one in layers] == [
        (one.digest, len(one.content), one.media_type) for one in made.layers
    ]
    assert layers[0].urls == (f"{front.url}/v2/team/app/blobs/{layers[0].digest}".replace("team/", ""),)
