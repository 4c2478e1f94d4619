"""References to images, as `oci://` names them.  Pure.

    reference := "oci://" domain "/" repository [":" tag] ["@" digest]

The domain is always said, as in any URL; the rest is the grammar of the field. With a digest the tag is not looked at;
with neither, the tag is `latest`. `docker.io` (once `index.docker.io`) is the name of Docker Hub, whose registry is
another host, and whose images of one part are in `library/`.

*Source*: distribution/reference, regexp.go and normalize.go; OCI distribution-spec v1.1, "Pulling manifests".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lazyfs.errors import UsageError

SCHEME: Final = "oci://"

_HUB: Final = "docker.io"
_HUBS_REGISTRY: Final = "registry-1.docker.io"

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::(?P<port>[0-9]+))?")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """An image: by its `digest` (`sha256:HEX`), or by the `tag` that leads to it; one of them is None."""

    domain: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.domain}/{self.repository}{f'@{self.digest}' if self.digest else f':{self.tag}'}"

    @property
    def wanted(self) -> str:
        """What a registry is asked for: the digest, or the tag."""
        return self.digest or self.tag or ""

    def base(self, *, plain_http: bool = False) -> str:
        """Return the URL of the repository, with a slash at its end.

        It is asked by plain HTTP when it is on this host, or with `plain_http`.
        """
        host = _HUBS_REGISTRY if self.domain == _HUB else self.domain
        scheme = "http" if plain_http or _is_loopback(self.domain) else "https"
        return f"{scheme}://{host}/v2/{self.repository}/"


def parse_reference(text: str) -> Reference:
    """Read a reference. *Raises*: UsageError, which says what is wrong with it."""
    rest = text.removeprefix(SCHEME)
    domain, slash, path = rest.partition("/")
    named, at, digest = path.partition("@")
    repository, colon, tag = named.partition(":")
    match = _DOMAIN.fullmatch(domain)
    if match is None or not _is_port(match["port"]) or not _is_host(match["host"]):
        shown = _shown(domain.rpartition("@")[2])
        raise UsageError(f"{_shown(text)}: {shown!r} is no registry: write {SCHEME}HOST[:PORT]/REPO[:TAG]")
    if not slash or not repository:
        hint = f"; on Docker Hub: {SCHEME}{_HUB}/{domain}" if "." not in domain and ":" not in domain else ""
        raise UsageError(f"{_shown(text)}: it names no repository: write {SCHEME}HOST[:PORT]/REPO[:TAG]{hint}")
    if repository != repository.lower():
        raise UsageError(f"{_shown(text)}: the repository's name has to be in lower case")
    domain = domain.lower()
    if domain in (f"index.{_HUB}", _HUBS_REGISTRY):
        domain = _HUB
    if domain == _HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(f"{domain}/{repository}") > _NAME_MAX:
        raise UsageError(f"{_shown(text)}: {_shown(repository)!r} is not the name of a repository")
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(f"{_shown(text)}: {_shown(tag)!r} is no tag; write oci://HOST[:PORT]/REPO[:TAG|@DIGEST]")
    if not at:
        return Reference(domain, repository, tag or "latest", None)
    return Reference(domain, repository, None, _checked_digest(text, digest))


def _checked_digest(text: str, digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"{_shown(text)}: {_shown(digest)!r} is no digest")
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        algorithm = digest.partition(":")[0]
        reason = "sha256 has 64 digits in lower case" if algorithm == "sha256" else f"{algorithm} is not supported"
        raise UsageError(f"{_shown(text)}: a digest is sha256:HEX ({reason})")
    return digest


def _is_port(text: str | None) -> bool:
    return text is None or (len(text) <= 5 and 0 < int(text) < 65536)


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return True
    import ipaddress  # which most mounts do without

    try:
        return bool(ipaddress.IPv6Address(text[1:-1]))
    except ValueError:
        return False


def _is_loopback(domain: str) -> bool:
    match = _DOMAIN.fullmatch(domain)
    host = match["host"].strip("[]") if match else ""
    if host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(text: str) -> str:
    """Return a text as messages show it: without what may be a password, and not too long."""
    return re.sub(r"(?<=//)[^/]*@(?=[^/]*/)", "", text)[:200]
