"""Directory listings as web servers print them.  Pure.

Understood are nginx's JSON (`autoindex_format json`) and every HTML page whose anchors are the directory's
children: nginx, Apache (plain, fancy, HTMLTable), lighttpd, Caddy, Python's http.server. There is no standard
for such pages, so no more is believed than is needed:

- a name is the percent-decoded link, never the text beside it, which servers cut short (`disk-20240..&gt;`);
- a link counts when it leads to a direct child of the listing's URL; all others (sort orders, the parent, a
  footer) are passed over in silence, since none of them announces a file;
- a size counts when it stands right after the time on the anchor's own line, is a plain integer, and the time is
  written as nginx does. Both print integers only when they are exact (`12K` or `1.2G` where they round), but with an
  exact size nobody asks the origin for the file's date, and Apache's, like lighttpd's, is in its server's zone.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from lazyfs.entries import Entry, Kind, Refusal, unsafe
from lazyfs.errors import SourceError
from lazyfs.sizes import SIZE_MAX
from lazyfs.sources.links import Base, decoded, encoded, wire
from lazyfs.times import civil_ns, http_date_ns
from lazyfs.urls import redact

MAX_ENTRIES = 1_000_000
"""Names in one directory; the caller bounds the bytes, this bounds what is made of them."""

_PIECE = 1 << 16
_LONGEST_TAG = 1 << 18  # also of a comment or an inline script

_JSON = re.compile(r"(?:application|text)/(?:[\w.\-]+\+)?json")
_HTML = re.compile(r"text/html|application/xhtml\+xml")

_TIME_AND_SIZE = re.compile(
    r"\s*/?\s*"  # lighttpd prints a directory's slash behind the anchor
    r"(?:(?P<nginx>[0-9]{2}-[A-Z][a-z]{2}-[0-9]{4})|(?P<other>[0-9]{4}-(?:[0-9]{2}|[A-Z][a-z]{2})-[0-9]{2}))"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
    r"(?(nginx)(?:\s+(?P<size>[0-9]{1,19})(?=\s\s|\s*$))?)",  # not the 20 of "20 KB" or "20 GiB image"
    re.ASCII,
)


def parse_index(body: bytes, content_type: str, base_url: str) -> Iterator[Entry | Refusal]:
    """Yield the direct children of `base_url` that the listing `body` announces, in its order.

    Of two links with the same name the first counts. A page without any is an empty directory. It is parsed
    piece by piece as the iterator is advanced, so the caller may pause between entries.

    *Units*: times in HTML are to the minute, taken as UTC.
    *Raises*: SourceError, when advanced: neither HTML nor JSON by its type, JSON that is not a list, or more
    than `MAX_ENTRIES` entries.
    *Source*: nginx `ngx_http_autoindex_module.c`, Apache `mod_autoindex.c`; real pages in tests/unit/pages.
    """
    shown = redact(base_url)
    try:
        base = Base.of(base_url)
    except ValueError:
        raise SourceError(f"{shown}: not an http or https URL") from None
    media = content_type.partition(";")[0].strip().lower()
    if not media:
        media = "application/json" if body[:64].lstrip().startswith(b"[") else "text/html"
    if _JSON.fullmatch(media):
        found = _from_json(body, base, shown)
    elif _HTML.fullmatch(media):
        found = _from_html(body, base, shown)
    else:
        what = f"the server sent {media[:60]!r}, not a directory index in HTML or JSON"
        raise SourceError(f"{shown}: {what}; a file's URL has no slash at its end")
    seen: set[str] = set()
    for count, item in enumerate(found):
        if count >= MAX_ENTRIES:
            raise SourceError(f"{shown}: the index has more than {MAX_ENTRIES} entries")
        if isinstance(item, Entry):
            if item.path in seen:
                continue
            seen.add(item.path)
        yield item


def _entry(name: str, kind: Kind, url: str, size: int | None, mtime_ns: int | None) -> Entry | Refusal:
    # A "/" here was %2F in the link: a name that no file system can show.
    reason = "the name has a slash" if "/" in name else unsafe(name)
    if reason is not None:
        return Refusal(ascii(name[:80]), reason)
    if size is not None and (kind is Kind.DIRECTORY or size > SIZE_MAX):
        size = None
    return Entry(name, kind, url=url, size=size, mtime_ns=mtime_ns)


# --- HTML ---------------------------------------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects in `found` each anchor's href with the text behind it, up to the end of its line.

    The line matters: servers that print the time in front of the name would otherwise lend each file the next
    one's size. It ends at a newline, at the tags of `_ENDS_LINE` and at the next anchor, except that a second
    anchor with the same href goes on with it: Apache's IconsAreLinks makes the icon an anchor of its own.
    """

    _ENDS_LINE = frozenset({"tr", "li", "br", "hr", "p", "div", "dt", "dd", "table", "ul", "pre"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []
        self._href: str | None = None  # of the line being read; None outside
        self._inside = False  # between <a> and </a>
        self._text: list[str] = []

    def end_line(self) -> None:
        if self._href is not None:
            self.found.append((self._href, "".join(self._text)))
        self._href = None
        self._inside = False
        self._text.clear()

    def end_body(self) -> None:
        # A body cut short in "12345" would leave a size of 12, so an unfinished line is but its link.
        self._text.clear()
        self.end_line()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            href = next((value for name, value in attrs if name == "href"), None)
            if href != self._href:
                self.end_line()
            self._text.clear()
            self._href = href
            self._inside = True
        elif tag in self._ENDS_LINE:
            self.end_line()
        elif tag in ("td", "th"):
            self._text.append("  ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False
        elif tag in self._ENDS_LINE:
            self.end_line()

    def handle_data(self, data: str) -> None:
        if self._href is not None and not self._inside:
            line, newline, _ = data.partition("\n")
            self._text.append(line)
            if newline:
                self.end_line()


def _from_html(body: bytes, base: Base, shown: str) -> Iterator[Entry | Refusal]:
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    parser = _Links()
    for start in range(0, len(body), _PIECE):
        try:
            parser.feed(decode(body[start : start + _PIECE]))
        except AssertionError:  # html.parser's way to say that it cannot go on, at `<![` and no name
            raise SourceError(f"{shown}: not a directory index: not HTML that can be read") from None
        # What the parser could not finish it scans again with each piece: a bound keeps the whole linear.
        if len(parser.rawdata) > _LONGEST_TAG:
            raise SourceError(f"{shown}: not a directory index: a tag in it is over {_LONGEST_TAG} bytes")
        yield from _children(parser.found, base)
        parser.found.clear()
    # close() is left out on purpose: it tries to make sense of an unfinished tag, in quadratic time
    # (CVE-2025-6069), and half an anchor is nothing to show.
    parser.end_body()
    yield from _children(parser.found, base)


def _children(links: list[tuple[str, str]], base: Base) -> Iterator[Entry | Refusal]:
    for href, text in links:
        child = base.child(href.strip(" \t\r\n\f"))
        if child is None:
            continue
        url, segment = child
        size = mtime_ns = None
        if match := _TIME_AND_SIZE.match(text):
            day = match["nginx"] or match["other"]
            mtime_ns = civil_ns(day, match["hour"], match["minute"], match["second"] or "0")
            size = int(match["size"]) if match["size"] else None
        kind = Kind.DIRECTORY if segment.endswith("/") else Kind.FILE
        # Neither can raise: html.parser gives no lone surrogates (it turns `&#xD800;` into U+FFFD).
        yield _entry(decoded(segment.removesuffix("/")), kind, wire(url), size, mtime_ns)


# --- JSON ---------------------------------------------------------------------------------------------------


def _from_json(body: bytes, base: Base, shown: str) -> Iterator[Entry | Refusal]:
    try:
        # nginx copies a name's bytes into the JSON as they are, valid UTF-8 or not.
        items = json.loads(body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise SourceError(f"{shown}: the index says it is JSON, but cannot be read as such") from None
    if not isinstance(items, list):
        raise SourceError(f"{shown}: the index is JSON, but not a list")
    for number, item in enumerate(items, 1):
        yield _from_item(item, number, base)


def _from_item(item: object, number: int, base: Base) -> Entry | Refusal:
    where = f"item {number}"
    if not isinstance(item, dict) or not isinstance(name := item.get("name"), str):
        return Refusal(where, "it has no name")
    kind = {"file": Kind.FILE, "directory": Kind.DIRECTORY}.get(str(item.get("type")))
    if kind is None:
        return Refusal(where, "it is neither a file nor a directory")
    size, mtime = item.get("size"), item.get("mtime")
    if type(size) is not int or size < 0:  # not isinstance: true is no size
        size = None
    mtime_ns = http_date_ns(mtime) if isinstance(mtime, str) else None
    try:
        url = base.site + base.directory + encoded(name) + ("/" if kind is Kind.DIRECTORY else "")
    except ValueError:
        return Refusal(where, "the name has a lone surrogate")
    return _entry(name, kind, url, size, mtime_ns)
