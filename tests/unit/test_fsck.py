"""What fsck finds in a store, what it makes of it, and what it must not take for damage."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazyfs import records
from lazyfs.extents import Extent
from lazyfs.store import BlobFile, Store, checking, trash
from lazyfs.store.fsck import STORE, Fsck
from lazyfs.store.inspection import Finding
from lazyfs.versions import BlobId
from tests.unit.stores import BLOB, BLOCK, CONTENT, SIZE, directory

WHOLE = CONTENT[:SIZE]
DIGEST = BlobId("sha256-" + hashlib.sha256(WHOLE).hexdigest())


def put(store: Store, blob_id: BlobId = BLOB, blocks: range = range(4), content: bytes = WHOLE) -> None:
    """Put blocks of a blob into a store, as a flight would."""
    with contextlib.closing(store.open_blob(blob_id, "http://h/x", SIZE)) as blob:
        for index in blocks:
            blob.record(index, store.write(blob, index, [content[index * BLOCK : (index + 1) * BLOCK]])[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a blob, of which the third block is missing, and another one, known by its digest, that is whole."""
    with contextlib.closing(Store.open(tmp_path / "store", BLOCK)) as store:
        store.tidy()
        put(store, blocks=range(2))
        put(store, blocks=range(3, 4))
        put(store, DIGEST)
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The same store, open."""
    with contextlib.closing(Store.open(path, BLOCK)) as store:
        yield store


def check(store: Store, *, repair: bool = False) -> list[Finding]:
    """Run fsck beside an open store."""
    return list(Fsck(store.layout.path, repair=repair).run())


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file in place."""
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def replaced(path: Path) -> None:
    """Put a directory in the place of a file."""
    path.unlink()
    (path / "inner").mkdir(parents=True)


