"""The options that Python programs give, and the settings of a session that they come to."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from lazyfs import records, settings, sizes, urls
from lazyfs.errors import UsageError
from lazyfs.options import Settings
from lazyfs.versions import is_digest

StrPath = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """What `lazyfs.open`, `lazyfs.Store` and the others take: the options of the commands, by the same names.

    What is not given, or None, is as the configuration has it: `lazyfs config` shows that. *Units*: sizes are bytes,
    or text with K, M, G or T; times are seconds.
    """

    store: StrPath | None
    """The backing store, shared by every process that names it; LAZYFS_STORE, else the default one."""
    block_size: int | str
    """The unit of presence, for blobs new to the store: a power of two, 64K to 8M."""
    max_cache: int | str | None
    """Bytes of blob data in the store at the most, over all its processes; 0 for no bound, None for what it has."""
    min_free: int | str | None
    """Bytes to leave free on the store's file system."""
    headers: Mapping[str, str]
    """Sent to the origin of the URL that is given, and to no other."""
    header_file: StrPath | Iterable[StrPath] | None
    """The same from files, a header a line; they are read again when they change."""
    credential_command: str | None
    """Asked for what an origin wants to know of you; it speaks git's credential protocol."""
    netrc_file: StrPath
    """Looked at otherwise; NETRC, else ~/.netrc."""
    mirrors: Mapping[str, str]
    """From the start of URLs to what to put in its place, where the same may be had."""
    ca_file: StrPath | None
    """The authorities to trust for TLS, in place of the system's."""
    client_cert: StrPath | None
    """Shown to the origin of the URL that is given, and to no other."""
    client_key: StrPath | None
    """Its key, when that is not in the same file."""
    proxy: str | None
    """The URL of an HTTP proxy; `env`: those that the environment names."""
    offline: bool
    """Never touch the network: what the store has can be read, the rest is EIO."""
    read_timeout: float
    """What cannot be served by then is a TimeoutError; 0 to wait for ever."""
    revalidate: float
    """After that it is asked again, at an open, whether a URL has changed; 0: each time; math.inf: never."""
    hedge: float
    """Percent of the requests that may be sent a second time when they are slow."""


def settings_of(options: Options) -> Settings:
    """Make a session's settings of the options and the configuration, for any URL; `for_url` makes them one URL's.

    *Raises*: UsageError, which shows no secret; TypeError for an option that there is not.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if unknown := options.keys() - Options.__annotations__.keys():
        name = min(unknown)
        near = difflib.get_close_matches(name, Options.__annotations__, 1)
        raise TypeError(f"lazyfs has no option {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    for name in given.keys() & {"block_size", "max_cache", "min_free"}:
        given[name] = _size(given[name])
    for name in given.keys() & {"store", "netrc_file", "ca_file", "client_cert", "client_key"}:
        given[name] = Path(given[name])
    for name, most in (("read_timeout", math.inf), ("revalidate", math.inf), ("hedge", 100)):
        if name in given and not 0 <= given[name] <= most:
            raise UsageError(
                f"{name}: {given[name]} is not a number from 0{f' to {most}' if most < math.inf else ' on'}"
            )
    if not records.valid_block_size(given.get("block_size", records.DEFAULT_BLOCK_SIZE)):
        raise UsageError("block_size: not a power of two from 64K to 8M")
    if "headers" in given:
        given["headers"] = tuple(f"{name}: {value}" for name, value in given["headers"].items())
    if "mirrors" in given:
        given["mirrors"] = tuple(f"{start}={to}" for start, to in given["mirrors"].items())
    if "header_file" in given:
        said = given.pop("header_file")
        given["header_files"] = tuple(map(Path, [said] if isinstance(said, str | os.PathLike) else said))
    return settings.configured(**given)


def for_url(base: Settings, url: str) -> Settings:
    """Return the settings for a URL that somebody has given: what is secret goes to its origin, and to no other.

    Without a secret they are the same for all URLs, so that all share one session.
    """
    client = base.client
    secret = client.credentials.headers or client.credentials.header_files or client.transport.client_certificate
    if not secret or not urls.is_http(url):
        return base
    named = frozenset({urls.origin_of(url)})
    client = dataclasses.replace(
        client,
        credentials=dataclasses.replace(client.credentials, named=named),
        transport=dataclasses.replace(client.transport, named=named),
    )
    return dataclasses.replace(base, client=client)


def checked_digest(text: str) -> str:
    """Read `sha256:HEX`. *Raises*: UsageError."""
    if not is_digest(text):
        raise UsageError("a digest is written as sha256: and 64 hexadecimal digits")
    return text.lower()


def _size(said: int | str) -> int:
    size = sizes.parse_size(said) if isinstance(said, str) else int(said)
    if size < 0:
        raise UsageError(f"{said} is not a size")
    return size
