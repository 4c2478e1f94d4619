"""What a token server answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.errors import OriginBadAnswer
from lazyfs.origin.tokens import parse_token

URL = "https://auth.example/token?service=s3cret"
NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("answer", "token", "life"),
    [
        ({"token": "abc"}, "abc", 60),
        ({"access_token": "abc", "expires_in": 300}, "abc", 300),
        ({"token": "abc", "access_token": "def"}, "abc", 60),
        ({"token": "", "access_token": "def"}, "def", 60),
        ({"token": "a", "expires_in": 0}, "a", 60),
        ({"token": "a", "expires_in": -1}, "a", 60),
        ({"token": "a", "expires_in": True}, "a", 60),
        ({"token": "a", "expires_in": "300"}, "a", 60),
        ({"token": "a", "expires_in": float("nan")}, "a", 60),
        ({"token": "a", "expires_in": 10**400}, "a", 1e9),
        ({"token": "a", "expires_in": 300, "issued_at": "2023-11-14T22:12:20Z"}, "a", 240),
        ({"token": "a", "expires_in": 300, "issued_at": "2023-11-14T22:12:20.123456789+00:00"}, "a", 240.123456),
        ({"token": "a", "expires_in": 300, "issued_at": "2023-11-14T22:12:20"}, "a", 240),
        # by a clock that is ahead of ours, or so far behind that the token would be over
        ({"token": "a", "expires_in": 300, "issued_at": "2030-01-01T00:00:00Z"}, "a", 300),
        ({"token": "a", "expires_in": 300, "issued_at": "2020-01-01T00:00:00Z"}, "a", 300),
        ({"token": "a", "expires_in": 300, "issued_at": "0001-01-01T00:00:00+23:59"}, "a", 300),
        ({"token": "a", "expires_in": 300, "issued_at": "yesterday"}, "a", 300),
        ({"token": "a", "expires_in": 300, "issued_at": 5}, "a", 300),
    ],
)
def test_a_token(answer: dict[str, Any], token: str, life: float) -> None:
    found, expires = parse_token(URL, json.dumps(answer).encode(), NOW)
    assert found == token
    assert expires == pytest.approx(NOW + life)


@pytest.mark.parametrize(
    "page",
    [
        b"", b"s3cret", b"\xff", b"[]", b"null", b'"s3cret"', b"{}", b"[" * 100_000, b"1" * 10_000,
        b'{"token": 5}', b'{"token": ""}', b'{"token": ["s3cret"]}', b'{"token": "s3cret\\r\\nX: y"}',
        b'{"token": "s3cret x"}', b'{"token": "s3cret\\u00e9"}', b'{"token": "s3cret\\u0000"}',
    ],
)  # fmt: skip
def test_what_is_no_token_is_not_repeated(page: bytes) -> None:
    with pytest.raises(OriginBadAnswer) as caught:
        parse_token(URL, page, NOW)
    assert caught.value.url == "https://auth.example/token"
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None, "it would hold the page"


values = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=3)


@given(st.dictionaries(st.sampled_from(["token", "access_token", "expires_in", "issued_at"]), values))
def test_any_answer_is_a_token_or_refused(answer: dict[str, Any]) -> None:
    try:
        token, expires = parse_token(URL, json.dumps(answer).encode(), NOW)
    except OriginBadAnswer:
        return
    assert token.isascii()
    assert token.isprintable()
    assert NOW < expires < NOW + 2e9 or 0 < answer["expires_in"] < 1e-6
