"""Through which proxy an origin is asked, or none: what is said of the origin, else what is said of all.

An origin is a scheme, a host and a port, also here: another port of the same host is another origin.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import urllib.request
from collections.abc import Iterator
from typing import Final

from lazyfs import urls
from lazyfs.errors import UsageError
from lazyfs.options import DIRECT, ENVIRONMENT, Place
from lazyfs.origin.own import Own

log = logging.getLogger(__name__)

_EXCEPTED: Final = re.compile(r"(?:\*?\.|\*)?([^*\s/?#@:\[\]]+)(?::([0-9]+))?")

_Excepted = tuple[str, int | None, bool]
"""A host, its port if only that is excepted, and whether those below it are, too."""


class Proxies:
    """The proxies of one process. *Raises*: UsageError, for one in the environment that cannot be used."""

    def __init__(self, proxy: str | None, own: Own) -> None:
        self._own = own
        self._of_schemes: dict[str, str] = {}
        self._excepted: tuple[_Excepted, ...] = ()
        if proxy == ENVIRONMENT:
            found = urllib.request.getproxies_environment()
            self._of_schemes = {
                scheme: _usable(scheme, found[scheme]) for scheme in ("http", "https") if scheme in found
            }
            excepted = [host.strip() for host in found.get("no", "").split(",")]
            if "*" in excepted:
                self._of_schemes = {}
            self._excepted = tuple(_excepted(filter(None, excepted)))
        elif proxy is not None:
            self._of_schemes = {"http": proxy, "https": proxy}

    def of(self, place: Place) -> str | None:
        """Return the URL of an origin's proxy; None for no proxy."""
        own = self._own.of(place).proxy
        if own is not None:
            return None if own == DIRECT else own
        return None if self._excepted and self._is_excepted(place) else self._of_schemes.get(place[0])

    def _is_excepted(self, place: Place) -> bool:
        _, host, port = place
        return any(
            its_port in (None, port) and (host == name or (below and host.endswith(f".{name}")))
            for name, its_port, below in self._excepted
        )


def _usable(scheme: str, said: str) -> str:
    proxy = said if "://" in said else f"http://{said}"
    if not urls.is_http(proxy):
        raise UsageError(f"{scheme}_proxy: a proxy is an http or https URL")
    return proxy


def _excepted(said: Iterator[str]) -> Iterator[_Excepted]:
    """Read what no_proxy names: addresses, or hosts with those below them. *Source*: curl(1), "NO_PROXY"."""
    for one in said:
        try:
            yield str(ipaddress.ip_address(one.strip("[]"))), None, False
        except ValueError:
            if match := _EXCEPTED.fullmatch(one.lower()):
                yield match[1], int(match[2]) if match[2] else None, True
            else:
                log.warning("no_proxy: %s is neither a host nor an address, and excepts nothing", one)
