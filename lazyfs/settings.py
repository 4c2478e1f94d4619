"""From options and the configuration to the settings of a session; what cannot work is refused before anything runs."""

from __future__ import annotations

import dataclasses
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from lazyfs import privileges, urls
from lazyfs.configuration import Configuration, load
from lazyfs.configuration.files import Said
from lazyfs.configuration.keys import OF_ORIGINS, read_mirror
from lazyfs.errors import Misconfigured, UsageError
from lazyfs.options import (
    DIRECT,
    ENVIRONMENT,
    FRESH_FOR,
    ClientOptions,
    CredentialOptions,
    Limits,
    OriginOptions,
    Place,
    RegistryOptions,
    Settings,
    TransportOptions,
    default_path,
)
from lazyfs.origin.headerfiles import HeaderFiles, read_header_file
from lazyfs.origin.headerlines import parse_header
from lazyfs.origin.own import Own
from lazyfs.records import DEFAULT_BLOCK_SIZE
from lazyfs.sources.platforms import parse_platform
from lazyfs.sources.reference import SCHEME, parse_reference

UNSAID: Final[Mapping[str, Any]] = {
    "store": None, "block_size": DEFAULT_BLOCK_SIZE, "max_cache": None, "min_free": None, "headers": (),
    "header_files": (), "credential_command": None, "netrc_file": Path("~/.netrc"), "mirrors": (), "ca_file": None,
    "client_cert": None, "client_key": None, "proxy": None, "platform": None, "plain_http": False, "offline": False,
    "read_timeout": 60.0, "revalidate": FRESH_FOR, "hedge": 3.0, "user": None,
}  # fmt: skip
"""The options of whatever asks origins, when nobody says any."""


class BadOption(UsageError):
    """An option that cannot be meant; `option` is its name, and `reason` shows no secret."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option = option
        self.reason = reason


def configured(sources: Iterable[str] = (), **said: Any) -> Settings:
    """Return the settings for who uses lazyfs from Python: as a command with these options, by their names in `UNSAID`.

    `sources` are what is to be read: options for the origins that are named are for theirs. *Raises*: UsageError.
    """
    if unknown := said.keys() - UNSAID:
        raise UsageError(f"there is no option {min(unknown)}; there are: {', '.join(UNSAID)}")
    configuration = load()
    options = {**UNSAID, **configuration.parameters(), **said}
    store = Path(options["store"] or default_path()).expanduser().absolute()
    return settings_of(store, sources, options, configuration)


def settings_of(
    store: Path, sources: Iterable[str], options: Mapping[str, Any], configuration: Configuration
) -> Settings:
    """Make a session's settings of all options and of what is configured for origins. *Raises*: UsageError."""
    registries = _registries(options)
    named = frozenset(urls.origin_of(url) for text in sources if (url := _url_in(text, registries)))
    patience = options["read_timeout"] or math.inf
    origins = own_options(configuration)
    check_origins(configuration, {Own(origins).of(place).place for place in named})
    return Settings(
        store,
        ClientOptions(
            _credentials(options, named), _transport(options, named), options["offline"], patience,
            options["hedge"] / 100, origins,
        ),
        Limits(read_timeout=patience),
        options["block_size"],
        (*_mirrors(options), *_own_mirrors(configuration)),
        options["revalidate"],
        options["max_cache"],
        options["min_free"],
        registries=registries,
    )  # fmt: skip


def _url_in(source: str, registries: RegistryOptions) -> str | None:
    """Return the URL of a source that names an origin."""
    place = source if urls.is_http(source) or source.startswith(SCHEME) else source.partition("=")[2]
    if place.startswith(SCHEME):
        return parse_reference(place).base(plain_http=registries.plain_http)
    return place if urls.is_http(place) else None


def _registries(options: Mapping[str, Any]) -> RegistryOptions:
    try:
        if options["platform"] is not None:
            parse_platform(options["platform"])
    except UsageError as exc:
        raise BadOption("platform", str(exc)) from None
    return RegistryOptions(options["platform"], options["plain_http"])


