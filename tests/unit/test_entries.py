"""Which paths may appear under a mount."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lazyfs.entries import NAME_MAX, PATH_MAX_DEPTH, unsafe


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b/c",
        "...",
        "..a",
        "a..",
        ".hidden",
        " ",
        "a\nb",
        "a\\b",
        "C:\\x",
        "~",
        "%2F",
        "%2e%2e",
        "\udce9",
        "x" * NAME_MAX,
        "é" * 127,
        "/".join(["d"] * PATH_MAX_DEPTH),
    ],
)
def test_may_appear(path: str) -> None:
    assert unsafe(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "//a",
        ".",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        "\ud800",
        "x" * (NAME_MAX + 1),
        "é" * 128,
        "a/" + "x" * 256,
        "/".join(["d"] * (PATH_MAX_DEPTH + 1)),
    ],
)
def test_may_not_appear(path: str) -> None:
    reason = unsafe(path)
    assert reason
    assert "\n" not in reason


@given(st.text(min_size=1, max_size=300) | st.binary(min_size=1, max_size=300).map(os.fsdecode))
def test_a_safe_name_is_one_that_a_real_file_system_takes(name: str) -> None:
    assume("/" not in name)
    if unsafe(name) is None:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, name)
            os.mkdir(path)
            assert os.listdir(directory) == [name]
