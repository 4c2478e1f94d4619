"""What an answer proves, and never more: the rows of TRAPS "The origin" that need no state, then any answer at all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.extents import Extent
from lazyfs.ranges import Bad, Body, Changed, Moved, Outcome, Passing, Refused, Unchanged, decide, range_header
from lazyfs.ranges import retry_after as seconds_in
from lazyfs.versions import Version, etag_in

ASKED = Extent(100, 200)
DATE, LATER = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"
ETAG = Version(1000, '"a"')
WEAK = Version(1000, 'W/"a"', DATE)
UNDATED = Version(1000, 'W/"a"')
DATED = Version(1000, None, DATE)
BARE = Version(1000)
RIGHT = {"content-range": "bytes 100-199/1000", "content-length": "100"}
NOW = 784111777.0


def body(start: int, stop: int, version: Version, *, counted: bool = True) -> Body:
    return Body(Extent(start, stop), version, counted)


@pytest.mark.parametrize(
    ("pinned", "status", "headers", "expected"),
    [
        # What is right.
        (ETAG, 206, RIGHT | {"etag": '"a"'}, body(100, 200, ETAG)),
        (None, 206, RIGHT | {"etag": '"a"'}, body(100, 200, ETAG)),
        (None, 206, RIGHT | {"last-modified": DATE}, body(100, 200, DATED)),
        (BARE, 206, RIGHT | {"etag": '"new"'}, body(100, 200, BARE)),
        (ETAG, 206, RIGHT | {"etag": '"a"', "content-encoding": "identity"}, body(100, 200, ETAG)),
        (BARE, 206, {"content-range": "bytes 100-149/1000", "content-length": "50"}, body(100, 150, BARE)),
        (BARE, 206, {"content-range": "bytes 100-199/1000"}, body(100, 200, BARE, counted=False)),
        (BARE, 206, RIGHT | {"transfer-encoding": "chunked"}, body(100, 200, BARE, counted=False)),
        # Range ignored.
        (BARE, 200, {"content-length": "1000"}, body(0, 1000, BARE)),
        (BARE, 200, {}, body(0, 1000, BARE, counted=False)),
        (None, 200, {}, Bad),
        (ETAG, 200, {"content-length": "999", "etag": '"a"'}, Changed),
        # The default Accept-Encoding; a coding that was not asked for.
        (ETAG, 206, RIGHT | {"etag": '"a"', "content-encoding": "gzip"}, Bad),
        (ETAG, 200, {"content-length": "1000", "etag": '"a"', "content-encoding": "br"}, Bad),
        (BARE, 206, RIGHT | {"transfer-encoding": "gzip, chunked"}, Bad),
        # 206 that starts elsewhere, is the whole body, is too long, or does not say; 200 that says too much.
        (BARE, 206, {"content-range": "bytes 0-99/1000", "content-length": "100"}, Bad),
        (BARE, 206, {"content-range": "bytes 0-999/1000", "content-length": "1000"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-200/1000"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-99/1000"}, Bad),
        (BARE, 206, {"content-length": "100"}, Bad),
        (BARE, 206, {"content-range": "bytes */1000"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-199/150"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-199/1000, bytes 300-399/1000"}, Bad),
        (BARE, 206, {"content-range": "bytes \u0661-\u0662/1000"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-199/99999999999999999999"}, Bad),
        (None, 206, {"content-range": "bytes 100-199/9999999999999999999"}, Bad),
        (None, 200, {"content-length": "9999999999999999999"}, Bad),
        (BARE, 206, RIGHT | {"content-length": "1000"}, Bad),
        (BARE, 206, RIGHT | {"content-type": "multipart/byteranges; boundary=x"}, Bad),
        (BARE, 200, {"content-length": "1000"} | RIGHT, Bad),
        # The total: unknown, or another one.
        (BARE, 206, {"content-range": "bytes 100-199/*"}, body(100, 200, BARE, counted=False)),
        (None, 206, {"content-range": "bytes 100-199/*"}, Bad),
        (BARE, 206, {"content-range": "bytes 100-199/1001"}, Changed),
        # The blob changes between two blocks.
        (ETAG, 412, {}, Changed),
        (ETAG, 206, RIGHT | {"etag": '"b"'}, Changed),
        (ETAG, 206, RIGHT | {"etag": 'W/"a"'}, Changed),
        (DATED, 206, RIGHT | {"last-modified": LATER}, Changed),
        (WEAK, 206, RIGHT | {"etag": 'W/"b"', "last-modified": DATE}, Changed),
        (ETAG, 206, RIGHT, Bad),
        (DATED, 206, RIGHT, Bad),
        (None, 412, {}, Refused),
        # Weak ETag: compared, but not enough by itself when there is more.
        (WEAK, 206, RIGHT | {"etag": 'W/"a"', "last-modified": DATE}, body(100, 200, WEAK)),
        (WEAK, 206, RIGHT | {"etag": 'W/"a"', "last-modified": LATER}, Changed),
        (WEAK, 206, RIGHT | {"etag": 'W/"a"'}, Bad),
        (WEAK, 206, RIGHT | {"last-modified": DATE}, body(100, 200, WEAK)),
        (UNDATED, 206, RIGHT | {"etag": 'W/"a"', "last-modified": DATE}, body(100, 200, UNDATED)),
        (UNDATED, 206, RIGHT | {"last-modified": DATE}, Bad),
        # A zero-length blob.
        (None, 416, {"content-range": "bytes */0"}, body(0, 0, Version(0))),
        (Version(0), 416, {"content-range": "bytes */0"}, body(0, 0, Version(0))),
        (BARE, 416, {"content-range": "bytes */0"}, Changed),
        (BARE, 416, {"content-range": "bytes */1000"}, Bad),
        (BARE, 416, {}, Bad),
        (None, 200, {"content-length": "0"}, body(0, 0, Version(0))),
        # Redirects, refusals, failures that pass.
        (None, 302, {"location": " /b?sig=1 "}, Moved("/b?sig=1")),
        *((None, status, {"location": "/b"}, Moved("/b")) for status in (301, 303, 307, 308)),
        (None, 307, {}, Bad),
        (None, 300, {"location": "/b"}, Bad),
        (ETAG, 304, {}, Unchanged()),
        (None, 304, {}, Bad),
        (None, 401, {}, Refused),
        (None, 403, {}, Refused),
        (None, 404, {}, Refused),
        (None, 410, {}, Refused),
        (None, 501, {}, Refused),
        *((None, status, {}, Passing) for status in (408, 425, 429, 500, 502, 503, 504, 507, 508, *range(520, 525))),
        (None, 429, {"retry-after": "7"}, Passing("HTTP 429", 7.0)),
        (None, 503, {"retry-after": "Sun, 06 Nov 1994 08:49:40 GMT"}, Passing("HTTP 503", 3.0)),
        (None, 503, {"retry-after": "soon"}, Passing("HTTP 503", None)),
        (None, 204, {}, Bad),
        (None, 100, {}, Bad),
        (None, 999, {}, Bad),
    ],
)
def test_what_an_answer_proves(
    pinned: Version | None, status: int, headers: dict[str, str], expected: Outcome | type[Outcome]
) -> None:
    outcome = decide(ASKED, pinned, status, headers, NOW)
    assert outcome == expected if not isinstance(expected, type) else isinstance(outcome, expected), outcome


def test_the_range_header() -> None:
    assert range_header(Extent(0, 1)) == "bytes=0-0"
    assert range_header(Extent(100, 200)) == "bytes=100-199"


@given(st.text(max_size=30) | st.integers(-9, 10**30).map(str))
def test_a_wait_is_never_negative(text: str) -> None:
    seconds = seconds_in(text, NOW)
    assert seconds is None or seconds >= 0


numbers = st.integers(0, 30) | st.integers(0, 10**21)
etags = st.sampled_from(['"a"', '"b"', 'W/"a"', 'W/"b"'])
dates = st.sampled_from([DATE, LATER, "never"])
content_ranges = st.one_of(
    st.builds("bytes {}-{}/{}".format, numbers, numbers, numbers | st.just("*")),
    st.builds("bytes */{}".format, numbers | st.just("*")),
    st.text(max_size=12),
)
any_headers = st.fixed_dictionaries(
    {},
    optional={
        "content-range": content_ranges,
        "content-length": numbers.map(str) | st.text(max_size=5),
        "transfer-encoding": st.sampled_from(["chunked", "gzip, chunked", ""]),
        "content-encoding": st.sampled_from(["identity", "gzip", ""]),
        "etag": etags | st.sampled_from(["a", '"']),
        "last-modified": dates,
        "location": st.text(max_size=5),
        "retry-after": st.text(max_size=5),
    },
)
extents = st.builds(lambda start, length: Extent(start, start + length), st.integers(0, 30), st.integers(1, 30))
versions = st.builds(Version, st.integers(0, 40), st.none() | etags, st.none() | dates)
statuses = st.sampled_from([200, 206, 206, 206, 304, 412, 416]) | st.integers(0, 1000)


@settings(max_examples=600, deadline=None)
@given(extents, st.none() | versions, statuses, any_headers)
def test_no_outcome_claims_more_than_is_proven(
    asked: Extent, pinned: Version | None, status: int, headers: dict[str, str]
) -> None:
    outcome = decide(asked, pinned, status, headers, NOW)
    if isinstance(outcome, Changed | Unchanged):
        assert pinned is not None
    if not isinstance(outcome, Body):
        return
    extent, version = outcome.extent, outcome.version
    assert status in (200, 206, 416)
    assert extent.stop <= version.size < 2**63
    assert version == pinned or pinned is None
    assert status == 416 or headers.get("content-encoding", "") in ("", "identity")  # else an error page's
    if status == 206:
        named, _, total = headers["content-range"].split()[-1].partition("/")
        assert [int(number) for number in named.split("-")] == [extent.start, extent.stop - 1]
        assert total == "*" or int(total) == version.size
        assert extent.start == asked.start
        assert asked.start < extent.stop <= asked.stop
    elif status == 200:
        assert extent == Extent(0, version.size)
    else:
        assert version.size == 0
    if outcome.counted and status != 416:
        assert int(headers["content-length"]) == len(extent)
    if pinned is not None and status != 416:
        etag, date = etag_in(headers), headers.get("last-modified")
        assert not pinned.etag or etag in (None, pinned.etag)
        assert not pinned.last_modified or date in (None, pinned.last_modified) or pinned.strong_etag == etag
        assert pinned == Version(pinned.size) or etag == pinned.etag or date == pinned.last_modified


@dataclass(frozen=True)
class Honest:
    """An answer in which nothing is untrue; what it could say and does not is missing. `holds` is what it holds."""

    status: int
    headers: dict[str, str]
    holds: Extent
    version: Version


@st.composite
def honest_answers(draw: st.DrawFn, asked: Extent, version: Version) -> Honest:
    """An origin may send any part of what it has, whatever was asked for."""
    start = draw(st.sampled_from([asked.start, 0, 5]).filter(lambda start: start < version.size))
    stop = draw(st.integers(start + 1, version.size))
    status = draw(st.sampled_from([200, 206]))
    holds = Extent(0, version.size) if status == 200 else Extent(start, stop)
    true = {"content-length": str(len(holds)), "etag": version.etag, "last-modified": version.last_modified}
    if status == 206:
        true["content-range"] = f"bytes {start}-{stop - 1}/{draw(st.sampled_from([version.size, '*']))}"
    said = {name: text for name, text in true.items() if text is not None and draw(st.booleans())}
    return Honest(status, said, holds, version)


@settings(max_examples=1000, deadline=None)
@given(st.data(), extents, st.integers(1, 40), st.sampled_from(['"a"', 'W/"a"', None]), st.sampled_from([DATE, None]))
def test_an_honest_answer_is_never_taken_for_other_bytes_or_for_another_version(
    data: st.DataObject, asked: Extent, size: int, etag: str | None, date: str | None
) -> None:
    """What the pinned version's origin says of it tells it apart, unless that is its size alone."""
    pinned = Version(size, etag, date)
    other = Version(data.draw(st.just(size) | st.integers(1, 40)), '"b"', LATER)
    answer = data.draw(honest_answers(asked, data.draw(st.sampled_from([pinned, other]))))
    outcome = decide(asked, pinned, answer.status, answer.headers, NOW)
    if isinstance(outcome, Changed):
        assert answer.version == other
    if isinstance(outcome, Body):
        if answer.version == other:
            assert etag is None
            assert date is None
            length, total = answer.headers.get("content-length"), answer.headers.get("content-range", "*")
            assert other.size == size or (length is None if answer.status == 200 else total.endswith("*"))
        # The end of a whole body may be where the pinned version has it; it is used only when the body ends there.
        assert outcome.extent == answer.holds or (answer.status == 200 and not outcome.counted)
