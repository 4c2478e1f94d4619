"""What may be read off a URL, and what may be shown of one.  Pure.

A URL is opaque once given (TRAPS: a re-encoded one breaks its signature): these functions look at it and derive
names from it, and none of them changes what is sent to an origin.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
"""The usual ones."""

_NOTHING_TO_REDACT: Final = re.compile(r"https?://[a-z0-9.\-]+(?::[1-9][0-9]{0,3})?/[!\"$->@-~]*")
"""What `redact` returns as it is: no user, query or fragment, and a host that needs no rewriting."""


_IN_REGISTRY: Final = re.compile(r"https?://[^/?#]+/v2/([a-z0-9._/-]+)/(?:manifests/[^/?#]+|blobs/sha256:[0-9a-f]{64})")


def redact(url: str) -> str:
    """Return `url` without userinfo, query and fragment: the form for logs, errors, xattrs and `status`."""
    if _NOTHING_TO_REDACT.fullmatch(url):  # nearly all; to take a million of them apart takes five seconds
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(unreadable URL)"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def key(url: str) -> str:
    """Return the name under which the store knows `url`: a SHA-256, since the URL itself may hold a secret."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()


@functools.lru_cache(1024)
def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: two URLs with the same three are the same origin (RFC 6454 §4)."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)


def shown_origin(place: tuple[str, str, int]) -> str:
    """Return an origin as it is shown: `scheme://host:port`."""
    scheme, host, port = place
    return f"{scheme}://{host_and_port(host, port)}"


def host_and_port(host: str, port: int) -> str:
    """Return a host with its port as URLs have them: an address of IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_host(place: tuple[str, str, int]) -> str:
    """Return an origin's host, with its port unless that is the usual one: the form of messages, and git's `host=`."""
    scheme, host, port = place
    shown = host_and_port(host, port)
    return shown.removesuffix(f":{port}") if port == _PORTS.get(scheme) else shown


def last_segment(url: str) -> str:
    """Return the percent-decoded last segment of the URL's path; empty when it ends in a slash."""
    return os.fsdecode(unquote_to_bytes(urlsplit(url).path.rpartition("/")[2]))


def target(url: str) -> bytes | None:
    """Return what a request for `url` names, path and query, to the letter; None when no request line can carry it."""
    rest = url.partition("://")[2].partition("#")[0]
    path = rest[len(re.split("[/?]", rest, maxsplit=1)[0]) :]
    text = path if path.startswith("/") else "/" + path
    return text.encode() if text.isascii() and text.isprintable() and " " not in text else None


def repository_of(url: str) -> str:
    """Return the repository whose manifest or blob a URL of a registry names; empty for any other URL.

    *Source*: OCI distribution-spec v1.1, "Endpoints" (end-2, end-3).
    """
    match = _IN_REGISTRY.fullmatch(url)
    return match[1] if match else ""


def is_http(text: str) -> bool:
    """Say whether `text` is an absolute http or https URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def ways(url: str, mirrors: Iterable[str] = (), rules: Iterable[tuple[str, str]] = ()) -> tuple[str, ...]:
    """Return where what `url` names may be had, in order: there, at its own mirrors, and where `rules` lead.

    A rule (FROM, TO) leads from each URL that starts with FROM to the same path under TO.
    """
    first = [url, *mirrors]
    ruled = [to + one[len(start) :] for one in first for start, to in rules if one.startswith(start)]
    return tuple(dict.fromkeys(first + ruled))
