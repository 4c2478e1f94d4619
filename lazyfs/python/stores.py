"""`lazyfs.open`, and `Store` for those who open many or list."""

from __future__ import annotations

from types import TracebackType
from typing import Self, Unpack

from lazyfs.options import Settings
from lazyfs.python.background import Background, acquire, opened, release
from lazyfs.python.files import File
from lazyfs.python.info import Info
from lazyfs.python.options import Options, for_url, settings_of
from lazyfs.python.oserrors import translated


def open(url: str, *, digest: str | None = None, **options: Unpack[Options]) -> File:  # noqa: A001 - lazyfs.open
    """Open the file at an http or https URL for reading, or a blob of the store by its id or the start of it.

    What is read of it is fetched once for all processes of the host that name the same store, and kept there. It needs
    no FUSE, and any thread may call it. With `digest` (`sha256:HEX`), nobody reads all of what does not match it;
    `Options` says what else it takes.

        import zipfile
        import lazyfs

        with lazyfs.open("https://example.org/data.zip") as file, zipfile.ZipFile(file) as archive:
            text = archive.read("readme.txt")

    *Raises*: OSError, such as FileNotFoundError, PermissionError, TimeoutError (oserrors.py); ValueError; TypeError.
    """
    with translated():
        settings = for_url(settings_of(options), url)
    return File(*opened(settings, lambda store: store.open(url, digest)))


class Store:
    """A store, for those who open many files or list; `Options` says what it takes. Any thread may use it.

        with lazyfs.Store(max_cache="50G") as store:
            for found in store.scandir("https://example.org/images/"):
                print(found.name, found.size)
            with store.open("https://example.org/images/disk.img") as file:
                start = file.read(512)

    When the last Store of the same options is closed, what it has under way ends, and its files can be read no more;
    what was fetched stays. *Raises*: ValueError; TypeError. All its methods: as `lazyfs.open`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        with translated():
            self._settings = settings_of(options)
        self._used: dict[Settings, Background] = {}  # of each origin, where secrets are one origin's
        self._closed = False

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def open(self, url: str, *, digest: str | None = None) -> File:
        """Open a file, as `lazyfs.open` does."""
        background = self.background(url)
        return File(background, background.call(background.store.open, url, digest))

    def info(self, url: str, *, digest: str | None = None) -> Info:
        """Return what is known of a URL; its origin is asked where that is not known, or known for too long."""
        background = self.background(url)
        return background.call(background.store.info, url, digest)

    def scandir(self, url: str) -> list[Info]:
        """Return what the index at a URL lists, as mounts of `URL/` do. *Raises*: NotADirectoryError, too."""
        background = self.background(url)
        return background.call(background.store.scandir, url)

    def close(self) -> None:
        """Close it; once more does nothing."""
        self._closed = True
        while self._used:
            release(self._used.popitem()[1])

    def background(self, url: str) -> Background:
        """Return the thread that serves what is at a URL."""
        if self._closed:
            raise ValueError("the store was closed")
        settings = for_url(self._settings, url)
        used = self._used.get(settings)
        if used is None or not used.usable:
            used = self._used[settings] = acquire(settings)
        return used
