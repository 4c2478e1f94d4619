"""The keys of the configuration: what they are called, and what may be said of each.  Pure.

A key has the name of the option that it stands for, and is there in up to three ways: in files, as `max-cache = "20G"`;
in the environment, as `LAZYFS_MAX_CACHE`; and for one origin, in a table of a file. What is said is checked here as far
as it can be without a look at anything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from lazyfs import records, sizes, urls
from lazyfs.errors import UsageError
from lazyfs.options import DIRECT, ENVIRONMENT, Place
from lazyfs.origin.headerlines import parse_header

RATE_LEAST: Final = 64 * 1024
"""Bytes a second: with less, answers would be given up as too slow."""

CONNECTIONS_MOST: Final = 512

Reader = Callable[[Any, Path | None], Any]
"""Reads what is said in a file in some directory, or in the environment, where it is text and there is none.

*Raises*: UsageError, which shows nothing that may be a secret.
"""

_YES: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Key:
    """A key. `parameter` is what commands, or `OriginOptions`, call it; `show` makes a line of its value, no secret.

    Of `several` values there is a list, or one alone; in the environment they stand with spaces between them.
    """

    name: str
    parameter: str
    read: Reader
    show: Callable[[Any], str] = str
    several: bool = False

    @property
    def variable(self) -> str:
        """The variable in the environment."""
        return "LAZYFS_" + self.name.upper().replace("-", "_")

    def value(self, said: Any, directory: Path | None) -> Any:
        """Return the value of what is said. *Raises*: UsageError."""
        if not self.several:
            return self.read(said, directory)
        if directory is None:
            said = said.split()
        return tuple(self.read(one, directory) for one in (said if isinstance(said, list) else [said]))

    def shown(self, value: Any) -> str:
        """Return a value as people may see it."""
        if value is None or value == ():
            return "-"
        if self.several:
            return ", ".join(map(self.show, value))
        return self.show(value)

    def plain(self, value: Any) -> Any:
        """Return a value as JSON may show it: a number or a switch as it is, anything else as people see it."""
        if self.several:
            return list(map(self.show, value))
        return value if value is None or (isinstance(value, (int, float)) and value < math.inf) else self.show(value)


def _size(said: Any, _directory: Path | None) -> int:
    if isinstance(said, str):
        return sizes.parse_size(said)
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    raise UsageError('a size is a number of bytes, or one with K, M, G or T in quotes, such as "20G"')


def _block_size(said: Any, directory: Path | None) -> int:
    size = _size(said, directory)
    if not records.valid_block_size(size):
        raise UsageError("a block size is a power of two from 64K to 8M")
    return size


def _rate(said: Any, directory: Path | None) -> int:
    if (rate := _size(said, directory)) < RATE_LEAST:
        raise UsageError("a rate is 64K a second or more")
    return rate


def _connections(said: Any, _directory: Path | None) -> int:
    if isinstance(said, int) and not isinstance(said, bool) and 1 <= said <= CONNECTIONS_MOST:
        return said
    raise UsageError(f"it takes a number of requests, from 1 to {CONNECTIONS_MOST}")


def _number(said: Any) -> float:
    """Return a number, also of one in quotes; NaN for anything else."""
    try:
        return math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        return math.nan


def _seconds(said: Any, _directory: Path | None) -> float:
    seconds = _number(said)
    if not 0 <= seconds < math.inf:
        raise UsageError("it takes a number of seconds, 0 or more")
    return seconds


def _seconds_or_never(said: Any, _directory: Path | None) -> float:
    seconds = math.inf if said == "never" else _number(said)
    if not (said == "never" or 0 <= seconds < math.inf):
        raise UsageError('it takes a number of seconds, 0 or more, or "never"')
    return seconds


def _percent(said: Any, _directory: Path | None) -> float:
    percent = _number(said)
    if not 0 <= percent <= 100:
        raise UsageError("it takes a number of percent, from 0 to 100")
    return percent


def _switch(said: Any, directory: Path | None) -> bool:
    if directory is None and said.lower() in _YES:
        return _YES[said.lower()]
    if not isinstance(said, bool):
        raise UsageError("it takes true or false")
    return said


def _text(said: Any, _directory: Path | None) -> str:
    if not isinstance(said, str) or not said.strip():
        raise UsageError("it takes text, in quotes")
    return said


def _path(said: Any, directory: Path | None) -> Path:
    """Read a path, which is relative to the file that says it; `~` is left to who uses it."""
    path = Path(_text(said, directory))
    return path if directory is None or said.startswith("~") else directory / path


def _path_or_url(said: Any, directory: Path | None) -> str:
    return said if "://" in _text(said, directory) else str(_path(said, directory))


def _one_of(*words: str) -> Reader:
    def read(said: Any, _directory: Path | None) -> str:
        if said not in words:
            raise UsageError(f"it takes one of: {', '.join(words)}")
        return str(said)

    return read


def _address(said: Any, _directory: Path | None) -> tuple[str, int]:
    return read_address(str(said) if isinstance(said, int) and not isinstance(said, bool) else said)


def read_address(text: Any) -> tuple[str, int]:
    """Read where to listen: `PORT` on loopback, or `ADDR:PORT`, one of IPv6 in brackets. *Raises*: UsageError."""
    import ipaddress  # only here, since few say one

    address, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    try:
        found = ipaddress.ip_address("127.0.0.1" if address in ("", "localhost") else address.strip("[]"))
    except ValueError:
        found = None
    brackets = address.startswith("[") and address.endswith("]")
    if found is None or brackets != (found.version == 6) or not re.fullmatch("[0-9]{1,5}", port):
        raise UsageError(f"{text!r} is no PORT, nor an address and a port, as in 127.0.0.1:9100")
    if int(port) > 65535:
        raise UsageError(f"{text!r}: ports go up to 65535")
    return str(found), int(port)


def _proxy(said: Any, _directory: Path | None) -> str:
    if isinstance(said, str) and (said in (ENVIRONMENT, DIRECT) or urls.is_http(said)):
        return said
    raise UsageError(f"a proxy is an http or https URL, {ENVIRONMENT}, or {DIRECT}")


def _own_proxy(said: Any, _directory: Path | None) -> str:
    if isinstance(said, str) and (said == DIRECT or urls.is_http(said)):
        return said
    raise UsageError(f"an origin's proxy is an http or https URL, or {DIRECT}")


def _header(said: Any, directory: Path | None) -> tuple[str, str]:
    return parse_header(_text(said, directory), "header")


def read_mirror(said: Any, _directory: Path | None = None) -> tuple[str, str]:
    """Read `FROM=TO`; either may have a `=` in it. *Raises*: UsageError."""
    match = re.fullmatch(r"(https?://.+?)=(https?://.+)", said) if isinstance(said, str) else None
    if match is None:
        raise UsageError("a mirror is written as FROM=TO, two http or https URLs")
    return match[1], match[2]


def _mirror(said: Any, directory: Path | None) -> str:
    read_mirror(said, directory)
    return str(said)


def _base(said: Any, _directory: Path | None) -> str:
    """Read where a mirror has what is at the root of its origin; ends in a slash."""
    if not isinstance(said, str) or not urls.is_http(said) or "?" in said or "#" in said:
        raise UsageError("a mirror of an origin is the http or https URL that has what the origin has at /")
    return said if said.endswith("/") else f"{said}/"


def read_origin(name: str) -> Place:
    """Read an origin, `SCHEME://HOST[:PORT]`, or one for all hosts below a domain, `SCHEME://*.DOMAIN[:PORT]`.

    *Raises*: UsageError.
    """
    if not urls.is_http(name):
        raise UsageError(
            'an origin is a scheme and a host, such as "https://example.org" or "https://example.org:8443"'
        )
    parts, place = urlsplit(name), urls.origin_of(name)
    host = place[1].removeprefix("*.")
    if "@" in parts.netloc:
        raise UsageError("an origin has no user: put logins into the netrc-file, or name a credential-command")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        written = f"{place[0]}://{parts.netloc}"
        raise UsageError(f'an origin has no path: what is said is for all of it; write [origin."{written}"]')
    if "*" in host or (host != place[1] and re.search(r"(^|\.)[0-9]+$", host)):
        raise UsageError("a * stands for the first part of a host's name, as in https://*.example.org")
    return place


def _yes_no(value: Any) -> str:
    return "true" if value else "false"


def _number_shown(value: float) -> str:
    return "never" if value == math.inf else f"{value:g}"


def _hidden(_value: Any) -> str:
    return "(set, not shown)"


def _header_shown(value: Any) -> str:
    name = value.partition(":")[0] if isinstance(value, str) else value[0]
    return f"{name}: (not shown)"


def _url_shown(value: str) -> str:
    return urls.redact(value) if "://" in value else value


def _mirror_shown(value: str) -> str:
    return "=".join(map(urls.redact, read_mirror(value)))


def _address_shown(value: tuple[str, int]) -> str:
    return urls.host_and_port(*value)


_size_shown = sizes.format_size

OF_COMMANDS: Final = {
    key.name: key
    for key in (
        Key("store", "store", _path),
        Key("block-size", "block_size", _block_size, _size_shown),
        Key("max-cache", "max_cache", _size, _size_shown),
        Key("min-free", "min_free", _size, _size_shown),
        Key("header-file", "header_files", _path, several=True),
        Key("credential-command", "credential_command", _text, _hidden),
        Key("netrc-file", "netrc_file", _path),
        Key("mirror", "mirrors", _mirror, _mirror_shown, several=True),
        Key("ca-file", "ca_file", _path),
        Key("client-cert", "client_cert", _path),
        Key("client-key", "client_key", _path),
        Key("proxy", "proxy", _proxy, _url_shown),
        Key("platform", "platform", _text),
        Key("plain-http", "plain_http", _switch, _yes_no),
        Key("offline", "offline", _switch, _yes_no),
        Key("read-timeout", "read_timeout", _seconds, _number_shown),
        Key("revalidate", "revalidate", _seconds_or_never, _number_shown),
        Key("hedge", "hedge", _percent, _number_shown),
        Key("allow-other", "allow_other", _switch, _yes_no),
        Key("scrub", "scrub_rate", _size, _size_shown),
        Key("passthrough", "passthrough", _switch, _yes_no),
        Key("takeover", "takeover", _switch, _yes_no),
        Key("profile", "profiles", _path_or_url, _url_shown, several=True),
        Key("no-profile", "no_profile", _switch, _yes_no),
        Key("metrics", "metrics", _address, _address_shown),
        Key("user", "user", _text),
        Key("log-format", "log_format", _one_of("text", "json")),
        Key("log-level", "log_level", _one_of("debug", "info", "warning", "error")),
    )
}
"""Those of commands; each may be in the environment, and those in files that are not `OF_NAMED`."""

OF_NAMED: Final = frozenset({"header-file", "client-cert", "client-key"})
"""Options for the origins that a command names. A file would have them go to whatever is named one day."""

OF_ORIGINS: Final = {
    key.name: key
    for key in (
        Key("header", "headers", _header, _header_shown, several=True),
        Key("header-file", "header_files", _path, several=True),
        Key("credential-command", "command", _text, _hidden),
        Key("netrc-file", "netrc", _path),
        Key("mirrors", "mirrors", _base, _url_shown, several=True),
        Key("ca-file", "ca_file", _path),
        Key("client-cert", "client_certificate", _path),
        Key("client-key", "client_key", _path),
        Key("proxy", "proxy", _own_proxy, _url_shown),
        Key("connections", "connections", _connections),
        Key("rate", "rate", _rate, _size_shown),
    )
}
"""Those of one origin."""
