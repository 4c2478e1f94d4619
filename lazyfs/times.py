"""Modification times as sources write them, in nanoseconds since the epoch.  Pure.

A time without a zone is taken as UTC: nothing in a listing or manifest says which zone its server is in.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from functools import lru_cache

_EPOCH = date(1970, 1, 1).toordinal()
_ABBREVIATED = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: n for n, name in enumerate(_ABBREVIATED, 1)}
_LIMIT = 2**63  # st_mtim fits in a signed 64-bit count of nanoseconds from 1677 to 2262

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,18}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))?"
)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")


@lru_cache(maxsize=1024)  # a listing has few distinct days
def _day(text: str) -> int | None:
    """Return the day number of `2024-01-02`, `2024-Jan-02` or `02-Jan-2024`, counted from the epoch's."""
    first, month, last = text.split("-")
    year, day = (first, last) if len(first) == 4 else (last, first)
    try:
        return date(int(year), _MONTHS.get(month) or int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None


def civil_ns(day: str, hour: str, minute: str, second: str = "0") -> int | None:
    """Return the time for a day (`2024-01-02`, `2024-Jan-02` or `02-Jan-2024`) and a time of day in UTC.

    *Units*: nanoseconds since the epoch; None for one on no calendar, or beyond `st_mtim`.
    """
    days, h, m, s = _day(day), int(hour), int(minute), int(second)
    if days is None or h > 23 or m > 59 or s > 60:  # 60: a leap second, shown as the second after it
        return None
    return _bounded((days * 86400 + h * 3600 + m * 60 + s) * 10**9)


def http_date_ns(text: str) -> int | None:
    """Return the time of `Tue, 02 Jan 2024 10:00:00 GMT`, or None when `text` is not such a date.

    *Source*: RFC 9110 §5.6.7, IMF-fixdate.
    """
    match = _HTTP_DATE.fullmatch(text)
    if match is None:
        return None
    day, month, year, *clock = match.groups()
    return civil_ns(f"{day}-{month}-{year}", *clock)


def rfc3339_ns(text: str) -> int | None:
    """Return the time of `2024-01-02T10:00:00.5+01:00`, to the nanosecond; None if it is none.

    *Source*: RFC 3339 §5.6; the zone may be left out, and is then UTC.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    ns = civil_ns(day, hour, minute, second)
    if ns is None:
        return None
    ns += int((fraction or "0")[:9].ljust(9, "0"))
    if sign:
        if int(zone_hours) > 23 or int(zone_minutes) > 59:
            return None
        ahead = (int(zone_hours) * 3600 + int(zone_minutes) * 60) * 10**9
        ns += ahead if sign == "-" else -ahead
    return _bounded(ns)


def seconds_ns(seconds: int | float) -> int | None:
    """Return the time `seconds` after the epoch; None for NaN, infinity and what is beyond `st_mtim`."""
    if isinstance(seconds, float):
        if not math.isfinite(seconds):
            return None
        # Apart, since seconds * 1e9 as a float is good to 256 ns only, and .25 should stay .25.
        whole = math.floor(seconds)
        return _bounded(whole * 10**9 + round((seconds - whole) * 1e9))
    return _bounded(seconds * 10**9)


def datetime_ns(when: datetime) -> int | None:
    """Return the time of a datetime; a naive one is UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    since = when - datetime(1970, 1, 1, tzinfo=UTC)
    return _bounded((since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000)


def _bounded(ns: int) -> int | None:
    return ns if -_LIMIT <= ns < _LIMIT else None
