"""What proves to origins who asks: obtained once for all who wait, kept while it is good, renewed before it expires.

    a token    asked of a token server, as the user where there is a login, else as nobody
    a login    the credential command's, for a registry else one of its tools', else the netrc file's (logins.py)

All of it is in memory only: a token until it expires or is refused, a login likewise. What was refused is not given out
again for `REFUSED_FOR`: however many reads come, a wrong password is not sent more often than that. It is refused for
the whole origin; but a login that the origin has accepted somewhere is right, and refused for that URL alone: servers
answer with a 401, too, where they let in others only.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Generic, TypeVar

import trio

from lazyfs import urls
from lazyfs.errors import LazyfsError, OriginRefused
from lazyfs.origin.logins import Login, Logins, NoLogin, Place
from lazyfs.origin.tokens import parse_token
from lazyfs.shared import Shared

log = logging.getLogger(__name__)

RENEW_SHARE: Final = 0.2
RENEW_AT_MOST: Final = 30.0
"""What is left of the life of a grant when it is renewed: this share, or so many seconds if that is less."""

REFUSED_FOR: Final = 300.0
"""Seconds for which what was refused is not tried again. Not for ever, since an origin may have refused it by mistake,
and a mount lives for months; and not every read, since a few wrong passwords lock an account in many places."""

RECENT_MAX: Final = 4096

_REMEDY: Final = "put them into the netrc file, or name a --credential-command"
_REGISTRYS_REMEDY: Final = "log in with docker, podman or skopeo, or name a --credential-command"

FetchPage = Callable[[str, Mapping[str, str]], Awaitable[bytes]]

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping that keeps the `RECENT_MAX` keys that were used last: an origin may have any number of names."""

    def __init__(self) -> None:
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value of `key`; None when there is none."""
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key: K, value: V) -> None:
        """Set the value of `key`."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > RECENT_MAX:
            self._items.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget `key`, if it is there."""
        self._items.pop(key, None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an origin asked for: a token of this URL, which has service and scope in it; without one, the login.

    For a registry it is for one `repository`, since users may have a login for each.
    """

    place: Place
    token_url: str | None = field(default=None, repr=False)
    repository: str = ""

    @property
    def login(self) -> Wanted:
        """The login that goes with it, or that it is."""
        return Wanted(self.place, None, self.repository)

    @property
    def remedy(self) -> str:
        """What to do when there is no login."""
        return _REGISTRYS_REMEDY if self.repository else _REMEDY


@dataclass(frozen=True, slots=True)
class Grant:
    """What may be sent, until when, and the login that it is, or None for a token. *Units*: UTC seconds.

    A token may be `anonymous`: there was no login to ask for it with.
    """

    authorization: str = field(repr=False)
    expires: float | None
    renew_at: float | None
    login: Login | None
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Lack:
    """There is no login; `note` may say more."""

    note: str


