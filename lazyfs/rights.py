"""Which rights a mount's daemon is left with, as its order says; and whether it can work with them.

None, in most cases. Where root mounts with files that lie in directories only others may enter (somebody's home, often
with our own code in it), the daemon keeps the right to read them all the same, as it must open some of them later.
Another user that it is to run as gets no such right: then it is an error.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import trio

from lazyfs import privileges
from lazyfs.errors import UsageError
from lazyfs.options import OriginOptions
from lazyfs.order import Mount
from lazyfs.origin.own import Own
from lazyfs.privileges import Capability, Rights, User
from lazyfs.sources.spec import Form


def needed(mount: Mount) -> Rights:
    """Return the rights that a mount's daemon needs, as who we are now."""
    if os.geteuid() != 0:
        return Rights()
    user = mount.settings.user
    named = _named(mount, mount.settings.client.origins)
    if user is None and privileges.out_of_reach([*_code(), mount.settings.store, *named]):
        return Rights(keep=Capability.DAC_READ_SEARCH)
    return Rights(user)


def make_store(mount: Mount) -> None:
    """Make the store's directory where only root's capabilities allow that; what fails is said when it is opened."""
    if os.geteuid() == 0 and mount.settings.user is None:
        with contextlib.suppress(OSError):
            mount.settings.store.parent.mkdir(parents=True, exist_ok=True)
            mount.settings.store.mkdir(mode=0o700, exist_ok=True)


def of_supervisor(rights: Rights, mountpoint: str) -> Capability:
    """Return what the supervisor of a daemon with these rights keeps: to mount, and to start the next one just so.

    To detach the mount it has to find the way to it.
    """
    keep = rights.keep | Capability.SYS_ADMIN | Capability.SETPCAP
    if rights.user is not None:
        keep |= Capability.SETUID | Capability.SETGID | Capability.KILL
    if privileges.out_of_reach([*_code(), Path(mountpoint).parent]):
        keep |= Capability.DAC_READ_SEARCH
    return keep


def check(mount: Mount) -> None:
    """Refuse a daemon that cannot do its work as the user that it is now. *Raises*: UsageError."""
    if mount.settings.user is None:
        return
    user = privileges.user_called(mount.settings.user)
    if hidden := privileges.out_of_reach(_code()):
        raise UsageError(f"{user.name} may not read lazyfs's own code in {hidden[0]}; install it where all users may")
    client = mount.settings.client
    own = Own(client.origins)  # of origins that may never be asked, the files may be out of reach
    if hidden := privileges.out_of_reach(_named(mount, map(own.of, client.credentials.named))):
        raise UsageError(f"{user.name} may not read {hidden[0]}; let that user read it, or mount without --user")
    _check_store(mount.settings.store, user)


def described() -> dict[str, Any]:
    """What `status` shows of this process: its user, and its capabilities."""
    import pwd

    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return {"user": name, "capabilities": privileges.names(privileges.held())}


def _check_store(store: Path, user: User) -> None:
    """Say what to do about a store that is not the user's, and that the user cannot make."""
    make = f"install -d -o {user.name} -m 700 {shlex.quote(str(store))}"
    try:
        owner = store.stat().st_uid
    except FileNotFoundError:
        parent = next(each for each in store.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return
        reason = f"cannot make the store {store}; make it with: {make}"
    except PermissionError:
        reason = f"may not enter the directory of the store {store}; name another with --store"
    else:
        if owner == user.uid:
            return
        reason = f"does not own the store {store}; name another with --store, or make one with: install -d -o "
        reason += f"{user.name} -m 700 DIR"
    raise UsageError(f"{user.name} {reason}")


def _code() -> Iterator[Path]:
    """Yield where the code is that a daemon loads, at the latest when it takes over."""
    yield Path(sys.executable)
    yield Path(os.__file__).parent
    yield Path(__file__).parent
    yield Path(trio.__file__).parents[1]


def _named(mount: Mount, origins: Iterable[OriginOptions]) -> Iterator[Path]:
    """Yield the files that an order names for all origins, and for some, and that are read again later."""
    client = mount.settings.client
    transport, credentials = client.transport, client.credentials
    yield from credentials.header_files
    yield from credentials.auth_files
    files = [credentials.netrc, transport.ca_file, transport.client_certificate, transport.client_key]
    for own in origins:
        yield from own.header_files
        files += own.netrc, own.ca_file, own.client_certificate, own.client_key
    yield from filter(None, files)
    for source in mount.sources:
        if source.form is Form.MANIFEST and not source.remote:
            yield Path(source.place)
