"""A login: what proves to one origin who asks; and why there is none.

Nothing of a login reaches a message or a log.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final

from lazyfs.errors import LazyfsError

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Place = tuple[str, str, int]
"""Scheme, host, port: `urls.origin_of`."""


class NoLogin(LazyfsError):
    """Why there are no credentials; an OriginDenied to whoever asked, with the URL that was asked for."""


@dataclass(frozen=True, slots=True)
class Login:
    """What proves to one origin who asks; `source` says where it is from, `expires` is in UTC seconds."""

    scheme: str
    authorization: str = field(repr=False)
    source: str
    expires: float | None = None
    said: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What the command said, to be said back to it when the origin refuses it."""


def basic(username: str, password: str, source: str) -> str:
    """Return the Authorization of a username and password, which are from `source`.

    *Raises*: NoLogin. *Source*: RFC 7617 §2: no control characters, no colon.
    """
    if has_controls(username + password):
        raise NoLogin(f"{source} has a username or password with control characters in it")
    if ":" in username:
        raise NoLogin(f"{source} has a username with a colon in it")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def has_controls(text: str) -> bool:
    """Say whether there are control characters in a text."""
    return _CONTROL.search(text) is not None


def may_end_a_header(text: str) -> bool:
    """Say whether a text may be what a header ends with."""
    return text.isascii() and text.isprintable() and text == text.strip()
