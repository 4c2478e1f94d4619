"""What an origin can get wrong: the rows of the table.

The first line of a function's docstring is what `--help` says of it; its name, argument and default are in
the decorator.  So a behaviour is added by adding a function.
"""

from __future__ import annotations

import base64
import gzip as gzip_module
import time
from dataclasses import replace
from email.utils import formatdate
from urllib.parse import unquote

from .answers import Answer, Interruption, asked_range, plain_answer
from .contents import parse_size
from .table import Exchange, HangUpError, after, before, parse_limit, parse_time

GZIP_MOST = 64 << 20
ENDLESS = 1 << 62

# --- the request, as this origin takes it ---------------------------------------------------------


@before("no-range")
def no_range(exchange: Exchange, _: str) -> None:
    """Range is ignored: 200 and the whole body."""
    exchange.request.headers.pop("range", None)


@before("no-conditions")
def no_conditions(exchange: Exchange, _: str) -> None:
    """If-Match, If-Range and their like are ignored."""
    for name in ("if-match", "if-none-match", "if-range", "if-modified-since", "if-unmodified-since"):
        exchange.request.headers.pop(name, None)


@before("no-multi-range", "STATUS", "416")
def no_multi_range(exchange: Exchange, argument: str) -> Answer | None:
    """Several ranges in one request are refused (plain: ignored, 200)."""
    if "," in exchange.request.headers.get("range", ""):
        return plain_answer(int(argument), "one range, please\n")
    return None


@before("no-head", "STATUS", "405")
def no_head(exchange: Exchange, argument: str) -> Answer | None:
    """HEAD is refused."""
    if exchange.request.method == "HEAD":
        return plain_answer(int(argument), "no HEAD here\n", Allow="GET")
    return None


# --- the blob, as this origin has it --------------------------------------------------------------


@before("swap", "SIZE")
def swap(exchange: Exchange, argument: str) -> None:
    """Another version of the blob, of SIZE; swap@4- is a swap after three requests."""
    exchange.show(exchange.version + 1, parse_size(argument) if argument else None)


@before("stale", "SLICE", "1M")
def stale(exchange: Exchange, argument: str) -> None:
    """After swap: every other SLICE is still of version 1, unless asked with Cache-Control: no-cache."""
    span = asked_range(exchange.request, exchange.blob)
    fresh = "no-cache" in exchange.request.headers.get("cache-control", "")
    if span is not None and not fresh and span[0] // parse_size(argument) % 2:
        exchange.show(1)


@before("gzip")
def gzip(exchange: Exchange, _: str) -> None:
    """Content-Encoding gzip (ranges are of the gzip bytes), if Accept-Encoding is absent or allows it."""
    accepted = exchange.request.headers.get("accept-encoding", "*")
    if "gzip" in accepted or "*" in accepted:
        always_gzip(exchange, "")


@before("always-gzip")
def always_gzip(exchange: Exchange, _: str) -> None:
    """Content-Encoding gzip whatever Accept-Encoding says; for blobs up to 64M."""
    blob = exchange.blob
    if blob.size > GZIP_MOST:
        raise ValueError("gzip is for blobs up to 64M")
    content = gzip_module.compress(blob.read(0, blob.size), 1, mtime=0)
    etag = blob.etag and blob.etag.removesuffix('"') + '-gzip"'
    exchange.blob = replace(
        blob, size=len(content), etag=etag, encoding="gzip", read=lambda start, stop: content[start:stop]
    )


@before("weak-etag")
def weak_etag(exchange: Exchange, _: str) -> None:
    """The ETag is weak."""
    etag = exchange.blob.etag
    exchange.blob = replace(exchange.blob, etag=etag and "W/" + etag.removeprefix("W/"))


@before("etag", "TEXT", "another")
def other_etag(exchange: Exchange, argument: str) -> None:
    """The ETag is "TEXT" in all versions: a mirror's, or one that nobody changes."""
    exchange.blob = replace(exchange.blob, etag=f'"{argument}"')


