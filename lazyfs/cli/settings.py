"""From a command's options to the settings of a session; what cannot work is refused here, before anything runs."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lazyfs import privileges, urls
from lazyfs.errors import UsageError
from lazyfs.options import (
    ENVIRONMENT,
    ClientOptions,
    CredentialOptions,
    Limits,
    Place,
    RegistryOptions,
    Settings,
    TransportOptions,
)
from lazyfs.origin.headerfiles import read_header_file
from lazyfs.origin.headerlines import parse_header
from lazyfs.sources.platforms import parse_platform
from lazyfs.sources.reference import SCHEME, parse_reference


def settings_of(store: Path, sources: tuple[str, ...], options: dict[str, Any]) -> Settings:
    """Make a session's settings of the options. *Raises*: click.BadParameter, which shows no secret."""
    registries = _registries(options)
    named = frozenset(urls.origin_of(url) for text in sources if (url := _url_in(text, registries)))
    patience = options["read_timeout"] or math.inf
    return Settings(
        store,
        ClientOptions(
            _credentials(options, named), _transport(options, named), options["offline"], patience,
            options["hedge"] / 100,
        ),
        Limits(read_timeout=patience),
        options["block_size"],
        tuple(_mirror(text) for text in options["mirrors"]),
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


def _registries(options: dict[str, Any]) -> RegistryOptions:
    try:
        if options["platform"] is not None:
            parse_platform(options["platform"])
    except UsageError as exc:
        raise click.BadParameter(str(exc), param_hint="'--platform'") from None
    return RegistryOptions(options["platform"], options["plain_http"])


def _mirror(text: str) -> tuple[str, str]:
    """Read `FROM=TO`; either may have a `=` in it."""
    match = re.fullmatch(r"(https?://.+?)=(https?://.+)", text)
    if match is None:
        raise click.BadParameter("a mirror is written as FROM=TO, two http or https URLs", param_hint="'--mirror'")
    return match[1], match[2]


def _credentials(options: dict[str, Any], named: frozenset[Place]) -> CredentialOptions:
    headers = []
    for text in options["headers"]:
        try:
            headers.append(parse_header(text, "'--header'"))
        except UsageError as exc:
            raise click.BadParameter(str(exc).partition(": ")[2], param_hint="'--header'") from None
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
            raise click.BadParameter(str(exc), param_hint="'--header-file'") from None
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


def _transport(options: dict[str, Any], named: frozenset[Place]) -> TransportOptions:
    ca_file, certificate, key = (
        options[name] and options[name].expanduser().absolute() for name in ("ca_file", "client_cert", "client_key")
    )
    if ca_file is not None:
        _check_authorities(ca_file)
    if certificate is not None:
        _check_certificate(certificate, key)
    elif key is not None:
        raise click.BadParameter("a key is of no use without --client-cert", param_hint="'--client-key'")
    proxy = options["proxy"]
    if proxy is not None and proxy != ENVIRONMENT and not urls.is_http(proxy):
        raise click.BadParameter("a proxy is an http or https URL, or env", param_hint="'--proxy'")
    return TransportOptions(ca_file, certificate, key, proxy, named)


def _check_certificate(certificate: Path, key: Path | None) -> None:
    """Refuse a client certificate that TLS could not use later. *Raises*: click.BadParameter."""

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
    raise click.BadParameter(f"{certificate}: {reason}", param_hint="'--client-cert'")


def _check_authorities(path: Path) -> None:
    """Refuse a file that TLS could not use later. *Raises*: click.BadParameter."""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, ValueError) as exc:
        raise click.BadParameter(f"{path} has no certificate in PEM form", param_hint="'--ca-file'") from exc
    except OSError as exc:
        raise click.BadParameter(f"{path} cannot be read: {exc.strerror}", param_hint="'--ca-file'") from exc
