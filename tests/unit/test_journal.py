"""What a daemon writes down for the next one."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from lazyfs import journal, order
from lazyfs.given import GivenBlob
from lazyfs.journal import Journal, Legacy
from lazyfs.options import ClientOptions, CredentialOptions, Limits, OriginOptions, Settings, TransportOptions
from lazyfs.order import Mount
from lazyfs.sources.spec import Form, Source
from lazyfs.versions import BlobId, Version

BLOB = GivenBlob(BlobId("sha256-" + "0" * 64), "http://h/x?key=1", Version(10, '"e"'), True, ("http://m/x",), 5.0)


def fresh() -> Journal:
    return Journal(os.memfd_create("journal"), Legacy(), lambda fd: None)


def written(one: Journal) -> Legacy:
    return journal.read(one._fd)


def test_what_is_open_is_known_with_how_often() -> None:
    one = fresh()
    one.note("open", inode=7, path="a/b", blob=BLOB.as_dict())
    one.note("open", inode=7)
    one.note("open", inode=8, path="c", blob=None)
    one.note("past", inode=7, id=3)
    one.note("close", inode=8)
    one.note("close", inode=7)
    found = written(one)
    assert {inode: (there.path, there.blob, there.times) for inode, there in found.opened.items()} == {
        7: ("a/b", BLOB, 1)
    }
    assert found.past == {7: 3}
    one.note("close", inode=7)
    assert written(one) == Legacy()


def test_what_the_kernel_was_given_and_told() -> None:
    one = fresh()
    one.note("order", order="b3JkZXI=")
    one.note("greeting", greeting="00ff")
    one.note("backing", inode=7, backing={"id": 1})
    one.note("backing", inode=7, backing={"id": 2})
    one.note("backing", inode=8, backing={"id": 3})
    one.note("no backing", inode=8)
    one.note("alias", inode=9, path="p", blob=None)
    one.note("change", change={"remove": "x"})
    found = written(one)
    assert (found.order, found.greeting) == (b"order", b"\x00\xff")
    assert found.backings == {7: [{"id": 1}, {"id": 2}]}
    assert found.aliases[9].path == "p"
    assert found.changes == [{"remove": "x"}]


def test_a_line_that_was_cut_off_spoils_only_itself() -> None:
    one = fresh()
    one.note("open", inode=7, path="a", blob=None)
    os.write(one._fd, b'\n{"is": "open", "inode": 8, "pa')
    one.note("open", inode=9, path="b", blob=None)
    os.write(one._fd, b'\n{"is": "something newer", "x": 1}')
    assert written(one).opened.keys() == {7, 9}


def test_a_long_journal_gives_way_to_a_short_one_that_says_the_same() -> None:
    renewed = list[Legacy]()
    with mock.patch.object(journal, "LONGEST", 2000):
        one = Journal(os.memfd_create("journal"), Legacy(), lambda fd: renewed.append(journal.read(fd)))
        one.note("open", inode=1, path="kept", blob=BLOB.as_dict())
        for _ in range(200):
            one.note("open", inode=2, path="x", blob=None)
            one.note("close", inode=2)
    assert renewed
    assert all(each.opened[1].blob == BLOB for each in renewed)
    assert written(one).opened.keys() == {1}
    assert os.fstat(one._fd).st_size < 4000


def test_an_order_is_the_same_when_it_was_written_down(tmp_path: Path) -> None:
    client = ClientOptions(
        CredentialOptions((("A", "b"),), (tmp_path,), frozenset({("http", "h", 80)}), tmp_path, "x"),
        TransportOptions(tmp_path, proxy="env", named=frozenset({("https", "h", 443)})),
        hedge=0.5,
        origins=(OriginOptions(("http", "h", 80), (("A", "b"),), (tmp_path,), command="x", connections=3),),
    )
    settings = Settings(tmp_path, client, Limits(float("inf")), mirrors=(("a", "b"),), max_cache=5)
    sources = Source(Form.FILE, "http://h/\udcff", "n"), Source(Form.BLOB, "", "x", BLOB)
    mount = Mount("/m", sources, settings, frozenset({"allow_other"}))
    assert order.unpack(order.pack(mount)) == mount
    assert order.unpack_source(order.pack_source(sources[1])) == sources[1]


def test_an_order_of_another_lazyfs_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    packed = order.pack(Mount("/m", (), Settings(tmp_path)))
    newer = packed.replace(b'"mountpoint"', b'"unheard_of": 1, "mountpoint"')
    older = packed.replace(b'"takeover"', b'"was_called_otherwise"').replace(b'"origins"', b'"unknown_then"')
    assert order.unpack(newer) == order.unpack(older) == Mount("/m", (), Settings(tmp_path))
