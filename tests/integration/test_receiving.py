"""A cold read of all of a blob, received in C and in Python, plain and by TLS; and what the store then has of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import mounts as real
from tests import under
from tests.certificates import self_signed
from tests.mounts import Mounts, on_mount
from tests.servers import Nginx

CONTENT = random.Random(1).randbytes((40 << 20) + 12_345)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("in_python", ["", "1"])
def test_all_of_it_is_right_and_is_in_the_store(
    tmp_path: Path, docroot: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch, in_python: str, tls: bool
) -> None:
    monkeypatch.setitem(real.ENVIRONMENT, "LAZYFS_RECEIVE_IN_PYTHON", in_python)
    (docroot / "blob").write_bytes(CONTENT)
    pem = self_signed(tmp_path) if tls else None
    with Nginx(tmp_path / "nginx", docroot, tls=pem) as server:
        options = ["--ca-file", str(pem)] if tls else []
        mount = mounts(f"{server.url}/blob", options=options)
        assert on_mount(under.read, mount.path("blob")) == CONTENT
        counters = mount.status()["counters"]
        assert counters["blocks_fetched"] == -(-len(CONTENT) // (256 << 10))
        assert (counters["origin_bytes"], counters["blocks_bypassed"], counters["errors"]) == (len(CONTENT), 0, 0)
        mount.umount()
        again = mounts(f"{server.url}/blob", options=["--offline", *options])
        assert on_mount(under.read, again.path("blob")) == CONTENT
        assert again.status()["counters"]["blocks_corrupt"] == 0