@before("etag-per-connection")
def etag_per_connection(exchange: Exchange, _: str) -> None:
    """The ETag differs from connection to connection: servers behind one name."""
    exchange.blob = replace(exchange.blob, etag=f'"{exchange.connection}-{exchange.blob.size:x}"')


@before("no-etag")
def no_etag(exchange: Exchange, _: str) -> None:
    """No ETag."""
    exchange.blob = replace(exchange.blob, etag=None)


@before("no-last-modified")
def no_last_modified(exchange: Exchange, _: str) -> None:
    """No Last-Modified."""
    exchange.blob = replace(exchange.blob, modified=None)


@before("no-validators")
def no_validators(exchange: Exchange, _: str) -> None:
    """Neither ETag nor Last-Modified."""
    exchange.blob = replace(exchange.blob, etag=None, modified=None)


# --- other answers --------------------------------------------------------------------------------


@before("status", "CODE[:RETRY_AFTER]", "503")
def status(_: Exchange, argument: str) -> Answer:
    """CODE; with a Retry-After of 2 seconds: 503:2; the same as a date: 503:d2."""
    code, _colon, pause = argument.partition(":")
    answer = plain_answer(int(code), f"{code}, as asked\n")
    if pause:
        dated = pause.startswith("d")
        answer.headers["Retry-After"] = formatdate(time.time() + float(pause[1:]), usegmt=True) if dated else pause
    return answer


@before("redirect", "HOPS[:STATUS]", "1")
def redirect(exchange: Exchange, argument: str) -> Answer:
    """HOPS redirects on this host, by 302 or STATUS."""
    hops, _, code = argument.partition(":")
    rest = f"redirect={int(hops) - 1}:{code or 302}" if int(hops) > 1 else None
    return _redirect(exchange.path_with("redirect", rest), int(code or 302))


@before("redirect-port", "STATUS", "302")
def redirect_port(exchange: Exchange, argument: str) -> Answer:
    """A redirect to the second port: another origin; from https to http where --tls is on."""
    return _redirect(exchange.other + exchange.path_with("redirect-port", None), int(argument))


@before("redirect-loop")
def redirect_loop(exchange: Exchange, _: str) -> Answer:
    """A redirect to itself."""
    return _redirect(exchange.request.target, 302)


@before("redirect-to", "URL", "/plain/random-1M-x")
def redirect_to(_: Exchange, argument: str) -> Answer:
    """A redirect to URL, which is percent-encoded here and decoded there."""
    return _redirect(argument, 302)


@before("signed", "LIMIT[:STATUS]")
def signed(exchange: Exchange, argument: str) -> Answer | None:
    """A redirect to a signed URL, good for LIMIT (3 uses, 2s), then 403 or STATUS until resolved again.

    The signature has characters in it that a client which re-encodes Location would change; then it does
    not hold.
    """
    limit, _, code = argument.partition(":")
    ending = "&expires=%2B1%2F2+~'"
    query = exchange.request.query
    if not query:
        secret = exchange.ledger.grant(parse_limit(limit))
        return _redirect(f"{exchange.request.path}?signature={secret}{ending}", 302)
    secret = query.removeprefix("signature=").removesuffix(ending)
    if query == f"signature={secret}{ending}" and exchange.ledger.take(secret):
        return None
    return plain_answer(int(code or 403), "this signature does not hold\n")


@before("bearer", "LIMIT")
def bearer(exchange: Exchange, argument: str) -> Answer | None:
    """401 with a Bearer challenge, unless a token from there is sent; it is good for LIMIT (3 uses, 2s)."""
    scheme, _, token = exchange.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and exchange.ledger.take(token):
        return None
    realm = f"{exchange.base}/token/{argument or 'ever'}"
    challenge = f'Bearer realm="{realm}",service="misbehaving-origin",scope="blob:{unquote(exchange.raw_name)}:pull"'
    return plain_answer(401, "a token, please\n", WWW_Authenticate=challenge)


@before("basic", "USER:PASSWORD", "user:secret")
def basic(exchange: Exchange, argument: str) -> Answer | None:
    """401 with a Basic challenge, unless these credentials are sent."""
    scheme, _, sent = exchange.request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic" and sent == base64.b64encode(argument.encode()).decode():
        return None
    return plain_answer(401, "credentials, please\n", WWW_Authenticate='Basic realm="misbehaving origin"')


