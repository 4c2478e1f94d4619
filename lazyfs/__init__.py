"""lazyfs: a read-only file system over a lazily fetched, shared store of HTTP blobs.

What Python programs use is here, and loaded when it is first asked for: `lazyfs.open(url)` and what `__all__` lists.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["AsyncFile", "AsyncStore", "File", "Info", "Options", "Store", "open", "open_async", "open_store"]

if TYPE_CHECKING:
    from lazyfs.python import AsyncFile, AsyncStore, File, Info, Options, Store, open, open_async, open_store  # noqa: A004
else:

    def __getattr__(name: str) -> object:
        """Load what Python programs use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from lazyfs import python

        return globals().setdefault(name, getattr(python, name))

    def __dir__() -> list[str]:
        """List that, too."""
        return sorted({*globals(), *__all__})
