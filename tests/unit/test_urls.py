"""What may be read off a URL, and what may be shown of one."""

from __future__ import annotations

import re
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.urls import is_http, key, last_segment, origin_of, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a/b.img", "https://h/a/b.img"),
        ("https://user:secret@h:8443/a?X-Amz-Signature=secret#secret", "https://h:8443/a"),
        ("http://secret@[::1]:80/a?secret", "http://[::1]:80/a"),
        ("http://h:secret/", "(unreadable URL)"),
        ("http://[secret/", "(unreadable URL)"),
    ],
)
def test_nothing_secret_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.from_regex(r"https?://[a-zA-Z0-9.@:\[\]\-]{0,8}(:[0-9]{1,5})?(/[ -~]{0,8})?", fullmatch=True))
def test_what_is_returned_as_it_is_had_nothing_to_redact(url: str) -> None:
    with mock.patch("lazyfs.urls._NOTHING_TO_REDACT", re.compile("(?!)")):
        taken_apart = redact(url)
    assert redact(url) == taken_apart


def test_same_origin() -> None:
    assert (
        origin_of("HTTP://Example.org/a")
        == origin_of("http://u:p@example.org:80/b?c")
        == (
            "http",
            "example.org",
            80,
        )
    )
    assert origin_of("https://h/") == origin_of("https://h:443/")
    assert len({origin_of(u) for u in ("http://h/", "https://h/", "http://h:81/", "http://g/")}) == 4


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b%20c.img?token=x/y", "b c.img"),
        ("http://h/a+b", "a+b"),
        ("http://h/%C3%A9", "é"),
        ("http://h/%E9", "\udce9"),
        ("http://h/a%2Fb", "a/b"),
        ("http://h/a%252Fb", "a%2Fb"),
        ("http://h/a/", ""),
        ("http://h", ""),
    ],
)
def test_last_segment(url: str, name: str) -> None:
    assert last_segment(url) == name


@pytest.mark.parametrize("url", ["http://h", "https://h/x", "HTTPS://h:8443/", "http://u@h/", "http://[::1]:8/"])
def test_is_http(url: str) -> None:
    assert is_http(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h/x",
        "/x",
        "//h/x",
        "ftp://h/x",
        "file:///x",
        "http:///x",
        "http:x",
        "http://h:0/",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "oci://h/r",
    ],
)
def test_is_not_http(url: str) -> None:
    assert not is_http(url)


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    assert "?" not in redact(text)
    assert len(key(text)) == 64
    assert is_http(text) in (True, False)