class Grants:
    """The grants of one process. `fetch_page(url, headers)` asks token servers; `clock` gives UTC seconds."""

    def __init__(
        self, logins: Logins, fetch_page: FetchPage, nursery: trio.Nursery, clock: Callable[[], float]
    ) -> None:
        self._logins = logins
        self._fetch_page = fetch_page
        self._nursery = nursery
        self._clock = clock
        self._work = Shared[Grant | Lack](nursery)
        self._grants = Recent[Wanted, Grant]()
        self._renewing = set[Wanted]()
        self._refused = Recent[tuple[Place, str, str | None], float]()  # for which URL, None for all; and when
        self._accepted = Recent[tuple[Place, str], bool]()  # logins only
        self._to_erase = dict[Place, Login]()  # what was refused and the command does not know of yet

    async def obtain(self, wanted: Wanted) -> Grant | Lack:
        """Return what there is, else obtain it, once for all who ask; a Lack when nothing of the user's is there.

        *Raises*: NoLogin, when it is refused or unreadable; OriginError of the token server. *Cancellation*: of one who
        waits touches nobody else.
        """
        return self._current(wanted) or await self._obtain_anew(wanted)

    def accept(self, wanted: Wanted, authorization: str) -> None:
        """Note that an origin let somebody in with this."""
        if self._login(wanted, authorization) is not None:
            self._accepted.put((wanted.place, authorization), True)

    def is_anonymous(self, wanted: Wanted, authorization: str) -> bool:
        """Say whether this is a token that was asked for as nobody."""
        grant = self._grants.get(wanted)
        return grant is not None and grant.authorization == authorization and grant.anonymous

    def refuse(self, wanted: Wanted, authorization: str, url: str | None = None) -> None:
        """Note that an origin refused this for `url`, or its token server did; a login is asked for anew."""
        place = wanted.place
        accepted = url is not None and self._accepted.get((place, authorization))
        self._refused.put((place, authorization, url if accepted else None), self._clock())
        if login := self._login(wanted, authorization):
            self._grants.drop(wanted.login)
            if not accepted:  # or the command would lose what is right elsewhere
                self._to_erase[place] = login

    def is_refused(self, place: Place, authorization: str, url: str | None = None) -> bool:
        """Say whether this was refused a while ago: for `url`, or for all of the origin where it is None."""
        when = self._refused.get((place, authorization, url))
        return when is not None and self._clock() < when + REFUSED_FOR

    def _login(self, wanted: Wanted, authorization: str) -> Login | None:
        grant = self._grants.get(wanted.login)
        return grant.login if grant is not None and grant.authorization == authorization else None

    def _current(self, wanted: Wanted) -> Grant | None:
        """Return what there is already and is good; renew it behind when that is due."""
        grant, now = self._grants.get(wanted), self._clock()
        if grant is None or self.is_refused(wanted.place, grant.authorization):
            return None
        if grant.expires is None or grant.renew_at is None:
            return grant
        if grant.expires <= now:
            return None
        if grant.renew_at <= now and wanted not in self._renewing:
            self._renewing.add(wanted)
            self._nursery.start_soon(self._renew, wanted, grant)
        return grant

    async def _obtain_anew(self, wanted: Wanted) -> Grant | Lack:
        key = f"{wanted.place} {wanted.repository} {wanted.token_url or ''}"
        if wanted.token_url is None:
            return await self._work.do(key, partial(self._log_in, wanted))
        return await self._work.do(key, partial(self._fetch_token, wanted, wanted.token_url))

    async def _renew(self, wanted: Wanted, old: Grant) -> None:
        """Obtain anew what is still good; when that fails, it is tried again later, as long as it is good."""
        failure = ""
        try:
            got = await self._obtain_anew(wanted)
            if isinstance(got, Lack):
                failure = got.note or "there are none any longer"
        except LazyfsError as exc:
            failure = str(exc)
        finally:
            self._renewing.discard(wanted)
        if failure:
            log.info("the credentials for %s could not be renewed: %s", urls.shown_host(wanted.place), failure)
            if self._grants.get(wanted) is old:
                self._grants.put(wanted, replace(old, renew_at=self._renew_at(old.expires)))

    async def _log_in(self, wanted: Wanted) -> Grant | Lack:
        """Ask the command, then look into files; a command whose login was refused is told so first."""
        place = wanted.place
        while True:
            if rejected := self._to_erase.get(place):
                await self._logins.erase(place, rejected)
                del self._to_erase[place]
            said = await self._logins.from_command(place, self._clock())
            if place not in self._to_erase:  # else it was refused while this was under way
                break
        refused = []
        files = partial(self._logins.from_auth_files, place, wanted.repository)
        for ask in (None, files, partial(self._logins.from_netrc, place)):  # the next one only for want of a login
            if isinstance(login := await ask() if ask else said, Login):
                if not self.is_refused(place, login.authorization):
                    return self._keep(wanted, login.authorization, login.expires, login)
                refused.append(login.source)
        if refused:
            raise NoLogin(f"what {' and '.join(refused)} has for {urls.shown_host(place)} is refused")
        return Lack(said if isinstance(said, str) else "")

    async def _fetch_token(self, wanted: Wanted, token_url: str) -> Grant | Lack:
        """Ask the token server, with a username and password where there are some.

        A bearer token of the command's is for the origin itself: there is nothing to ask the token server then.
        """
        own, host = wanted.login, urls.shown_host(wanted.place)
        for _ in range(2):
            got = await self.obtain(own)
            login = got.login if isinstance(got, Grant) else None
            if login is not None and login.scheme == "bearer":
                return got
            asker = login.authorization if login is not None and login.scheme == "basic" else None
            try:
                page = await self._fetch_page(token_url, {} if asker is None else {"authorization": asker})
            except OriginRefused as exc:
                if exc.status not in (401, 403):
                    raise
                status = exc.status
            else:
                token, expires = parse_token(token_url, page, self._clock())
                return self._keep(wanted, f"Bearer {token}", expires, None, anonymous=asker is None)
            if asker is None:
                note = f" ({got.note})" if isinstance(got, Lack) and got.note else ""
                raise NoLogin(f"its token server wants a username and password for {host}: {wanted.remedy}{note}")
            if status == 403:
                raise NoLogin(f"the credentials for {host} are not enough for its token server (HTTP 403)")
            self.refuse(wanted, asker)
        raise NoLogin(f"its token server refuses the credentials for {host}")

    def _keep(
        self, wanted: Wanted, authorization: str, expires: float | None, login: Login | None, *, anonymous: bool = False
    ) -> Grant:
        if self.is_refused(wanted.place, authorization):
            raise NoLogin(f"the credentials for {urls.shown_host(wanted.place)} are refused")
        grant = Grant(authorization, expires, self._renew_at(expires), login, anonymous)
        self._grants.put(wanted, grant)
        return grant

    def _renew_at(self, expires: float | None) -> float | None:
        """Return when to renew what is good from now until `expires`."""
        return None if expires is None else expires - min(RENEW_SHARE * (expires - self._clock()), RENEW_AT_MOST)
