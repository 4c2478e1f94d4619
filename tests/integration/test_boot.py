"""A virtual machine booted by QEMU from a disk under a mount, with the origin and then without."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.boot import small
from tests.boot.qemu import NotBooted, boot
from tests.mounts import Mounts
from tests.servers import Nginx

WITHIN = 50.0
"""Seconds for one boot, which takes some 8."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A directory with the small system; its kernel is kept from one run of the tests to the next."""
    assert pytestconfig.cache is not None
    package = small.kernel_package(pytestconfig.cache.mkdir("kernel"))
    if package is None:
        pytest.skip("apt knows no kernel of Debian's for clouds")
    work, served = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("served")
    small.make(package, work, served)
    shutil.rmtree(work)
    return served


def test_a_machine_boots_from_a_lazy_disk_and_again_without_the_origin(
    system: Path, tmp_path: Path, mounts: Mounts
) -> None:
    with Nginx(tmp_path / "nginx", system) as nginx:
        mount = mounts(f"{nginx.url}/")
        boot(small.machine(mount.path()), tmp_path / "overlay", WITHIN)
        fetched = sum(request.body_bytes for request in nginx.requests() if request.uri == f"/{small.DISK_FILE}")
        assert 0 < fetched < 0.6 * (system / small.DISK_FILE).stat().st_blocks * 512
        mount.umount()
    again = mounts(f"{nginx.url}/")
    boot(small.machine(again.path()), tmp_path / "overlay", WITHIN)
    assert again.counters()["origin_bytes"] == 0


def test_a_machine_that_does_not_come_up_is_ended(system: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(bytes(1 << 20))
    machine = replace(small.machine(str(system)), disk=tmp_path / "empty")
    with pytest.raises(NotBooted, match="Kernel panic"):
        boot(machine, tmp_path / "overlay", WITHIN)
    with pytest.raises(NotBooted, match="within 1 s"):
        boot(small.machine(str(system)), tmp_path / "overlay", 1.0)
