"""Which credentials go with a request: the headers that the user gives, and what the origin has asked for.

    request ── headers(url)         the user's own, to the origins that were named, or that they are configured for
            └─ authorization(url)   what the URL is known to want; nothing is sent that was not asked for
    200     ── accepted(url, sent)  so that a refusal elsewhere is not one of everything
    401     ── answer(url, ...)     what to send now
                ├ Bearer, with a realm    a token of that token server, which may want the login
                └ any other               the login: the credential command's, else a file's

What a registry asked for at one URL goes with all requests for the same repository from then on.

They are those of the process that asks, read when it needs them, and never in the store or among arguments. How they
are obtained is in grants.py.

*Source*: RFC 9110 §11, RFC 6750, RFC 7617, the distribution specification's "token authentication".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from lazyfs import urls
from lazyfs.errors import OriginDenied, UsageError
from lazyfs.options import CredentialOptions as CredentialOptions
from lazyfs.origin.challenges import Challenge, parse_challenges
from lazyfs.origin.grants import FetchPage, Grant, Grants, Lack, Recent, Wanted
from lazyfs.origin.headerfiles import HeaderFiles
from lazyfs.origin.logins import Logins, NoLogin
from lazyfs.origin.own import Own

_NOTHING: Final = Own()


class Credentials:
    """The credentials of one process; `nursery` runs what is done for several askers, or behind them.

    `fetch_token(url, headers)` is to GET a small page with these headers: with no credentials of its own, none of the
    headers to another origin that it may be redirected to, and an OriginRefused for a 401 or 403. `clock` gives UTC
    seconds. `own` is what is said of origins one by one.

    *Raises*, each method: OriginDenied, when what is wanted is missing, refused or unreadable. No message has a secret.
    """

    def __init__(
        self,
        options: CredentialOptions,
        fetch_token: FetchPage,
        nursery: trio.Nursery,
        clock: Callable[[], float] = time.time,
        own: Own = _NOTHING,
    ) -> None:
        self._options = options
        self._own_options = own
        self._files: dict[tuple[Path, ...], HeaderFiles] = {}
        logins = Logins(options.command, options.netrc, options.auth_files, own)
        self._grants = Grants(logins, fetch_token, nursery, clock)
        self._tokens = Recent[str, Wanted]()  # by URL, or by repository of a registry
        self._logins = Recent[Wanted, Wanted]()  # the login of an origin, or of a repository, where it was asked for

    def headers(self, url: str) -> list[tuple[str, str]]:
        """Return the user's own headers for `url`, but for Authorization, which `authorization` gives out."""
        return [header for header in self._own(url) if header[0].lower() != "authorization"]

    async def authorization(self, url: str) -> str | None:
        """Return the Authorization that `url` is known to want, None when it never asked for any.

        Waits only when what there was has expired. *Raises*: OriginError of the token server. *Cancellation*: at any
        time; touches nobody else.
        """
        if (own := self._own_authorization(url)) is not None:
            return own
        wanted = self._tokens.get(_key(url)) or self._logins.get(_login_for(url))
        if wanted is None:
            return None
        return await self._obtain(url, wanted, None, (), 401)

    async def answer(self, url: str, status: int, www_authenticate: str, sent: str | None) -> str:
        """Return the Authorization to send after a 401, or a 403; `sent` is the one that this answered, and never it.

        What somebody else has obtained since is returned at once, with no further question. To be asked at most twice
        for a request: when what came of the first answer is refused, too, that may have been just out of date.

        *Raises*: OriginError of the token server. *Cancellation*: at any time; touches nobody else.
        """
        place = urls.origin_of(url)
        if (own := self._own_authorization(url)) is not None:
            if own != sent:
                return own
            whence = "--header, --header-file or the configuration gives"
            raise OriginDenied(urls.redact(url), f"it refuses the Authorization that {whence}; give another")
        challenges = parse_challenges(www_authenticate)
        wanted = _wanted_by(url, challenges)
        if sent is not None and (status == 403 or _insufficient(challenges)):
            # It knows who asks and keeps them out: only a token of another scope could help.
            if wanted.token_url is None or wanted == self._tokens.get(_key(url)):
                whose = f"the credentials for {urls.shown_host(place)}"
                reason = f"{whose} are not enough for it (HTTP {status}); give others"
                if self._grants.is_anonymous(wanted, sent):
                    reason = f"it is not for everybody, and there are no credentials: {wanted.remedy}"
                raise OriginDenied(urls.redact(url), reason)
        elif sent is not None and _fits(sent.partition(" ")[0].lower(), challenges):  # else it wants something else
            self._grants.refuse(wanted, sent, url)
        return await self._obtain(url, wanted, sent, challenges, status)

    def accepted(self, url: str, sent: str) -> None:
        """Note that a request with this Authorization was answered with neither 401 nor 403."""
        self._grants.accept(_login_for(url), sent)

    def _own(self, url: str) -> list[tuple[str, str]]:
        place = urls.origin_of(url)
        own = self._own_options.of(place)
        try:
            configured = [*own.headers, *self._in_files(own.header_files)]
            if place not in self._options.named:
                return configured
            given = [*self._options.headers, *self._in_files(self._options.header_files)]
        except UsageError as exc:
            raise OriginDenied(urls.redact(url), str(exc)) from None
        names = {name.lower() for name, _ in given}
        return [header for header in configured if header[0].lower() not in names] + given

    def _in_files(self, paths: tuple[Path, ...]) -> list[tuple[str, str]]:
        if not paths:
            return []
        if paths not in self._files:
            self._files[paths] = HeaderFiles(paths)
        return self._files[paths].headers()

    def _own_authorization(self, url: str) -> str | None:
        """Return the Authorization that the user gives; the last, so that a file may say otherwise."""
        values = [value for name, value in self._own(url) if name.lower() == "authorization"]
        return values[-1] if values else None

    async def _obtain(
        self, url: str, wanted: Wanted, sent: str | None, challenges: Sequence[Challenge], status: int
    ) -> str:
        """Return what `url` wants, and remember that it wants it; forget what it wanted when that cannot be had."""
        try:
            grant = await self._grant(wanted, challenges, status)
        except NoLogin as exc:
            self._tokens.drop(_key(url))
            if wanted.token_url is None:
                self._logins.drop(wanted.login)
            raise OriginDenied(urls.redact(url), str(exc)) from None
        if grant.authorization == sent or self._grants.is_refused(wanted.place, grant.authorization, url):
            reason = f"it refuses the credentials for {urls.shown_host(wanted.place)}; give others"
            raise OriginDenied(urls.redact(url), reason)
        if grant.login is None:
            self._tokens.put(_key(url), wanted)
        else:
            self._tokens.drop(_key(url))
            self._logins.put(wanted.login, wanted.login)
        return grant.authorization

    async def _grant(self, wanted: Wanted, challenges: Sequence[Challenge], status: int) -> Grant:
        """Return a grant that answers the challenges. *Raises*: NoLogin."""
        got = await self._grants.obtain(wanted)
        if isinstance(got, Lack):
            raise NoLogin(_missing(wanted, challenges, status, got.note))
        if wanted.token_url is None and got.login is not None and not _fits(got.login.scheme, challenges):
            note = f"{got.login.source} has {got.login.scheme.capitalize()}"
            raise NoLogin(_missing(wanted, challenges, status, note))
        return got


