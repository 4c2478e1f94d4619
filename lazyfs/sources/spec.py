"""What a SOURCE on the command line means.  Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from urllib.parse import urlsplit

from lazyfs import entries, urls
from lazyfs.errors import UsageError
from lazyfs.given import GivenBlob
from lazyfs.sources.reference import SCHEME, parse_reference
from lazyfs.versions import starts_blob_id


class Form(enum.Enum):
    """The kinds of source."""

    FILE = "file"
    INDEX = "index"
    MANIFEST = "manifest"
    BLOB = "blob"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Source:
    """One source; `place` is a URL or, for a manifest, perhaps a local path; `name` is where it appears, if it says.

    For an image, `place` is its whole reference (reference.py).

    For a blob, `place` is its id, the start of it, or a path under a mount, until `given` says which blob it is.
    """

    form: Form
    place: str
    name: str = ""
    given: GivenBlob | None = None

    @property
    def remote(self) -> bool:
        """Whether it names an origin."""
        return self.form is Form.IMAGE or urls.is_http(self.place)

    @property
    def toml(self) -> bool:
        """Whether a manifest is in TOML, not in JSON Lines."""
        return _path(self.place).endswith(".toml")

    @property
    def shown(self) -> str:
        """The source as logs and errors show it."""
        return urls.redact(self.place) if self.remote else self.place


def parse_source(text: str) -> Source:
    """Read `URL`, `NAME=URL`, `URL/`, `FILE.toml`, `FILE.jsonl` or a URL of such a file, `NAME=BLOB` or `NAME=PATH`.

    `oci://HOST[:PORT]/REPO[:TAG|@DIGEST]` and `NAME=oci://...` are images. *Raises*: UsageError with one line.
    """
    if text.startswith(SCHEME):
        return Source(Form.IMAGE, str(parse_reference(text)))
    if urls.is_http(text):
        return _url_source(text, "")
    name, equals, url = text.partition("=")
    if equals and urls.is_http(url):
        if reason := entries.unsafe(name):
            raise UsageError(f"{name!r} cannot be the name of a file: {reason}; give another, as in disk.img=URL")
        return _url_source(url, name)
    if equals and url.startswith(SCHEME):
        if reason := entries.unsafe(name):
            raise UsageError(f"{name!r} cannot be the name of a directory: {reason}; give another, as in app=oci://…")
        return Source(Form.IMAGE, str(parse_reference(url)), name)
    if equals and (starts_blob_id(url) or url.startswith(("/", "./", "../"))):
        if reason := entries.unsafe(name):
            raise UsageError(f"{name!r} cannot be the name of a file: {reason}; give another, as in disk.img=BLOB")
        return Source(Form.BLOB, url, name)
    if text.endswith((".toml", ".jsonl")):
        return Source(Form.MANIFEST, text)
    forms = "an http(s) URL, NAME=URL, oci://IMAGE, FILE.toml, FILE.jsonl or NAME=BLOB"
    raise UsageError(f"{text!r} is no source; name {forms}")


def _url_source(url: str, name: str) -> Source:
    path = _path(url)
    if path.endswith("/") or not path:
        return Source(Form.INDEX, url, name)
    if not name and path.endswith((".toml", ".jsonl")):
        return Source(Form.MANIFEST, url)
    name = name or urls.last_segment(url)
    if reason := entries.unsafe(name):
        shown = urls.redact(url)
        raise UsageError(f"{shown} does not end in a name that can be shown ({reason}); give one, as in NAME=URL")
    return Source(Form.FILE, url, name)


def _path(place: str) -> str:
    return urlsplit(place).path if urls.is_http(place) else place
