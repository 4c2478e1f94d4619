"""profile show, export, import: boot profiles in the store, and files of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import click

from lazyfs import profiles
from lazyfs.cli import streams
from lazyfs.cli.mounting import mount_of, store_of
from lazyfs.cli.naming import under_mount
from lazyfs.cli.showing import counted, opened
from lazyfs.errors import ProfileRefused, StoreError, UsageError
from lazyfs.profiles import Profile
from lazyfs.sizes import format_size
from lazyfs.store import Store, profiled
from lazyfs.store.named import with_start
from lazyfs.versions import BlobId, Version, starts_blob_id

SHOWN: Final = 20
"""Extents that are shown to a person."""


def show(word: str, store_path: Path, *, as_json: bool) -> None:
    """Print a blob's profile. *Raises*: LazyfsError."""
    recorded_at, profile = _kept(word, store_path)
    if as_json:
        click.echo(
            json.dumps({**json.loads(profiles.encode(profile)), "bytes": profile.bytes, "recorded_at": recorded_at})
        )
        return
    click.echo(f"blob      {profile.blob_id}")
    click.echo(f"size      {format_size(profile.size)}")
    click.echo(f"recorded  {time.strftime('%Y-%m-%d %H:%M', time.localtime(recorded_at))}")
    click.echo(f"asks for  {format_size(profile.bytes)} in {counted(len(profile.extents), 'extent')}, in this order:")
    for extent in profile.extents[:SHOWN]:
        click.echo(f"  {format_size(len(extent))} from byte {extent.start}")
    if len(profile.extents) > SHOWN:
        click.echo(f"  and {len(profile.extents) - SHOWN} more")


def export(word: str, store_path: Path, output: Path | None) -> None:
    """Write a blob's profile to a file, or to stdout. *Raises*: LazyfsError."""
    streams.write_to(output, profiles.encode(_kept(word, store_path)[1]))


def take_in(file: Path, store_path: Path) -> None:
    """Take a profile into the store. *Raises*: ProfileRefused; StoreError."""
    try:
        profile = profiles.decode(profiled.read_file(file))
        with opened(store_path) as store:
            profiled.take_in(store.catalogue, profile)
    except OSError as exc:
        raise ProfileRefused(f"the profile {file} cannot be read: {exc.strerror or exc}; name a file that can") from exc
    except ProfileRefused as exc:
        raise ProfileRefused(f"the profile {file} is not used: {exc}") from None
    click.echo(f"{profile.blob_id[:20]}: {format_size(profile.bytes)} in {counted(len(profile.extents), 'extent')}")


def _kept(word: str, store_path: Path) -> tuple[float, Profile]:
    """Return when a blob's profile was recorded, and what it is. *Raises*: LazyfsError, also when there is none."""
    version = None
    if starts_blob_id(word):
        with opened(store_path) as store:
            return _profile(store, _named(store, word), version)
    path = Path(word)
    if (mounted := mount_of(path)) is None:
        raise UsageError(f"{word!r} is neither a path under a mount nor a blob as lazyfs ls shows it")
    given = under_mount(path)
    with opened(store_of(mounted)) as store:
        return _profile(store, given.blob_id, given.version)


def _named(store: Store, start: str) -> BlobId:
    """Return the blob whose id starts so, if only its profile is there. *Raises*: StoreError."""
    matching = [blob_id for blob_id in store.catalogue.profiled() if blob_id.startswith(start)]
    return matching[0] if len(matching) == 1 else with_start(store, start)


def _profile(store: Store, blob_id: BlobId, version: Version | None) -> tuple[float, Profile]:
    kept = store.catalogue.profile(blob_id, version)
    if kept is None:
        raise StoreError(
            f"{blob_id[:20]} has no profile: it is too small, or nobody has read it; read it through a mount first"
        )
    return kept[0], profiles.decode(kept[1])