def _redirect(location: str, code: int) -> Answer:
    return plain_answer(code, "elsewhere\n", Location=location)


# --- time, before the answer ----------------------------------------------------------------------


@before("delay", "TIME", "100ms")
def delay(exchange: Exchange, argument: str) -> None:
    """The answer comes TIME (0.5, 2s, 200ms) late."""
    exchange.pause(parse_time(argument))


@before("stall", "TIME")
def stall(exchange: Exchange, argument: str) -> None:
    """Nothing comes, not even a header, for TIME or for ever."""
    exchange.pause(parse_time(argument) if argument else None)


@before("drop")
def drop(_: Exchange, _argument: str) -> None:
    """The connection is closed without an answer."""
    raise HangUpError


@before("drop-reused")
def drop_reused(exchange: Exchange, _: str) -> None:
    """A kept-alive connection is closed when the next request comes in, without an answer."""
    if exchange.reused:
        raise HangUpError


# --- the head of the answer -----------------------------------------------------------------------


@after("elsewhere", "BYTES", "4096")
def elsewhere(_: Exchange, answer: Answer, argument: str) -> None:
    """A 206 that starts BYTES later than asked (earlier, at the blob's end), and says so."""
    if answer.status == 206:
        by = parse_size(argument)
        if answer.stop + by > answer.blob.size:
            by = -min(by, answer.start)
        _send_part(answer, answer.start + by, answer.stop + by)


@after("less", "BYTES", "1")
def less(_: Exchange, answer: Answer, argument: str) -> None:
    """A 206 that ends BYTES sooner than asked, and says so."""
    if answer.status == 206:
        _send_part(answer, answer.start, max(answer.stop - parse_size(argument), answer.start + 1))


@after("most", "BYTES", "64K")
def most(_: Exchange, answer: Answer, argument: str) -> None:
    """A 206 with the first BYTES of what was asked, and says so."""
    if answer.status == 206:
        _send_part(answer, answer.start, min(answer.start + parse_size(argument), answer.stop))


@after("whole-206")
def whole_206(_: Exchange, answer: Answer, _argument: str) -> None:
    """A 206 that is the whole body, whatever was asked."""
    if answer.status == 206:
        _send_part(answer, 0, answer.blob.size)


@after("mislabelled-206")
def mislabelled_206(_: Exchange, answer: Answer, _argument: str) -> None:
    """A 206 with the right Content-Range and the blob's first bytes, the wrong ones."""
    if answer.status == 206:
        answer.start, answer.stop = 0, answer.length


@after("part-200")
def part_200(_: Exchange, answer: Answer, _argument: str) -> None:
    """The right part and its Content-Range, as a 200."""
    if answer.status == 206:
        answer.status = 200


@after("no-content-range")
def no_content_range(_: Exchange, answer: Answer, _argument: str) -> None:
    """206 and 416 without a Content-Range."""
    answer.headers.pop("Content-Range", None)


@after("total", "TOTAL", "*")
def total(_: Exchange, answer: Answer, argument: str) -> None:
    """Content-Range says that the total is TOTAL: * or N, or off by +N or -N."""
    said, slash, true = answer.headers.get("Content-Range", "").rpartition("/")
    if slash:
        shown = str(int(true) + int(argument)) if argument[:1] in ("+", "-") else argument
        answer.headers["Content-Range"] = f"{said}/{shown}"


@after("no-accept-ranges")
def no_accept_ranges(_: Exchange, answer: Answer, _argument: str) -> None:
    """No Accept-Ranges."""
    answer.headers.pop("Accept-Ranges", None)


@after("chunked")
def chunked(_: Exchange, answer: Answer, _argument: str) -> None:
    """No Content-Length: Transfer-Encoding chunked."""
    answer.framing = "chunked"


@after("no-length")
def no_length(_: Exchange, answer: Answer, _argument: str) -> None:
    """No Content-Length: the body ends where the connection does."""
    answer.framing = "close"


