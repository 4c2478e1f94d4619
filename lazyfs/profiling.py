"""The profiles that a mount is given with --profile: read, looked at, and taken into the catalogue of its store.

One that is of no use is left alone, and the mount goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from lazyfs import profiles, urls
from lazyfs.errors import LazyfsError, ProfileRefused
from lazyfs.profiles import Profile
from lazyfs.session import Session
from lazyfs.sources.spec import Form, Source
from lazyfs.store.profiled import read_file, take_in
from lazyfs.tree import File

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds for one profile: the mount waits for it."""


async def take_all(
    session: Session, sources: tuple[Source, ...], places: tuple[str, ...], refused: Callable[[str], None]
) -> None:
    """Take in the profiles at some places, paths and URLs; `refused` hears a line for each that is of no use.

    The sources must be there. *Cancellation*: at any time.
    """
    for place in places:
        shown = urls.redact(place) if urls.is_http(place) else place
        try:
            with trio.fail_after(PATIENCE):
                profile = profiles.decode(await _content(session, place))
                _refuse_foreign(session, sources, profile)
                await trio.to_thread.run_sync(take_in, session.store.catalogue, profile)
        except trio.TooSlowError:
            reason = f"nothing came in {PATIENCE:g} s"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        except LazyfsError as exc:
            reason = str(exc)
        else:
            continue
        line = f"the profile {shown} is not used: {reason}"
        log.warning("%s", line)
        refused(line)


async def _content(session: Session, place: str) -> bytes:
    """Return what is at a place, or as much of it as is too much. *Raises*: OriginError; OSError."""
    if urls.is_http(place):
        return (await session.client.fetch_page(place, profiles.LARGEST))[0]
    return await trio.to_thread.run_sync(read_file, Path(place), abandon_on_cancel=True)


def _refuse_foreign(session: Session, sources: tuple[Source, ...], profile: Profile) -> None:
    """Refuse what is of no blob that the sources name, where they name all that they will. *Raises*: ProfileRefused."""
    if all(source.form in (Form.FILE, Form.BLOB) for source in sources):
        files = [node for node in session.vfs.tree.nodes() if isinstance(node, File) and node.known is not None]
        if not any(file.blob_id and file.known and profile.is_of(file.blob_id, file.known.version) for file in files):
            raise ProfileRefused("it is of none of the blobs here")
