"""What Python programs use: files on HTTP servers as file objects, on the same store as mounts, without FUSE.

    your thread ── File, Store (files.py, stores.py) ── a call into the background thread (background.py) ─┐
    your trio.run ── AsyncFile, AsyncStore (asynchronous.py) ──────────────────────────────────────────────┴── session

Errors are what users of file objects expect: an OSError with the errno that a mount would give (oserrors.py), and
ValueError or TypeError for what cannot be meant. `lazyfs` itself loads none of this before somebody asks for it.
"""

from lazyfs.python.asynchronous import AsyncFile, AsyncStore, open_async, open_store
from lazyfs.python.files import File
from lazyfs.python.info import Info
from lazyfs.python.options import Options
from lazyfs.python.stores import Store, open  # noqa: A004 - it is `lazyfs.open`

__all__ = ["AsyncFile", "AsyncStore", "File", "Info", "Options", "Store", "open", "open_async", "open_store"]
