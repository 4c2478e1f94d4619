"""Libraries that read file objects, each fetching little of a file that is large."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
import zlib
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest

import lazyfs
from tests.python.conftest import Site

MIB = 1 << 20
LARGE = 128 * MIB
"""Of each thing that nobody reads; on the disk it is a hole."""

TEXT = random.Random(7).randbytes(MIB)


@pytest.fixture(scope="module")
def large_zip(running: Site) -> str:
    """A zip of over 500 MiB, a small member behind each large one."""
    checksum = zlib.crc32(bytes(LARGE))
    with zipfile.ZipFile(running.docroot / "large.zip", "w") as archive:
        for number in range(4):
            hole = zipfile.ZipInfo(f"holes/{number}")
            hole.file_size = hole.compress_size = LARGE
            hole.CRC, hole.header_offset = checksum, archive.start_dir
            assert archive.fp is not None
            archive.fp.seek(archive.start_dir)
            archive.fp.write(hole.FileHeader())
            archive.start_dir = archive.fp.seek(LARGE, io.SEEK_CUR)
            archive.filelist.append(hole)
            archive.NameToInfo[hole.filename] = hole
            archive.writestr(f"texts/{number}", TEXT[number * 1000 :])
    return running.url("large.zip")


@pytest.fixture(scope="module")
def large_tar(running: Site) -> str:
    """A tar of over 500 MiB, not compressed."""
    with (running.docroot / "large.tar").open("wb") as file:
        for number in range(4):
            hole, text = tarfile.TarInfo(f"holes/{number}"), tarfile.TarInfo(f"texts/{number}")
            hole.size, text.size = LARGE, len(TEXT)
            file.write(hole.tobuf())
            file.seek(LARGE, io.SEEK_CUR)
            file.write(text.tobuf() + TEXT)
        file.write(bytes(1024))
    return running.url("large.tar")


@pytest.fixture(scope="module")
def large_hdf5(running: Site) -> str:
    """Columns of 16 MiB in one file of 512 MiB, all but one of them holes."""
    allocated = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    allocated.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    allocated.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(running.docroot / "large.h5", "w") as file:
        for number in range(32):
            space = h5py.h5s.create_simple((2 * MIB,))
            h5py.h5d.create(file.id, f"column{number}".encode(), h5py.h5t.NATIVE_DOUBLE, space, allocated)
        file["column17"][:] = np.arange(2 * MIB)
    return running.url("large.h5")


def test_zipfile_reads_one_member_of_a_large_archive(store: lazyfs.Store, large_zip: str, site: Site) -> None:
    with store.open(large_zip) as file, zipfile.ZipFile(file) as archive:
        assert file.size > 500 * MIB
        assert len(archive.namelist()) == 8
        listed = site.sent()
        assert listed <= MIB, "the end of the archive"
        assert archive.read("texts/1") == TEXT[1000:]
    assert site.sent() <= listed + 6 * MIB, "a member of 1 MiB, and what is ahead of who reads in order"


def test_a_chain_of_fsspecs_reads_it_too(large_zip: str, site: Site, there: Path) -> None:
    for number, chain in enumerate((f"lazyfs::{large_zip}", f"lazyfs://{large_zip}")):
        with fsspec.open(f"zip://texts/{number}::{chain}", lazyfs={"store": str(there)}) as file:
            assert file.read() == TEXT[number * 1000 :]
    assert site.sent() <= 12 * MIB


def test_tarfile_finds_a_member_in_the_middle(store: lazyfs.Store, large_tar: str, site: Site) -> None:
    with store.open(large_tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        assert file.size > 500 * MIB
        member = archive.extractfile(archive.getmember("texts/2"))
        assert member is not None
        assert member.read() == TEXT
    assert site.sent() <= 12 * MIB, "all headers, of which each is in another block, and a member of 1 MiB"


def test_h5py_reads_one_column(store: lazyfs.Store, large_hdf5: str, site: Site) -> None:
    with store.open(large_hdf5) as file, h5py.File(file, "r") as columns:
        assert file.size >= 512 * MIB
        assert sorted(columns)[:2] == ["column0", "column1"]
        assert columns["column17"][5:10].tolist() == [5, 6, 7, 8, 9]
        seen = site.sent()
        assert seen <= 4 * MIB
        assert columns["column17"][:].sum() == sum(range(2 * MIB))
    assert site.sent() <= seen + 18 * MIB, "16 MiB, and nothing past their end"
