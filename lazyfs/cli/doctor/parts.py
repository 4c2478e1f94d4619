"""lazyfs itself: its packages, its C parts, and what mounts can have with them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from lazyfs import __version__, native, takeover
from lazyfs.cli.doctor.findings import Finding, note, ok, problem

FOR_BUILDING: Final = "gcc libc6-dev pkg-config libfuse3-dev libxxhash-dev libssl-dev python3-dev"

AGAIN: Final = "build lazyfs again: pipx reinstall lazyfs, or pip install --force-reinstall lazyfs"

_HEADERS: Final = {"Python.h": "python3-dev", "xxhash.h": "libxxhash-dev", "openssl/ssl.h": "libssl-dev"}

_PATIENCE: Final = 10.0
"""Seconds for a compiler to say whether a header is there."""


def packages() -> Iterator[Finding]:
    """Which lazyfs this is, on which Python, and whether what it needs is there."""
    place = Path(__file__).parents[2]
    yield ok("lazyfs", f"{__version__} in {place}, Python {platform.python_version()} ({sys.executable})")
    try:
        needed = metadata.requires("lazyfs") or []
    except metadata.PackageNotFoundError:
        yield note("packages", "lazyfs is not installed, but run from its source: what it needs is not known")
        return
    found, missing = [], []
    for requirement in needed:
        (name,) = re.findall(r"^[\w.-]+", requirement)
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            if ";" not in requirement:  # else another Python needs it
                missing.append(name)
    if missing:
        yield problem("packages", f"{', '.join(missing)} not there", AGAIN)
    yield ok("packages", ", ".join(found))
    try:
        import_module("pyfuse3")
    except ImportError as exc:
        yield problem("pyfuse3", str(exc), f"apt-get install libfuse3-3; if that is there, {AGAIN}")


def native_parts() -> Iterator[Finding]:
    """The C parts: all goes on without them, more slowly."""
    missing = {name: why for name in ("front", "receiver", "tls") if (why := _why_not(name))}
    if not missing:
        yield ok("C parts", "all were built")
        return
    lacking = _lacking()
    remedy = f"apt-get install {' '.join(lacking)}; then {AGAIN}" if lacking else AGAIN
    for name, why in missing.items():
        yield note(f"C part {name}", why, remedy)


def _why_not(name: str) -> str:
    """Return why a part cannot be used; empty when it can."""
    built = any(Path(native.__file__).with_name(f"{name}{suffix}").exists() for suffix in EXTENSION_SUFFIXES)
    if name == "front":
        return "" if native.LIBRARY else "it does not fit the libfuse3 that is here" if built else "it was not built"
    try:
        import_module(f"lazyfs.native.{name}")
    except ImportError as exc:
        return str(exc) if built else "it was not built"
    return ""


def _lacking() -> list[str]:
    """Return Debian's packages that would be needed to build, and are not there."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return FOR_BUILDING.split()
    lacking = [package for header, package in _HEADERS.items() if not _has(compiler, header)]
    if shutil.which("pkg-config") is None:
        return [*lacking, "pkg-config", "libfuse3-dev"]
    fuse = subprocess.run(["pkg-config", "--exists", "fuse3"], check=False, timeout=_PATIENCE)
    return lacking + ["libfuse3-dev"] * (fuse.returncode != 0)


def _has(compiler: str, header: str) -> bool:
    """Say whether a header is found."""
    import sysconfig

    words = [compiler, "-E", "-I", sysconfig.get_path("include"), "-include", header, "-x", "c", os.devnull]
    done = subprocess.run(words, capture_output=True, check=False, timeout=_PATIENCE)
    return done.returncode == 0


def outliving() -> Iterator[Finding]:
    """Whether a mount outlives its daemon."""
    refusal = takeover.refusal(wanted=True)
    if refusal is None:
        yield ok("takeover", "when a daemon dies, the next one takes its mount over")
    else:
        yield note("takeover", f"a mount ends with its daemon: {refusal}")


CHECKS: Final = (("packages", packages), ("C parts", native_parts), ("takeover", outliving))
