"""Blobs that are given names: what one mount says of a blob is what another makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lazyfs.errors import UsageError
from lazyfs.given import GivenBlob
from lazyfs.versions import BlobId, Version, starts_blob_id

GIVEN = GivenBlob(
    BlobId("sha256-" + "a" * 64), "http://h/a?sig=x", Version(5, None, "then"), False, ("http://m/a",), 1.5
)


def test_it_goes_through_json_and_comes_back() -> None:
    assert GivenBlob.of(json.loads(json.dumps(GIVEN.as_dict()))) == GIVEN
    assert GIVEN.digest == "sha256:" + "a" * 64
    assert GIVEN.known.version == GIVEN.version


@pytest.mark.parametrize("wrong", [{"blob_id": "x"}, {"version": {"nope": 1}}, {"version": None}, {"mirrors": None}])
def test_what_is_no_blob_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="to be named"):
        GivenBlob.of({**GIVEN.as_dict(), **wrong})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("url-0123", True),
        ("sha256-" + "a" * 64, True),
        ("url-012", False),
        ("url-ABCD", False),
        ("url-0123.img", False),
    ],
)
def test_how_much_of_an_id_is_an_id(text: str, meant: bool) -> None:
    assert starts_blob_id(text) == meant
