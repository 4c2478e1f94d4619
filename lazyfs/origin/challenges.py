"""What a WWW-Authenticate header asks for.  Pure.

    Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull", Basic realm=x
    └ scheme └ parameters, each for the scheme before it                                             └ scheme

A comma parts challenges as well as parameters, so each item is read for what it is: `name=value`, or a scheme, which
may have one bare value (`Negotiate YII=`). Nothing in the pattern gives back what it has taken (the possessive `++`),
so reading takes time in proportion to the header's length, whatever an origin sends.

*Source*: RFC 9110 §11 (the grammar), RFC 6750 §3 (Bearer), the distribution specification's "token authentication"
(realm, service and scope).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from lazyfs import urls

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_ENDS = r"(?=[ \t]*+(?:,|\Z))"
_ITEM = re.compile(
    r"[ \t,]*+(?:"
    rf'(?P<name>{_WORD})[ \t]*+=[ \t]*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^ \t,"]++)){_ENDS}'
    rf"|(?P<scheme>{_WORD})(?:[ \t]++[A-Za-z0-9\-._~+/]++=*+{_ENDS}|(?=[ \t,]|\Z))"
    r")",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way of proving who asks; `scheme` and the names in `parameters` are in lower case."""

    scheme: str
    parameters: dict[str, str]

    @property
    def token_url(self) -> str | None:
        """Where a bearer token is to be had, with service and scope in the query; None when the challenge does not say.

        *Source*: the distribution specification: each scope that stands in the challenge is a parameter of its own.
        """
        realm = self.parameters.get("realm", "")
        if self.scheme != "bearer" or not urls.is_http(realm) or urls.target(realm) is None:
            return None
        parts = urlsplit(realm)
        if "@" in parts.netloc or not parts.netloc.isascii():
            return None
        wanted = [("service", self.parameters["service"])] if "service" in self.parameters else []
        wanted += [("scope", scope) for scope in self.parameters.get("scope", "").split()]
        query = "&".join(filter(None, (parts.query, urlencode(wanted, errors="replace"))))
        return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of a WWW-Authenticate header, repeated ones joined with a comma.

    The first item that is none ends it; what came before it stands. The first counts of parameters of the same name.
    """
    found: list[Challenge] = []
    position = 0
    while match := _ITEM.match(header, position):
        position = match.end()
        if match["scheme"] is not None:
            found.append(Challenge(match["scheme"].lower(), {}))
        elif found:
            value = match["plain"] if match["plain"] is not None else re.sub(r"(?s)\\(.)", r"\1", match["quoted"])
            found[-1].parameters.setdefault(match["name"].lower(), value)
    return found