@after("cookie", "TEXT", "visitor=1")
def cookie(_: Exchange, answer: Answer, argument: str) -> None:
    """A cookie, TEXT, for all of the origin."""
    answer.headers["Set-Cookie"] = f"{argument}; Path=/"


@after("date", "SECONDS", "3600")
def date(_: Exchange, answer: Answer, argument: str) -> None:
    """A Date that is SECONDS ahead; behind, when that is negative."""
    answer.headers["Date"] = formatdate(time.time() + float(argument), usegmt=True)


@after("garbage", "LINE", "HTTP/1.1 two hundred")
def garbage(_: Exchange, answer: Answer, argument: str) -> None:
    """A status line that is none: LINE."""
    answer.status_line = argument


@after("huge-headers", "SIZE", "1M")
def huge_headers(_: Exchange, answer: Answer, argument: str) -> None:
    """SIZE bytes of headers more."""
    line = 1000
    for number in range(-(-parse_size(argument) // line)):
        answer.headers[f"X-Huge-{number:06}"] = "h" * (line - len("X-Huge-000000: \r\n"))


# --- the body of the answer -----------------------------------------------------------------------


@after("wrong-byte", "OFFSET")
def wrong_byte(_: Exchange, answer: Answer, argument: str) -> None:
    """The byte at OFFSET of the blob is flipped; without one, the middle byte of each answer."""
    at = parse_size(argument) if argument else (answer.start + answer.stop) // 2
    read = answer.blob.read

    def flipped(start: int, stop: int) -> bytes:
        content = bytearray(read(start, stop))
        if start <= at < stop:
            content[at - start] ^= 0xFF
        return bytes(content)

    answer.blob = replace(answer.blob, read=flipped)


@after("short", "BYTES", "1")
def short(_: Exchange, answer: Answer, argument: str) -> None:
    """BYTES fewer than Content-Length says, then the connection is closed."""
    answer.interruptions.append(Interruption(max(answer.length - parse_size(argument), 0), "close"))


@after("extra", "BYTES", "1")
def extra(_: Exchange, answer: Answer, argument: str) -> None:
    """BYTES (zeros) more than Content-Length says."""
    answer.said = answer.length
    _pad(answer, parse_size(argument))


@after("endless")
def endless(_: Exchange, answer: Answer, _argument: str) -> None:
    """No Content-Length, and zeros after the body without an end."""
    answer.framing = "close"
    _pad(answer, ENDLESS)


@after("reset", "BYTES")
def reset(_: Exchange, answer: Answer, argument: str) -> None:
    """A RST after BYTES of the body; without a number, after half of it."""
    answer.interruptions.append(Interruption(_point(answer, argument), "reset"))


@after("stall-body", "BYTES[:TIME]")
def stall_body(_: Exchange, answer: Answer, argument: str) -> None:
    """A stall after BYTES of the body (half of it), for TIME or for ever."""
    point, _colon, pause = argument.partition(":")
    seconds = parse_time(pause) if pause else None
    answer.interruptions.append(Interruption(_point(answer, point), "pause", seconds))


@after("rate", "BYTES", "100")
def rate(_: Exchange, answer: Answer, argument: str) -> None:
    """At most BYTES of body a second on each connection, evenly; a trickle, without a number."""
    answer.rate = max(parse_size(argument), 1)


@after("close")
def close(_: Exchange, answer: Answer, _argument: str) -> None:
    """The connection is closed just after the answer, which did not say so."""
    answer.hang_up = True


def _send_part(answer: Answer, start: int, stop: int) -> None:
    answer.start, answer.stop = start, min(stop, answer.blob.size)
    answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.stop - 1}/{answer.blob.size}"


def _point(answer: Answer, argument: str) -> int:
    return parse_size(argument) if argument else answer.length // 2


def _pad(answer: Answer, by: int) -> None:
    """Let the body go on with zeros after its own end."""
    read, end = answer.blob.read, answer.stop

    def padded(start: int, stop: int) -> bytes:
        return read(min(start, end), min(stop, end)).ljust(stop - start, b"\0")

    answer.blob = replace(answer.blob, read=padded)
    answer.stop += by
