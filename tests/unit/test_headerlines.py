"""Headers as the user writes them, and files of them that change."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.errors import UsageError
from lazyfs.origin import headerfiles
from lazyfs.origin.headerfiles import HeaderFiles, read_header_file
from lazyfs.origin.headerlines import OURS, parse_header, parse_header_lines


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("X-Key: abc", ("X-Key", "abc")),
        ("Authorization:Bearer a:b", ("Authorization", "Bearer a:b")),
        ("  k :\tv w\t", ("k", "v w")),
        ("Empty:", ("Empty", "")),
    ],
)
def test_a_header(text: str, header: tuple[str, str]) -> None:
    assert parse_header(text, "--header") == header


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3cret", "written as"),
        (": s3cret", "written as"),
        ("a b: s3cret", "written as"),
        ("X: s3cret\r\nY: z", "one line"),
        ("X: s3cret\x00", "one line"),
        ("X: s3cret\u00e9", "one line"),
        ("Range: s3cret", "lazyfs's own"),
        ("IF-MATCH: s3cret", "lazyfs's own"),
    ],
)
def test_what_is_no_header_is_not_repeated(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{reason}") as caught:
        parse_header(text, "here")
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_a_header_is_one_line(text: str) -> None:
    try:
        name, value = parse_header(text, "here")
    except UsageError:
        return
    assert f"{name}: {value}".replace("\t", " ").isprintable()
    assert name.lower() not in OURS


def test_a_file() -> None:
    content = b"# a comment\r\n\n  \nA: 1\r\nB: 2"
    assert parse_header_lines(content, "file") == (("A", "1"), ("B", "2"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A: 1\n\ns3cret\n", "^file, line 3: "),
        (b"A: 1\nB: s3cret\x0bC: 2", "^file, line 2: the value of B"),
        (b"A: s3cret\xff", "^file is not text$"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_line(content: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_header_lines(content, "file")
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None, "it would hold the content"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("A: 1\n")
    second.write_text("B: 1\n")
    files = HeaderFiles([first, second])
    assert files.headers() == [("A", "1"), ("B", "1")]
    (tmp_path / "new").write_text("B: 2\n")
    (tmp_path / "new").rename(second)
    assert files.headers() == [("A", "1"), ("B", "2")]
    second.write_text("B: 3\n")
    assert files.headers() == [("A", "1"), ("B", "3")]


@pytest.mark.parametrize(("age", "reads"), [(100, 1), (0, 2)])
def test_a_file_is_read_once_when_it_has_settled(tmp_path: Path, age: int, reads: int) -> None:
    """A file that is written twice within a tick of its file system's clock has the same date both times."""
    path = tmp_path / "headers"
    path.write_text("A: 1\n")
    os.utime(path, (time.time() - age,) * 2)
    files = HeaderFiles([path])
    with mock.patch.object(headerfiles, "read_header_file", side_effect=read_header_file) as read:
        assert files.headers() == files.headers() == [("A", "1")]
    assert read.call_count == reads


def test_a_change_that_keeps_size_and_date_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    files = HeaderFiles([path])
    for value in ("1", "2"):
        path.write_text(f"A: {value}\n")
        os.utime(path, (1, 1))
        assert files.headers() == [("A", value)]


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text("A: s3cret\n")
    os.utime(path, (1, 1))
    files = HeaderFiles([path])
    files.headers()
    path.unlink()
    with pytest.raises(UsageError, match=f"^{path} cannot be read: No such file"):
        files.headers()
    path.write_text("A: s3cret\ns3cret\n")
    with pytest.raises(UsageError, match=f"^{path}, line 2: ") as caught:
        files.headers()
    assert "s3cret" not in repr(caught.value)
    path.write_text("A: 2\n")
    assert files.headers() == [("A", "2")]


def test_a_pipe_is_read_but_not_again(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        file.write(b"A: 1\n")
    path = Path(f"/dev/fd/{reader}")
    try:
        with pytest.raises(UsageError, match="not a regular file"):
            HeaderFiles([path]).headers()
        assert read_header_file(path) == (("A", "1"),)
    finally:
        os.close(reader)