def _mirrors(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for text in options["mirrors"]:
        try:
            yield read_mirror(text)
        except UsageError as exc:
            raise BadOption("mirror", str(exc)) from None


def _own_mirrors(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Yield the rules for the mirrors of origins, whose URLs may be written with the usual port or without."""
    for place, own in configuration.origins.items():
        written = dict.fromkeys((urls.shown_origin(place), f"{place[0]}://{urls.shown_host(place)}"))
        for base in own["mirrors"].value if "mirrors" in own else ():
            yield from ((f"{origin}/", base) for origin in written)


def _credentials(options: Mapping[str, Any], named: frozenset[Place]) -> CredentialOptions:
    headers = []
    for text in options["headers"]:
        try:
            headers.append(parse_header(text, "header"))
        except UsageError as exc:
            raise BadOption("header", str(exc).partition(": ")[2]) from None
    files: list[Path] = []
    for path in options["header_files"]:
        path = path.expanduser().absolute()
        try:
            found = read_header_file(path)
            if stat.S_ISREG(path.stat().st_mode):
                files.append(path)
            else:  # a pipe: what is in it can be read once
                headers += found
        except (UsageError, OSError) as exc:
            raise BadOption("header-file", str(exc)) from None
    netrc = options["netrc_file"].expanduser().absolute()
    user = options.get("user")
    logins = tuple(auth_files(os.getuid() if user is None else privileges.user_called(user).uid))
    return CredentialOptions(tuple(headers), tuple(files), named, netrc, options["credential_command"], logins)


def auth_files(uid: int) -> Iterator[Path]:
    """Yield where a user's logins for registries may be, in skopeo's order: containers' tools' files, then docker's.

    *Source*: containers-auth.json(5); containers/image, pkg/docker/config/config.go.
    """
    said = os.environ
    if given := said.get("REGISTRY_AUTH_FILE"):
        yield Path(given).absolute()
        return
    runtime, home = said.get("XDG_RUNTIME_DIR"), Path("~").expanduser()
    yield Path(f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{uid}/auth.json").absolute()
    yield Path(said.get("XDG_CONFIG_HOME") or home / ".config").absolute() / "containers/auth.json"
    yield Path(said.get("DOCKER_CONFIG") or home / ".docker").absolute() / "config.json"
    if uid == 0:
        yield Path("/etc/containers/auth.json")


def _transport(options: Mapping[str, Any], named: frozenset[Place]) -> TransportOptions:
    ca_file, certificate, key = (
        options[name] and options[name].expanduser().absolute() for name in ("ca_file", "client_cert", "client_key")
    )
    if ca_file is not None:
        _check_authorities(ca_file)
    if certificate is not None:
        _check_certificate(certificate, key)
    elif key is not None:
        raise BadOption("client-key", "a key is of no use without --client-cert")
    proxy = options["proxy"]
    if proxy is not None and proxy not in (ENVIRONMENT, DIRECT) and not urls.is_http(proxy):
        raise BadOption("proxy", "a proxy is an http or https URL, env, or none")
    return TransportOptions(ca_file, certificate, key, None if proxy == DIRECT else proxy, named)


def _check_certificate(certificate: Path, key: Path | None) -> None:
    """Refuse a client certificate that TLS could not use later. *Raises*: BadOption."""

    def no_password() -> str:
        raise UsageError("its key is encrypted, and nobody can be asked for the password")

    import ssl

    try:
        ssl.create_default_context().load_cert_chain(certificate, key, no_password)
        return
    except ssl.SSLError:
        reason = "no certificate with the key to it"
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror}"
    except UsageError as exc:
        reason = str(exc)
    raise BadOption("client-cert", f"{certificate}: {reason}")


def _check_authorities(path: Path) -> None:
    """Refuse a file that TLS could not use later. *Raises*: BadOption."""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, ValueError) as exc:
        raise BadOption("ca-file", f"{path} has no certificate in PEM form") from exc
    except OSError as exc:
        raise BadOption("ca-file", f"{path} cannot be read: {exc.strerror}") from exc


def own_options(configuration: Configuration) -> tuple[OriginOptions, ...]:
    """Return how origins are asked that are configured one by one. *Raises*: Misconfigured."""
    found = []
    for place, said in configuration.origins.items():
        if "client-key" in said and "client-cert" not in said:
            raise Misconfigured(f"{said['client-key'].by}: client-key: a key is of no use without client-cert")
        options = OriginOptions(place)
        for name, key in OF_ORIGINS.items():
            if name in said and name != "mirrors":
                options = dataclasses.replace(options, **{key.parameter: _absolute(said[name].value)})
        found.append(options)
    return tuple(found)


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.expanduser().absolute()
    return tuple(map(_absolute, value)) if isinstance(value, tuple) else value


def check_origins(configuration: Configuration, places: Iterable[Place]) -> None:
    """Refuse files of origins that could not be used later; those of others may never be. *Raises*: Misconfigured."""
    for place in places:
        said = configuration.origins.get(place, {})
        try:
            for path in _paths(said, "header-file"):
                HeaderFiles([path]).headers()
            for path in _paths(said, "ca-file"):
                _check_authorities(path)
            for path in _paths(said, "client-cert"):
                _check_certificate(path, next(_paths(said, "client-key"), None))
        except BadOption as exc:
            raise Misconfigured(f"{said[exc.option].by}: {exc}") from None
        except UsageError as exc:
            raise Misconfigured(f"{said['header-file'].by}: header-file: {exc}") from None


def _paths(said: Mapping[str, Said], name: str) -> Iterator[Path]:
    if name in said:
        value = _absolute(said[name].value)
        yield from value if isinstance(value, tuple) else (value,)
