"""The end of a mount's parent, of both its processes, and of the machine's power: what is promised then.

The parent alone: the daemon goes on, and its own death ends the mount. Both: who uses the mount gets an error, at once.
After each of them `lazyfs mount` at the same place just works, and nothing stale is left.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from tests import under
from tests.faults.disks import MIB, Disk
from tests.mounts import on_mount, run
from tests.outlive import keeping
from tests.outlive.campaign import end, made
from tests.outlive.outcome import Outcome
from tests.outlive.scene import Scene, Stage

A_WHILE: Final = 1.0
"""Seconds of load on either side of an end."""

DEAD: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.EUCLEAN})
"""What a mount says that nobody serves any more, and images that lie on it."""


def parent(scene: Scene) -> Outcome:
    """Kill the supervisor, of which nobody notices anything, and after a while the daemon, too."""
    outcome = Outcome()
    with made(scene) as stage:
        _begin(stage, outcome)
        daemon = keeping.daemon(stage.mount)
        keeping.kill([stage.mount.supervisor])
        time.sleep(A_WHILE)
        if keeping.daemon(stage.mount) != daemon:
            outcome.wrong.append("another daemon has come")
        _kill(stage, [daemon], outcome)
        _mount_again(scene, stage, outcome)
    return outcome


def both(scene: Scene) -> Outcome:
    """Kill supervisor and daemon."""
    outcome = Outcome()
    with made(scene) as stage:
        _begin(stage, outcome)
        _kill(stage, [stage.mount.supervisor, keeping.daemon(stage.mount)], outcome)
        _mount_again(scene, stage, outcome)
    return outcome


def power(scene: Scene) -> Outcome:
    """Have the store's disk lose what it has not written, and all processes end."""
    outcome, directory = Outcome(), scene.directory.parent / "disk"
    size = 2 * scene.total + 64 * MIB
    with Disk(directory, "ext4", size) as disk, made(scene, disk.at / "store") as stage:
        _begin(stage, outcome)
        pids = [stage.mount.supervisor, keeping.daemon(stage.mount)]
        keeping.freeze(pids)
        dead = time.monotonic()
        disk.lose_power()
        _kill(stage, pids, outcome, dead)
        run(["umount", "-l", stage.mount.at])
        disk.come_back()
        _mount_again(scene, stage, outcome)
    return outcome


def _begin(stage: Stage, outcome: Outcome) -> None:
    stage.begin()
    outcome.began = time.monotonic()
    time.sleep(A_WHILE)


def _kill(stage: Stage, pids: list[int], outcome: Outcome, dead: float | None = None) -> None:
    """Kill who serves the mount, and after a while end what uses it; it may have been `dead` (monotonic) before."""
    dead = dead or time.monotonic()
    keeping.kill(pids)
    time.sleep(A_WHILE)
    seen, wrong = stage.end()
    outcome.take(seen, dead, DEAD)
    # What ends a load altogether, SIGBUS or a failing mount, is no fault of this one's; but end it must.
    outcome.wrong += [what for what in wrong if "does not end" in what]
    unaware = [name for name, load in seen.items() if not load.errors and name != "idle" and "complete" not in name]
    outcome.wrong += [f"{name} has not noticed the end" for name in unaware]
    outcome.wrong += stage.unmount_images(lazy=True)


def _mount_again(scene: Scene, stage: Stage, outcome: Outcome) -> None:
    """Mount at the same place, compare all, and see that nothing of either mount is left."""
    stage.mount_again()
    for name in ("digest", "blobs/complete", "blobs/partial", "blobs/cold", "images/erofs", "images/ext4"):
        if on_mount(under.sha256, stage.mount.path(name)) != under.sha256(scene.source(name)):
            outcome.wrong.append(f"mounted again, {name} is wrong")
    if on_mount(under.sha256_tree, stage.mount.path("tree")) != under.sha256_tree(scene.source("tree")):
        outcome.wrong.append("mounted again, the tree is wrong")
    end(scene, stage, outcome)


WAYS: Final[dict[str, Callable[[Scene], Outcome]]] = {"parent": parent, "both": both, "power": power}
"""What ends for good."""
