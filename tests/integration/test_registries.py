"""Registries as sources, through real mounts: docker-registry, images that skopeo and umoci put there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mounts import run
from tests.registries import PASSWORD, USER, Compression, Registry, TokenServer, layer, make_image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a few files."""
    directory = tmp_path / "tree"
    (directory / "etc").mkdir(parents=True)
    (directory / "etc" / "motd").write_text("hello\n")
    (directory / "big").write_bytes(bytes(range(256)) * 8192)
    return directory


@pytest.mark.parametrize("guard", ["none", "password", "tokens"])
def test_what_the_tests_put_into_a_registry_is_what_others_find_there(guard: str, tree: Path, tmp_path: Path) -> None:
    forms: tuple[Compression, ...] = ("none", "gzip", "zstd")
    made = make_image(tmp_path / "layout", [layer(tree, form) for form in forms])
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