def _login_for(url: str) -> Wanted:
    """Return the login that a URL may want: that of its origin, or of its repository where it is a registry's."""
    return Wanted(urls.origin_of(url), None, urls.repository_of(url))


def _key(url: str) -> str:
    """Return what tokens are known by: one is for a URL, or for all of a repository."""
    login = _login_for(url)
    return f"{login.place} {login.repository}" if login.repository else url


def _wanted_by(url: str, challenges: Sequence[Challenge]) -> Wanted:
    """Return what to answer challenges with: the first token server's token, else the login.

    An origin on https is not believed when it names a token server that is not: a password would go there in clear.
    """
    login = _login_for(url)
    for challenge in challenges:
        token_url = challenge.token_url
        if token_url is not None and (login.place[0] != "https" or urls.origin_of(token_url)[0] == "https"):
            return replace(login, token_url=token_url)
    return login


def _fits(scheme: str, challenges: Sequence[Challenge]) -> bool:
    """Say whether an Authorization of `scheme` answers the challenges; any does, where there are none."""
    return not challenges or any(challenge.scheme == scheme for challenge in challenges)


def _insufficient(challenges: Sequence[Challenge]) -> bool:
    """Say whether what was sent is good and not enough. *Source*: RFC 6750 §3.1; registries say so in a 401."""
    return any(challenge.parameters.get("error") == "insufficient_scope" for challenge in challenges)


def _missing(wanted: Wanted, challenges: Sequence[Challenge], status: int, note: str) -> str:
    """Say what is missing and where it may be put."""
    place = wanted.place
    if _fits("basic", challenges):
        words = f"a username and password for {urls.shown_host(place)}: {wanted.remedy}"
    elif _fits("bearer", challenges):
        remedy = "name a --credential-command that has one, or put it into a --header-file"
        words = f"a bearer token for {urls.shown_host(place)}: {remedy}"
    else:
        names = dict.fromkeys(challenge.scheme[:20].capitalize() for challenge in challenges[:3])
        words = f"credentials for {urls.shown_host(place)} by {', '.join(names)}: lazyfs has only Basic and Bearer"
    wants = "it wants" if status == 401 else f"HTTP {status}, perhaps for want of"  # which need not be for credentials
    return f"{wants} {words}" + (f" ({note})" if note else "")
