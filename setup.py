"""The C parts, which pyproject.toml has no settled words for; all else is there."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "lazyfs.native.front",  # a plain library, no module: lazyfs/native/__init__.py loads it
            [f"lazyfs/native/{name}.c" for name in ("front", "shortcut", "checksum")],
            depends=["lazyfs/native/shortcut.h"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            libraries=["fuse3", "dl"],
            optional=True,  # without a compiler or the headers the package installs all the same
        ),
        Extension(
            "lazyfs.native.receiver",
            ["lazyfs/native/receiver.c"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            depends=["lazyfs/native/filling.h"],
            optional=True,
        ),
        Extension(
            "lazyfs.native.tls",
            ["lazyfs/native/tls.c"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            depends=["lazyfs/native/filling.h"],
            libraries=["ssl", "crypto"],
            optional=True,
        ),
    ]
)
