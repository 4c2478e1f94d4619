"""Boot profiles in the catalogue: found, added up over runs, and taken in from elsewhere. All of it blocks."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path

from lazyfs import profiles
from lazyfs.errors import ProfileRefused
from lazyfs.profiles import Profile
from lazyfs.store.catalogue import Catalogue
from lazyfs.versions import BlobId, Version


def find(catalogue: Catalogue, blob_id: BlobId, version: Version) -> Profile | None:
    """Return the profile that there is for a blob; None also for one that is none. *Raises*: StoreError."""
    kept = catalogue.profile(blob_id, version)
    if kept is not None:
        with suppress(ProfileRefused):  # a newer lazyfs has written it
            profile = profiles.decode(kept[1])
            if profile.is_of(blob_id, version):
                return profile
    return None


def remember(catalogue: Catalogue, fresh: Profile, version: Version, *, first: bool) -> None:
    """Add a profile to what the catalogue has of its blob, in front or behind. Blocks. *Raises*: StoreError."""
    before = find(catalogue, fresh.blob_id, version)
    profile = fresh if before is None else profiles.merged(fresh, before) if first else profiles.merged(before, fresh)
    profile = dataclasses.replace(profile, blob_id=fresh.blob_id, etag=fresh.etag)  # before may be a mirror's
    catalogue.remember_profile(profile.blob_id, profile.size, profile.etag, profiles.encode(profile))


def take_in(catalogue: Catalogue, profile: Profile) -> None:
    """Have a profile from elsewhere replayed at the next run, in front of what there was. Blocks.

    *Raises*: ProfileRefused, when its blob is known to be another; StoreError.
    """
    blob = catalogue.blob(profile.blob_id)
    if blob is not None and blob.size != profile.size:
        raise ProfileRefused(f"it is of a blob of {profile.size} bytes, and the one here has {blob.size}")
    remember(catalogue, profile, Version(profile.size, profile.etag), first=True)


def read_file(path: Path) -> bytes:
    """Return what is in a file, or as much of it as is too much. Blocks. *Raises*: OSError."""
    with path.open("rb") as file:
        return file.read(profiles.LARGEST + 1)
