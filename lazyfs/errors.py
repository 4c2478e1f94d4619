"""The exceptions of lazyfs, and the one place that turns them into errno.

    LazyfsError
    ├── UsageError           the caller's: a bad option, source, mountpoint, size
    │   └── Misconfigured        what a configuration file, or a variable, says
    ├── StoreError           the backing store: foreign, newer format, unwritable, damaged beyond use
    │   ├── StoreTooSmall        it may not be as large as what is to be kept whole in it
    │   └── TooManyOpen          as many blobs are open as descriptors allow            ENFILE
    ├── SourceError          where names come from: a manifest or index that cannot be read
    ├── LayerError           a layer of an image: damaged, or saying what no tree can hold   EIO
    ├── ProfileRefused       what is to be fetched ahead: damaged, too large, of another blob
    └── ReadError            a look-up or a read that cannot be answered
        ├── NameMissing          no such name under the mount                          ENOENT
        │   └── InodeUnknown         the kernel has its number from another daemon         ESTALE
        ├── WritesRefused        anything that would change the mount                  EROFS
        └── OriginError          the origin's
            ├── OriginRefused        it said no and will say no again (404, 410 …)     EIO
            │   └── OriginDirectory      a directory's index is there, not a file          EISDIR
            ├── OriginDenied         it wants credentials that this process lacks      EACCES
            ├── OriginUnreachable    transport: connect, reset, time-out, 5xx          EIO, tried again
            │   └── OriginFailing        all of these for too long: left alone for now     EIO
            ├── OriginBadAnswer      an answer that does not prove its bytes           EIO, tried again
            ├── OriginOffline        `--offline` forbids asking                        EIO
            ├── DigestMismatch       the whole blob is not what its digest says        EIO
            ├── BlobChanged          another version is under that URL now             ESTALE
            └── DeadlineExceeded     nothing of the above in time                      EIO

Every message is one line in this form: what failed, for what (a path, a blob, a URL without user and query), why;
and behind a semicolon what to do, wherever there is something to do, a command if there is one. It begins in lower
case and has no full stop. What is said in front of it, `lazyfs: `, is the command's (cli/saying.py).

"Tried again" means by the flight that met it, as long as somebody waits.
"""

from __future__ import annotations

import errno
import re


class LazyfsError(Exception):
    """Base of everything that lazyfs raises on purpose; `str()` of it is one line for a person."""

    errno: int = errno.EIO


class UsageError(LazyfsError):
    """The command was asked for something that cannot be meant."""

    errno = errno.EINVAL


class Misconfigured(UsageError):
    """What the configuration says cannot be meant."""


class StoreError(LazyfsError):
    """The backing store cannot be used as it is."""


class StoreTooSmall(StoreError):
    """A blob is to be kept whole that is larger than the store may be."""


class TooManyOpen(StoreError):
    """This process may not have as many descriptors as the blobs that are to be open would take."""

    errno = errno.ENFILE


class SourceError(LazyfsError):
    """A source of names cannot be read."""


class LayerError(LazyfsError):
    """A layer of an image, its table of contents or a piece of it is damaged or beyond what is taken."""


class ProfileRefused(LazyfsError):
    """A boot profile cannot be what it should be; without it all goes on."""


class ReadError(LazyfsError):
    """A look-up or a read cannot be answered."""


class NameMissing(ReadError):
    """There is no such name under the mount."""

    errno = errno.ENOENT


class InodeUnknown(NameMissing):
    """Nothing is known of an inode that the kernel asks for: with this errno it looks the name up once more."""

    errno = errno.ESTALE


class WritesRefused(ReadError):
    """The mount is read-only."""

    errno = errno.EROFS


class OriginError(ReadError):
    """The origin's answer, or the lack of one, is the reason.

    `url` is redacted already: no query, no userinfo.
    """

    retryable: bool = False
    retry_after: float | None = None
    """Seconds from now, as the origin asked for."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason


class OriginRefused(OriginError):
    """The origin said no; asking again would not help. `status` is its HTTP status."""

    def __init__(self, url: str, reason: str, status: int) -> None:
        super().__init__(url, reason)
        self.status = status


class OriginDirectory(OriginRefused):
    """The URL is that of a directory but for the slash at its end, and what it leads to is the directory's index."""

    errno = errno.EISDIR

    def __init__(
        self, url: str, status: int, reason: str = "a directory is there: write the URL with a slash at its end"
    ) -> None:
        super().__init__(url, reason, status)


class OriginDenied(OriginError):
    """The origin wants credentials that this process does not have, or refuses those that it has.

    The reason says which are missing and where they may be put; never what they are.
    """

    errno = errno.EACCES


class OriginUnreachable(OriginError):
    """Connect, reset, time-out or a passing 429/5xx.

    *Units*: `retry_after` is seconds from now, as the origin asked for, or None.
    """

    retryable = True

    def __init__(self, url: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(url, reason)
        self.retry_after = retry_after


class OriginFailing(OriginUnreachable):
    """It has failed for as long as a read may take, and is not asked for the moment."""

    retryable = False


class OriginBadAnswer(OriginError):
    """The answer does not prove which bytes of which version it holds, so it was not used."""

    retryable = True


class OriginOffline(OriginError):
    """The bytes are not in the store, and `--offline` forbids asking the origin."""


class DigestMismatch(OriginError):
    """All of the blob was fetched, and it is not what its digest says; the bytes were thrown away."""


class BlobChanged(OriginError):
    """The origin has another version under this URL than the one that was opened."""

    errno = errno.ESTALE


class DeadlineExceeded(OriginError):
    """The read's deadline passed before the origin delivered."""


def one_line(text: str) -> str:
    """Return a message as one line: what would break it, or control a terminal, is written as in Python."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or "\udc80" <= char <= "\udcff" else repr(char)[1:-1] for char in text)


def errno_for(exc: BaseException) -> int:
    """Return the errno that a caller of the file system sees for `exc`; EIO for whatever is unforeseen."""
    # An OSError's own errno is about the store (EACCES, ENOSPC …), not about what the reader asked for.
    return exc.errno if isinstance(exc, LazyfsError) else errno.EIO


def kind_of(exc: BaseException) -> str:
    """Return one word for what `exc` is, of as many as there are kinds of exceptions: for labels and for the log."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", type(exc).__name__.removeprefix("Origin")).lower()


def first_reason(exc: BaseException) -> LazyfsError | None:
    """Return the first of our errors in an exception, which may be a group of some; None when there is none."""
    if isinstance(exc, LazyfsError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := first_reason(inner))), None)
    return None
