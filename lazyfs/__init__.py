"""lazyfs: a read-only file system over a lazily fetched, shared store of HTTP blobs."""

__version__ = "0.1.0"
