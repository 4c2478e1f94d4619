"""From what a source wrote as a link to the URL that will be asked for.  Pure.

A URL is opaque once given (urls.py), so joining keeps every character that was written. `urljoin` does not:
it drops an empty `;` or `?` (bpo-22852), and Apache prints a name that ends in `;` just so. It is used here
only for links with dot segments, where rewriting is the point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urljoin

from lazyfs.urls import is_http, origin_of

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*)([^?#]*)")
_DOTS = re.compile(r"[^?#]*?(?<![^/])\.\.?(?![^/?#])")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Base:
    """What relative links are joined to.

    `site` is scheme and authority as they were written, `directory` the path up to and with its last slash.
    """

    site: str
    directory: str

    @classmethod
    def of(cls, url: str) -> Base:
        """Take the base from the URL of an index or manifest; its query is not part of it.

        *Raises*: ValueError when `url` is no http(s) URL.
        """
        match = _ABSOLUTE.match(url)
        if match is None or not is_http(url):
            raise ValueError("not an http or https URL")
        wire(url)  # raises now what would otherwise be raised for each link
        return cls(match[1], match[2][: match[2].rfind("/") + 1] or "/")

    def join(self, link: str) -> str:
        """Return the absolute URL that `link` means here, every written character kept.

        *Raises*: ValueError for a link that no URL can be made of.
        *Source*: RFC 3986 §5.2.
        """
        if _SCHEME.match(link):
            return link
        link = link.removeprefix("./")
        if link[:1] in ("", "?", "#") or _DOTS.match(link):
            return urljoin(self.site + self.directory, link)
        if link.startswith("//"):
            return f"{self.site.partition(':')[0]}:{link}"
        return self.site + link if link.startswith("/") else self.site + self.directory + link

    def child(self, link: str) -> tuple[str, str] | None:
        """Return URL and last segment (with its slash, if any) of a link to a direct child, else None.

        Sort links, parents, other servers and deeper paths are all no children; nor is anything with a query
        or a fragment. The URL is on `site` as written there, so userinfo in a page's link goes nowhere.
        """
        if "?" in link or "#" in link:
            return None
        try:
            url = self.join(link)
            match = _ABSOLUTE.match(url)
            if match is None:
                return None
            site, path = match.groups()
            if site != self.site and origin_of(site) != origin_of(self.site):
                return None
            cut = path.rfind("/", 0, -1) + 1
            directory, segment = path[:cut], path[cut:]
            # A server that prints absolute links may escape their path otherwise than whoever named the base.
            if directory != self.directory and _parts(directory) != _parts(self.directory):
                return None
        except ValueError:
            return None
        return None if segment in ("", "/") else (self.site + path, segment)


def _parts(path: str) -> list[str]:
    return [decoded(part) for part in path.split("/")]


def decoded(segment: str) -> str:
    """Return a segment percent-decoded; what is not UTF-8 becomes surrogate escapes, as in `Entry.path`.

    *Raises*: ValueError for a lone surrogate, which stands for no byte.
    """
    if "%" not in segment:
        return segment
    return unquote_to_bytes(segment.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def encoded(name: str) -> str:
    """Return `name` as one segment of a URL, with all but the unreserved characters escaped, as nginx does.

    *Raises*: ValueError for a lone surrogate, which stands for no byte.
    *Source*: RFC 3986 §2.3.
    """
    return quote(name.encode("utf-8", "surrogateescape"), safe="")


def wire(url: str) -> str:
    """Return absolute `url` with what no request line can carry escaped, and all else as it is.

    Escaped are spaces, control characters and what is not ASCII, behind the authority: a host name has a way
    of its own, IDNA, and that is the client's. A URL without any is returned unchanged.

    *Raises*: ValueError for an authority that is none, and for a lone surrogate, which stands for no byte.
    *Source*: RFC 3987 §3.1.
    """
    if url.isascii() and url.isprintable() and " " not in url:
        return url
    match = _ABSOLUTE.match(url)
    if match is None or " " in match[1] or not match[1].isprintable():
        raise ValueError("not an absolute URL")
    return match[1] + quote(url[match.end(1) :].encode("utf-8", "surrogateescape"), safe=_PRINTABLE)
