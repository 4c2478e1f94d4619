"""Requests, answers, and the one answer that is right: RFC 9110 §13 (conditions) and §14 (ranges)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal

from .contents import Blob, bytes_blob


@dataclass
class Request:
    """A request as it came; `path` and `query` are still percent-encoded, header names are in lower case."""

    method: str
    target: str
    version: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first question mark."""
        return self.target.partition("?")[2]


@dataclass(frozen=True)
class Interruption:
    """Something that happens after so many bytes of the body; `seconds` is a pause's, None for ever."""

    after: int
    what: Literal["pause", "close", "reset"]
    seconds: float | None = None


@dataclass
class Answer:
    """What will be sent: the head, bytes start..stop of the blob as the body, and what happens on the way.

    `said` is the Content-Length, None meaning what is true.  `framing` says how the body's end is told.  If
    `hang_up`, the connection is closed after the answer without a warning.
    """

    status: int
    headers: dict[str, str]
    blob: Blob
    start: int
    stop: int
    said: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    status_line: str | None = None
    interruptions: list[Interruption] = field(default_factory=list)
    rate: int | None = None
    hang_up: bool = False

    @property
    def length(self) -> int:
        """How many bytes the body has."""
        return self.stop - self.start

    def head(self, *, http_1_0: bool) -> bytes:
        """Return the status line and the headers as they go over the wire."""
        lines = [self.status_line or f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status not in (204, 304):
            if self.framing == "length":
                lines.append(f"Content-Length: {self.length if self.said is None else self.said}")
            elif self.framing == "chunked" and not http_1_0:
                lines.append("Transfer-Encoding: chunked")
        if self.framing == "close" or http_1_0:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unheard Of"


def plain_answer(status: int, text: str, media_type: str = "text/plain; charset=utf-8", **headers: str) -> Answer:
    """Return an answer whose body is `text`; underscores in the headers' names stand for dashes."""
    blob = bytes_blob(text.encode("utf-8", "surrogateescape"), media_type)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": media_type, **named}, blob, 0, blob.size)


def right_answer(request: Request, blob: Blob) -> Answer:
    """Return what a well-behaved origin answers to a GET or HEAD of `blob`.

    Several ranges in one request are ignored, as §14.2 allows, and the whole is sent.
    """
    headers = {"Content-Type": blob.media_type, "Accept-Ranges": "bytes"}
    if blob.encoding:
        headers |= {"Content-Encoding": blob.encoding, "Vary": "Accept-Encoding"}
    if blob.etag:
        headers["ETag"] = blob.etag
    if blob.last_modified:
        headers["Last-Modified"] = blob.last_modified
    match _failed_condition(request, blob):
        case 412:
            return plain_answer(412, "this is another version\n")
        case 304:
            return Answer(304, headers, blob, 0, 0)
    span = asked_range(request, blob)
    if span is None:
        return Answer(200, headers, blob, 0, blob.size)
    start, stop = span
    if start >= stop:
        return plain_answer(416, "no such range\n", Content_Range=f"bytes */{blob.size}")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    return Answer(206, headers, blob, start, stop)


def asked_range(request: Request, blob: Blob) -> tuple[int, int] | None:
    """Return start and stop as asked for; None for the whole; start >= stop if out of reach (§14.1.2)."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").replace(" ", ""))
    if request.method != "GET" or match is None or not (match[1] or match[2]):
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition not in (_strong(blob.etag), blob.last_modified):
        return None
    if not match[1]:
        return max(blob.size - int(match[2]), 0), (blob.size if int(match[2]) else 0)
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    return start, min(int(match[2]) + 1, blob.size) if match[2] else blob.size


def _failed_condition(request: Request, blob: Blob) -> int | None:
    """Evaluate the conditions in the order of §13.2.2, and return the status they ask for, if any."""
    headers = request.headers
    if "if-match" in headers:
        if not _listed(_strong(blob.etag), headers["if-match"]):
            return 412
    elif _later(blob.modified, headers.get("if-unmodified-since")) is True:
        return 412
    if "if-none-match" in headers:
        if _listed(_opaque(blob.etag), headers["if-none-match"].replace("W/", "")):
            return 304
    elif _later(blob.modified, headers.get("if-modified-since")) is False:
        return 304
    return None


def _strong(etag: str | None) -> str | None:
    return None if etag is None or etag.startswith("W/") else etag


def _opaque(etag: str | None) -> str | None:
    return None if etag is None else etag.removeprefix("W/")


def _listed(etag: str | None, field_value: str) -> bool:
    return field_value.strip() == "*" or etag in [item.strip() for item in field_value.split(",")]


def _later(modified: int | None, date: str | None) -> bool | None:
    """Say whether the blob is younger than `date`; None when that cannot be said."""
    if modified is None or date is None:
        return None
    try:
        return modified > parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
