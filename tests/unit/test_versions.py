"""Which version of a blob this is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.versions import Version, blob_id_for, etag_in, http_date_ns, is_blob_id

URL = "http://h/a"
texts = st.none() | st.text(max_size=20)


@pytest.mark.parametrize(
    ("header", "etag"),
    [
        ('"abc"', '"abc"'),
        (' "abc" ', '"abc"'),
        ('W/"abc"', 'W/"abc"'),
        ('""', '""'),
        ("abc", None),
        ('"abc', None),
        ('"', None),
        ('"a"b"', None),
        ('w/"abc"', None),
        ("", None),
        ('"a", "b"', None),
    ],
)
def test_what_is_an_etag(header: str, etag: str | None) -> None:
    assert etag_in({"etag": header}) == etag


def test_only_a_strong_etag_stands_for_the_bytes() -> None:
    assert Version(1, '"a"').strong_etag == '"a"'
    assert Version(1, 'W/"a"').strong_etag is None
    assert Version(1).strong_etag is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("yesterday", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 999999 08:49:37 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_http_dates(text: str | None, seconds: int | None) -> None:
    assert http_date_ns(text) == (None if seconds is None else seconds * 10**9)


@given(st.text(max_size=50))
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert isinstance(http_date_ns(text), int | None)


@given(st.builds(Version, st.integers(0), texts, texts), st.text(max_size=20))
def test_an_id_is_safe_as_a_file_name(version: Version, url: str) -> None:
    assert is_blob_id(blob_id_for(url, version, None))


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2), texts.map(lambda t: t and f'"{t}"')), max_size=8))
def test_one_id_for_one_version(versions: list[tuple[str, int, str | None]]) -> None:
    ids = {blob_id_for(url, Version(size, etag), None) for url, size, etag in versions}
    assert len(ids) == len(set(versions))


def test_what_tells_versions_apart() -> None:
    strong = blob_id_for(URL, Version(1, '"a"', "Mon"), None)
    assert blob_id_for(URL, Version(1, '"a"', "Tue"), None) == strong  # a touched file with the same ETag is the same
    weak = blob_id_for(URL, Version(1, 'W/"a"', "Mon"), None)
    assert blob_id_for(URL, Version(1, 'W/"a"', "Tue"), None) != weak
    assert blob_id_for(URL, Version(1, None, "Mon"), None) != weak


def test_a_digest_makes_one_blob_of_two_urls() -> None:
    digest = "sha256:" + "ab" * 32
    assert blob_id_for(URL, Version(1), digest) == blob_id_for("http://other/", Version(1, '"x"'), digest)
    assert blob_id_for(URL, Version(1), digest) == "sha256-" + "ab" * 32


@pytest.mark.parametrize("text", ["", "..", "url-", "url-" + "A" * 64, "sha1-" + "a" * 64, "url-" + "a" * 65])
def test_what_is_no_id(text: str) -> None:
    assert not is_blob_id(text)
    assert not is_blob_id(f"url-{'a' * 64}\n")
