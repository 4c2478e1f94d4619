"""What a token server answers.  Pure.

    {"token": "eyJ...", "access_token": "the same", "expires_in": 300, "issued_at": "2024-05-01T12:00:00Z"}

*Source*: the distribution specification's "token authentication"; RFC 6749 §5.1.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from lazyfs import urls
from lazyfs.errors import OriginBadAnswer

_USUAL_LIFE: Final = 60.0
"""Seconds for which a token is good that does not say."""

_LONGEST_LIFE: Final = 1e9


def parse_token(url: str, page: bytes, now: float) -> tuple[str, float]:
    """Return the token in the answer of `url`, and when it expires. *Units*: UTC seconds.

    *Raises*: OriginBadAnswer, which quotes nothing of it.
    """
    try:
        answer = json.loads(page)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise OriginBadAnswer(urls.redact(url), "a token server's answer that is no JSON object")
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise OriginBadAnswer(urls.redact(url), "a token server's answer with no token in it")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise OriginBadAnswer(urls.redact(url), "a token that cannot stand in a header")
    life = _life(answer.get("expires_in"))
    expires = min(_seconds(answer.get("issued_at")) or now, now) + life
    # A token that has just been given is good: one that is over already was dated by a clock that is behind ours.
    return token, expires if expires > now else now + life


def _life(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return _USUAL_LIFE
    return float(min(value, _LONGEST_LIFE))


def _seconds(value: Any) -> float | None:
    """Return the UTC seconds of a time as in RFC 3339, which without a zone is UTC; None when it is none."""
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
