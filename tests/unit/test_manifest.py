"""Manifests in JSON Lines and TOML: good records, bad records beside good ones, and no manifest at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.entries import Entry, Kind, Refusal, unsafe
from lazyfs.errors import SourceError
from lazyfs.sizes import SIZE_MAX
from lazyfs.sources.manifest import LINE_MAX, parse_jsonl, parse_toml

BASE = "https://h/m/list.jsonl?sig=secret"
DIGEST = "sha256:" + "0aF" * 21 + "b"
TEN_O_CLOCK = 1704189600 * 10**9


def read(*records: object) -> list[Entry | Refusal]:
    return list(parse_jsonl([json.dumps(record).encode() for record in records], BASE))


def entry(**record: Any) -> Entry:
    [found] = read({"path": "p", "url": "https://h/u"} | record)
    assert isinstance(found, Entry), found
    return found


def refusal(**record: Any) -> str:
    [found] = read({"path": "p", "url": "https://h/u"} | record)
    assert isinstance(found, Refusal), found
    assert found.where == "line 1"
    assert "\n" not in found.reason
    return found.reason


def test_every_key() -> None:
    file = {
        "path": "images/a.qcow2",
        "url": "https://h/a?sig=1",
        "mirrors": ["http://g/a", "/b", "c"],
        "size": 10,
        "digest": DIGEST,
        "mtime": 1704189600,
        "mode": "0640",
        "comment": "keys of later versions are ignored",
    }
    assert read(file, {"path": "latest", "symlink": "images/a.qcow2", "mtime": 0}) == [
        Entry(
            "images/a.qcow2",
            Kind.FILE,
            "https://h/a?sig=1",
            ("http://g/a", "https://h/b", "https://h/m/c"),
            10,
            DIGEST.lower(),
            TEN_O_CLOCK,
            0o640,
        ),
        Entry("latest", Kind.SYMLINK, mtime_ns=0, symlink="images/a.qcow2"),
    ]


def test_toml_says_the_same() -> None:
    text = f"""\ufeff
        [[file]]
        path = "images/a.qcow2"
        url = "https://h/a"
        mirrors = ["b"]
        size = 1_000
        digest = "{DIGEST}"
        mtime = 2024-01-02T11:00:00.5+01:00
        mode = "640"

        [[file]]
        path = "../escape"
        url = "https://h/x"

        [[file]]
        path = "latest"
        symlink = "images/a.qcow2"
        mtime = 2024-01-02T10:00:00
    """
    url, half = "https://h/a", TEN_O_CLOCK + 10**9 // 2
    assert list(parse_toml(text, BASE)) == [
        Entry("images/a.qcow2", Kind.FILE, url, ("https://h/m/b",), 1000, DIGEST.lower(), half, 0o640),
        Refusal("file 2", "the path has an unsafe part '..'"),
        Entry("latest", Kind.SYMLINK, mtime_ns=TEN_O_CLOCK, symlink="images/a.qcow2"),
    ]


def test_bad_lines_are_refused_by_number_and_the_rest_is_served() -> None:
    lines = [
        b'\xef\xbb\xbf{"path": "a", "url": "https://h/a"}\r\n',
        b"\n",
        b" \t\r\n",
        b"{",
        b'["path"]',
        b'{"path": "\xff"}',
        b'{"path": "b", "url": "https://h/b", "size": NaN}',
        b'{"path": "b", "size": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"path": "' + b"x" * LINE_MAX + b'"}',
        b'\xef\xbb\xbf{"path": "b", "url": "https://h/b"}',
        b'{"path": "z", "url": "https://h/z"}',
    ]
    found = list(parse_jsonl(lines, None))
    assert [f.path if isinstance(f, Entry) else f.where for f in found] == [
        "a",
        *(f"line {number}" for number in range(4, 12)),
        "z",
    ]


def test_lines_are_taken_as_they_are_needed() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b'{"path": "a", "url": "https://h/a"}\n'

    assert len(list(islice(parse_jsonl(endless(), None), 100))) == 100


@pytest.mark.parametrize("path", ["a%2Fb", "a b", "a\\b", "#", "?", "日本", "\udce9", "new\nline", "C:", "-"])
def test_a_path_is_taken_literally(path: str) -> None:
    assert entry(path=path).path == path


@pytest.mark.parametrize(
    "path",
    [None, "", "/etc/passwd", "..", "a/../b", "a//b", "a/", "a\0", "x" * 256, "\ud800", 1, ["a"], True],
)
def test_an_unsafe_path_is_refused(path: object) -> None:
    assert "path" in refusal(path=path)


@pytest.mark.parametrize(
    ("url", "joined"),
    [
        ("https://h/a%2fb;?x=%20#", "https://h/a%2fb;?x=%20#"),
        ("HTTP://H:8080/a", "HTTP://H:8080/a"),
        ("http://u:p@[::1]:99999", None),
        ("http://u:p@[::1]:9999/x", "http://u:p@[::1]:9999/x"),
        ("b", "https://h/m/b"),
        ("b;?c", "https://h/m/b;?c"),
        ("./b:c", "https://h/m/b:c"),
        ("../b", "https://h/b"),
        ("/b", "https://h/b"),
        ("//g/b", "https://g/b"),
        ("?c", "https://h/m/?c"),
        ("a b/é", "https://h/m/a%20b/%C3%A9"),
        ("https://bücher.example/é", "https://bücher.example/%C3%A9"),
        ("b:c", None),
        ("file:///etc/passwd", None),
        ("http:///b", None),
        ("http://h:99999/b", None),
        ("http://a b/c", None),
        ("https://h/a\nb", None),
        ("\udce9", "https://h/m/%E9"),
        ("\ud800", None),
        (1, None),
        (["https://h/u"], None),
    ],
)
def test_urls(url: object, joined: str | None) -> None:
    if joined is None:
        assert "url" in refusal(url=url)
        assert "mirror" in refusal(mirrors=[url])
    else:
        assert entry(url=url).url == joined
        assert entry(mirrors=[url]).mirrors == (joined,)


def test_a_relative_url_needs_a_base() -> None:
    [found] = parse_jsonl([b'{"path": "p", "url": "u"}'], None)
    assert isinstance(found, Refusal)
    assert "relative" in found.reason


@pytest.mark.parametrize("size", [-1, SIZE_MAX + 1, 1.0, True, "1", [], {}])
def test_bad_sizes(size: object) -> None:
    assert "size" in refusal(size=size)


def test_good_sizes() -> None:
    assert [entry(size=size).size for size in (0, 1, SIZE_MAX, None)] == [0, 1, SIZE_MAX, None]


@pytest.mark.parametrize("digest", ["", "0" * 64, "sha256:", "sha256:" + "g" * 64, "sha512:" + "0" * 128, 5, True])
def test_bad_digests(digest: object) -> None:
    assert "digest" in refusal(digest=digest)


@pytest.mark.parametrize(("mode", "bits"), [("0644", 0o644), ("644", 0o644), ("0o755", 0o755), ("0", 0)])
def test_modes(mode: str, bits: int) -> None:
    assert entry(mode=mode).mode == bits


@pytest.mark.parametrize("mode", ["4755", "01777", "100644", "", "rwx", "0x1ff", "-644", "888", 644, True])
def test_bad_modes(mode: object) -> None:
    assert "mode" in refusal(mode=mode)


@pytest.mark.parametrize(
    ("mtime", "ns"),
    [
        (1704189600, TEN_O_CLOCK),
        (1704189600.25, TEN_O_CLOCK + 250_000_000),
        (-0.5, -500_000_000),
        ("2024-01-02T10:00:00Z", TEN_O_CLOCK),
        ("2024-01-02t05:30:00-04:30", TEN_O_CLOCK),
        ("2024-01-02 10:00:00.123456789123Z", TEN_O_CLOCK + 123_456_789),
        ("2016-12-31T23:59:60Z", 1483228800 * 10**9),
        ("1969-12-31T23:59:59Z", -(10**9)),
    ],
)
def test_times(mtime: object, ns: int) -> None:
    assert entry(mtime=mtime).mtime_ns == ns


@pytest.mark.parametrize(
    "mtime",
    [
        10**18,
        -(10**18),
        1e300,
        True,
        "",
        "1704189600",
        "2024-01-02",
        "2024-02-30T10:00:00Z",
        "9999-01-01T00:00:00Z",
        "2024-01-02T10:00:00+25:00",
        ["x"],
    ],
)
def test_bad_times(mtime: object) -> None:
    assert "mtime" in refusal(mtime=mtime)


@pytest.mark.parametrize("mtime", ["nan", "inf", "-inf", "2024-01-02", "10:00:00"])
def test_times_that_only_toml_can_write(mtime: str) -> None:
    [found] = parse_toml(f'[[file]]\npath = "p"\nurl = "https://h/u"\nmtime = {mtime}', None)
    assert isinstance(found, Refusal)
    assert "mtime" in found.reason


@pytest.mark.parametrize("target", ["..", "/etc/passwd", "a b", "x" * 4095, "\udce9"])
def test_symlinks(target: str) -> None:
    assert entry(url=None, symlink=target).symlink == target


@pytest.mark.parametrize("target", ["", "a\0", "x" * 4096, "é" * 2048, "\ud800", 1, True, ["a"]])
def test_bad_symlinks(target: object) -> None:
    assert "symlink" in refusal(url=None, symlink=target)


def test_either_url_or_symlink() -> None:
    assert "neither" in refusal(url=None)
    assert "both" in refusal(symlink="a")


def test_refusals_give_no_secret_away() -> None:
    for url in ("http://user:secret@h:bad/?secret", "ftp://h/?secret", "https://h/\x00secret"):
        assert "secret" not in refusal(url=url)


def test_null_is_the_same_as_nothing() -> None:
    nothing = dict.fromkeys(("mirrors", "size", "digest", "mtime", "mode", "symlink"))
    assert entry(**nothing) == entry()


@pytest.mark.parametrize(
    "text", ["path =", '{"path": "a"}', "a = 1", "file = 1", "[file]\npath = 'a'", "x = " + "[" * 10_000]
)
def test_what_is_no_toml_manifest(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        list(parse_toml(text, None))
    assert "\n" not in str(caught.value)


def test_a_base_that_is_no_url() -> None:
    with pytest.raises(ValueError, match="http"):
        list(parse_jsonl([], "list.jsonl"))


def test_a_manifest_of_no_files() -> None:
    assert list(parse_toml("# nothing yet", None)) == list(parse_toml("file = []", None)) == []
    assert list(parse_jsonl([], None)) == []


def test_a_table_that_is_none_is_refused_alone() -> None:
    found = list(parse_toml('file = [1, {path = "a", symlink = "b"}]', None))
    assert found == [Refusal("file 1", "the record is not an object"), Entry("a", Kind.SYMLINK, symlink="b")]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["https://h/u", "a/b"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)
keys = st.sampled_from(["path", "url", "mirrors", "size", "digest", "mtime", "mode", "symlink"])


@given(st.lists(st.binary() | st.dictionaries(keys, values).map(lambda record: json.dumps(record).encode())))
def test_no_line_raises(lines: list[bytes]) -> None:
    for found in parse_jsonl(lines, BASE):
        if isinstance(found, Entry):
            assert unsafe(found.path) is None
            assert (found.url is None) == (found.kind is Kind.SYMLINK)


@given(st.text() | st.text(alphabet='[]file="\n1-:.T{}#, ').map(lambda tail: "[[file]]\n" + tail))
def test_toml_raises_only_source_errors(text: str) -> None:
    with suppress(SourceError):
        assert all(isinstance(found, Entry | Refusal) for found in parse_toml(text, BASE))


@given(st.floats(-(2**33), 2**33))
def test_float_seconds_are_as_good_as_the_float(seconds: float) -> None:
    ns = entry(mtime=seconds).mtime_ns
    assert ns is not None
    assert math.isclose(ns / 1e9, seconds, rel_tol=1e-15, abs_tol=1e-9)