def linked(path: Path) -> None:
    """Put a symbolic link in the place of a file."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _wrong_row(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / "catalogue.db")) as catalogue:
        catalogue.execute("UPDATE blobs SET size = size + 1")
        catalogue.commit()


def _senseless_row(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / "catalogue.db")) as catalogue:
        catalogue.execute("INSERT INTO blobs VALUES ('x', '', 1, 1, 0, 1)")
        catalogue.execute("INSERT INTO names VALUES (cast(x'ff' AS text), '', 1, '', '', 1, x'', 1, x'00')")
        catalogue.commit()


def _wrong_digest(path: Path) -> None:
    blob = path / "blobs" / DIGEST[7:9] / DIGEST
    overwrite(blob / "data", 0, bytes(BLOCK))
    overwrite(blob / "map", records.MAP_HEADER_SIZE, records.pack_entries(records.checksum(bytes(BLOCK))))


def _too_little(path: Path) -> None:
    overwrite(path / "quota", 0, records.pack_quota(records.Quota(clock=1 << 30, used=SIZE)))


def blob(path: Path) -> Path:
    return path / "blobs" / "ab" / BLOB


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a block": (lambda path: flip(blob(path) / "data", BLOCK), BLOB, "1 block does not match: 1"),
    "an entry": (lambda path: flip(blob(path) / "map", 64), BLOB, "1 block does not match: 0"),
    "all blocks": (lambda path: os.truncate(blob(path) / "data", 0), BLOB, "3 blocks do not match: 0, 1, 3"),
    "no data": (lambda path: (blob(path) / "data").write_bytes(b""), BLOB, "3 blocks do not match: 0, 1, 3"),
    "too much data": (lambda path: os.truncate(blob(path) / "data", 1 << 30), BLOB, "data longer than it can be"),
    "a map's header": (lambda path: flip(blob(path) / "map", 20), BLOB, "header does not match its checksum"),
    "a map that is a directory": (lambda path: replaced(blob(path) / "map"), BLOB, "map is not a file"),
    "data that is a link": (lambda path: linked(blob(path) / "data"), BLOB, "data is not a file"),
    "a lock that is a directory": (lambda path: replaced(blob(path) / "lock"), BLOB, "lock is not a file"),
    "uses that are a directory": (lambda path: replaced(blob(path) / "uses"), BLOB, "uses is not a file"),
    "a stranger in a blob": (lambda path: (blob(path) / "x").touch(), BLOB, "'x' is not ours"),
    "a mode": (lambda path: (blob(path) / "map").chmod(0o644), BLOB, "the mode 0644, not 0600"),
    "a directory's mode": (lambda path: blob(path).chmod(0o755), BLOB, "the mode 0755, not 0700"),
    "a stranger among blobs": (lambda path: (path / "blobs" / "ab" / "x").mkdir(), STORE, "no blob of ours"),
    "a stranger in the trash": (lambda path: (path / "trash" / "x").touch(), STORE, "trash/x"),
    "a digest": (_wrong_digest, DIGEST, "does not match its digest"),
    "a row": (_wrong_row, BLOB, f"the catalogue says {SIZE + 1} bytes in blocks of 65536, its map {SIZE}"),
    "rows": (_senseless_row, STORE, "2 of the catalogue's rows say what was not written"),
    "the catalogue": (lambda path: (path / "catalogue.db").write_bytes(b"x" * 9000), STORE, "is damaged"),
    "a page of the catalogue's": (lambda path: flip(path / "catalogue.db", 55), STORE, "disagrees with header"),
    "no catalogue": (lambda path: (path / "catalogue.db").unlink(), STORE, "there is no catalogue"),
    "the quota": (lambda path: flip(path / "quota", 30), STORE, "its bounds are lost"),
    "a quota that counts too little": (_too_little, STORE, f"the quota counts {SIZE} bytes"),
    "a quota that is a directory": (lambda path: replaced(path / "quota"), STORE, "quota is not a file"),
    "a trash that is a link": (lambda path: linked(path / "trash"), STORE, "trash is not a directory"),
}


@pytest.mark.parametrize(("spoil", "where", "what"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found_and_mended(path: Path, spoil: Callable[[Path], object], where: str, what: str) -> None:
    assert list(Fsck(path, repair=False).run()) == []
    spoil(path)
    found = list(Fsck(path, repair=False).run())
    assert [finding for finding in found if finding.damage and where in finding.where and what in finding.what], found
    again = list(Fsck(path, repair=False).run())
    assert again == found, "it changes nothing"
    mended = list(Fsck(path, repair=True).run())
    assert all(finding.mended for finding in mended if finding.where != STORE or "left alone" not in finding.what)
    assert {finding.where for finding in found} <= {finding.where for finding in mended}
    left = [finding for finding in Fsck(path, repair=False).run() if "left alone" not in finding.what]
    assert left == []
    with contextlib.closing(Store.open(path, BLOCK)) as after:
        for blob_id in (BLOB, DIGEST):
            put(after, blob_id)
            with contextlib.closing(after.open_blob(blob_id, "http://h/x", SIZE)) as opened:
                assert b"".join(bytes(opened.read(index, wait=True) or b"") for index in range(4)) == WHOLE
        assert [finding for finding in check(after) if finding.damage] == []


def _staged(store: Store) -> None:
    staged = trash.stage(store.layout, BLOB)
    assert staged is not None
    os.close(staged.lock)


def _socket(store: Store) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(f"/proc/self/fd/{store.layout.root}/run/0123456789abcdef.sock")


def _unrecorded(store: Store) -> None:
    with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)) as opened:
        assert store.write(opened, 2, [bytes(BLOCK)]) != [records.MISSING]


def _reserved(store: Store) -> None:
    assert store.quota.take(1000) == 0


def _made(store: Store) -> None:
    (store.layout.path / "blobs" / "cd" / ("url-" + "cd" * 32)).mkdir(parents=True, mode=0o700)
    (store.layout.path / "blobs" / "cd").chmod(0o700)


LEFT: dict[str, tuple[Callable[[Store], None], str]] = {
    "trash": (_staged, f"{STORE}: trash/{BLOB}"),
    "socket": (_socket, f"{STORE}: run/0123456789abcdef.sock: nobody listens"),
    "a block that was written": (_unrecorded, f"{BLOB}: space for 1 block that its map does not know"),
    "a reservation": (_reserved, ""),
    "a blob that was never set up": (_made, ""),
    "no row": (lambda store: store.catalogue.drop_blob(BLOB), f"{BLOB}: the catalogue does not know it"),
    "complete": (lambda store: store.catalogue.mark_complete(BLOB), f"{BLOB}: the catalogue says that it is complete"),
    "a short map": (lambda store: os.truncate(directory(store.layout) / "map", 64), f"{BLOB}: space for 3 blocks"),
}


@pytest.mark.parametrize(("leave", "what"), LEFT.values(), ids=LEFT.keys())
def test_what_killed_processes_leave_is_no_damage(store: Store, leave: Callable[[Store], None], what: str) -> None:
    leave(store)
    found = check(store)
    assert not [finding for finding in found if finding.damage], found
    assert what in "\n".join(map(str, found))
    check(store, repair=True)
    assert check(store) == []
    assert store.catalogue.blobs()


def test_a_temporary_file_is_left_over_once_it_is_old(store: Store) -> None:
    temporary = store.layout.path / "FORMAT.01234567"
    temporary.touch(mode=0o600)
    assert check(store) == []
    os.utime(temporary, (0, 0))
    assert [str(finding) for finding in check(store)] == [f"{STORE}: the temporary file FORMAT.01234567 (left over)"]
    check(store, repair=True)
    assert not temporary.exists()


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_format_comes_back_where_the_rest_is_a_store(store: Store, content: bytes | None) -> None:
    path = store.layout.path / "FORMAT"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    (finding,) = check(store, repair=True)
    assert finding.mended
    assert path.read_bytes() == records.pack_format()


def test_a_block_that_is_fetched_or_evicted_meanwhile_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process changes a block between the first look at it and the second one."""
    look, looks = checking._look, list[int]()
    with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)) as other:

        def interrupted(blob: BlobFile, index: int) -> tuple[checking.Verdict, bytearray | None]:
            looked = look(blob, index)
            if blob.blob_id == BLOB:
                looks.append(index)
                if looks == [0]:
                    other.record(0, *other.write(0, WHOLE[:BLOCK]))
                elif looks == [0, 0, 1]:
                    other.evict(1, 1)
            return looked

        flip(directory(store.layout) / "data", 0)
        flip(directory(store.layout) / "data", BLOCK)
        monkeypatch.setattr(checking, "_look", interrupted)
        assert check(store, repair=True) == []
        assert looks[:4] == [0, 0, 1, 1]
        assert bytes(other.read(0, wait=True) or b"") == WHOLE[:BLOCK]


def test_a_block_that_somebody_holds_is_not_judged(store: Store) -> None:
    flip(directory(store.layout) / "data", 0)
    with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)) as other:
        assert other.locks.try_blocks(Extent(0, 1))
        assert check(store, repair=True) == []
        assert other.entries(Extent(0, 1)) != (records.MISSING,)


def test_who_has_a_blob_open_goes_on_when_it_is_dropped(store: Store) -> None:
    with contextlib.closing(store.open_blob(BLOB, "http://h/x", SIZE)) as other:
        flip(directory(store.layout) / "map", 20)
        (finding,) = (finding for finding in check(store, repair=True) if finding.damage)
        assert finding.mended
        assert bytes(other.read(0, wait=True) or b"") == WHOLE[:BLOCK]
        assert len(os.listdir(store.layout.trash)) == 1, "until it is closed"
    check(store, repair=True)
    assert os.listdir(store.layout.trash) == []
