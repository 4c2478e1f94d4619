"""From our errors to those that users of file objects expect.

    404, 410                          FileNotFoundError
    401, 403                          PermissionError
    a directory's index               IsADirectoryError
    no answer within `read_timeout`   TimeoutError
    another version is there now      OSError, ESTALE
    the origin cannot serve it, sent what does not match, or may not be asked (`offline`)    OSError, EIO
    what cannot be meant              ValueError

The message says what failed and what to do, as everywhere; `filename` is the URL without what may be secret in it, and
`__cause__` our own error (errors.py).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lazyfs.errors import BlobChanged, DeadlineExceeded, LazyfsError, OriginError, OriginRefused, UsageError, errno_for

_GONE: Final = frozenset({404, 410})


@contextmanager
def translated() -> Iterator[None]:
    """Turn what is raised inside into what users expect. *Raises*: OSError; ValueError."""
    try:
        yield
    except LazyfsError as exc:
        raise as_expected(exc) from exc


def as_expected(exc: LazyfsError) -> OSError | ValueError:
    """Return the error that users expect in place of one of ours."""
    if isinstance(exc, UsageError):
        return ValueError(str(exc))
    if not isinstance(exc, OriginError):
        return OSError(errno_for(exc), str(exc))
    number, reason = errno_for(exc), exc.reason
    if isinstance(exc, OriginRefused) and exc.status in _GONE:
        number = errno.ENOENT
    elif isinstance(exc, DeadlineExceeded):
        number = errno.ETIMEDOUT
    elif isinstance(exc, BlobChanged):
        reason = f"{reason}; open it again to read what is there now"
    return OSError(number, reason, exc.url)
