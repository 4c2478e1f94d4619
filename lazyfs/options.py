"""How a session works, as its caller says: plain values, and what holds when nothing is said.

They are apart from what they are for, so that a command can make them without having loaded any of that: a mount's
daemon loads it while its command only waits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lazyfs import records

ENVIRONMENT: Final = "env"
"""As `TransportOptions.proxy`: use what http_proxy, https_proxy and no_proxy say."""

DIRECT: Final = "none"
"""In place of a proxy: use none."""

FRESH_FOR: Final = 60.0
"""Seconds for which what the catalogue knows is not asked again, unless told otherwise."""

SCRUB_RATE: Final = 4 * 1024 * 1024
"""Bytes a second."""

Place = tuple[str, str, int]
"""Scheme, host, port."""


@dataclass(frozen=True, slots=True)
class Limits:
    """*Units*: `read_timeout` seconds, infinite to wait for ever; `memory` bytes of checked blocks."""

    read_timeout: float = 60.0
    memory: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CredentialOptions:
    """What the user gives. The headers, of files too, go to the origins in `named`, and to no other.

    Paths are absolute. `command` is a shell's command line; `netrc` may be missing, and then has nothing, and so may
    `auth_files`, which have the logins for registries.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    header_files: tuple[Path, ...] = ()
    named: frozenset[Place] = frozenset()
    netrc: Path | None = None
    command: str | None = field(default=None, repr=False)
    auth_files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How connections are made.

    `client_certificate` (and `client_key`, when it is not in the same file) is shown to the origins in `named`, and to
    no other; `proxy` is a URL, `ENVIRONMENT`, or None for no proxy.
    """

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    named: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class OriginOptions:
    """How one origin is asked, where that is not as for all others: what is None, or empty, is.

    The host of `place` may be `*.` and a domain, for all the hosts below it. Headers go to this origin, and to no
    other, and so does the client certificate. `proxy` is a URL, or `DIRECT`.

    *Units*: `connections` requests under way at the most; `rate` bytes of bodies a second at the most.
    """

    place: Place
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    header_files: tuple[Path, ...] = ()
    netrc: Path | None = None
    command: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    connections: int | None = None
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How origins are asked; `origins` has those that are asked in a way of their own.

    *Units*: `patience` is the seconds for which something is tried in vain before it is left alone; `hedge` the share
    of requests that may be sent twice.
    """

    credentials: CredentialOptions = field(default_factory=CredentialOptions)
    transport: TransportOptions = field(default_factory=TransportOptions)
    offline: bool = False
    patience: float = 60.0
    hedge: float = 0.03
    origins: tuple[OriginOptions, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How images are asked for: `platform` is `OS/ARCHITECTURE[/VARIANT]`, None for what this machine is.

    With `plain_http` registries on other hosts, too, are asked without TLS.
    """

    platform: str | None = None
    plain_http: bool = False


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a mount is watched: where its metrics are served, an address and a port, and what its log is like."""

    metrics: tuple[str, int] | None = None
    log_json: bool = False
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a session works.

    `mirrors` are (FROM, TO): what starts with FROM may be had at the same path under TO. *Units*: `block_size` bytes;
    `fresh_for` the seconds for which what is known of a URL is not asked again; `max_cache` and `min_free` bytes, 0 for
    no bound, None for the one that the store has. Of mounts only: `scrub_rate` bytes a second, whether the kernel may
    read what is whole straight from the store (`passthrough`), whether the next daemon takes over when one dies
    (`takeover`), whether boot profiles are recorded and replayed (`profile`), and files and URLs of some (`profiles`),
    `watch`, and the name of the user that the daemon runs as (`user`), None for who mounts.
    """

    store: Path
    client: ClientOptions = field(default_factory=ClientOptions)
    limits: Limits = field(default_factory=Limits)
    block_size: int = records.DEFAULT_BLOCK_SIZE
    mirrors: tuple[tuple[str, str], ...] = ()
    fresh_for: float = FRESH_FOR
    max_cache: int | None = None
    min_free: int | None = None
    scrub_rate: int = SCRUB_RATE
    passthrough: bool = True
    takeover: bool = True
    profile: bool = True
    profiles: tuple[str, ...] = ()
    watch: WatchOptions = field(default_factory=WatchOptions)
    registries: RegistryOptions = field(default_factory=RegistryOptions)
    user: str | None = None


def default_path() -> Path:
    """Return where the store lies when nobody says: `/var/cache/lazyfs` for root, else the user's cache directory."""
    if given := os.environ.get("LAZYFS_STORE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/cache/lazyfs")
    import platformdirs

    return Path(platformdirs.user_cache_dir("lazyfs"))
