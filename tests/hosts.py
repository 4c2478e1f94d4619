"""A host of a test's own: a namespace of mounts and processes in which things may be installed and mounted at will.

What is written there to /etc and /usr/sbin lies in a tmpfs of its own and is gone with it, and so are all its
mounts and processes. Mounts of lazyfs that there are outside are not there, where they would be kept alive. /mnt is an
empty directory that all users may enter. It needs root. All else is the machine's own, /tmp and /var too: start no
service manager there, which would set them up.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Words, run

MNT = Path("/mnt")

GUEST = 4000
"""A user there, with the group of the same number and a home in /mnt."""

_SETUP = """
set -e
sed -n 's/^\\([^ ]* \\)\\{{4\\}}\\([^ ]*\\) .* - fuse.lazyfs .*/\\2/p' /proc/self/mountinfo | while read -r there; do
    umount -l "$(printf %b "$there")" || :
done
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/.over
for directory in {overlaid}; do
    over=/mnt/.over/$(echo $directory | tr / _)
    mkdir -p $over/upper $over/work
    mount -t overlay -o lowerdir=$directory,upperdir=$over/upper,workdir=$over/work overlay $directory
    chmod 755 $directory
done
mknod -m 666 /mnt/.over/fuse c 10 229
mount --bind /mnt/.over/fuse /dev/fuse
mkdir /mnt/bin
echo guest:x:{guest}:{guest}::/mnt/home:/bin/sh >>/etc/passwd
install -d -o {guest} -g {guest} /mnt/home
{more}
echo ready
read -r end || :
"""

_COMMAND = """#!{python}
import sys
sys.path.insert(0, {root!r})
from {module} import {function}
{function}()
"""


class Host:
    """Such a host. `commands` is the directory with our commands there, as pip would install them.

    `namespaces` are the options of unshare and of nsenter for what it has of its own besides mounts and processes, and
    `script` is what else is done there before anything else.
    """

    commands = MNT / "bin"

    def __init__(self, *, namespaces: Sequence[str] = (), script: str = "") -> None:
        self._namespaces = ("-m", "-p", *namespaces)
        overlaid = ["/etc", "/usr/sbin", *_closed_to_others()]
        setup = _SETUP.format(overlaid=" ".join(map(shlex.quote, overlaid)), guest=GUEST, more=script)
        self._process = subprocess.Popen(
            [
                "unshare",
                *self._namespaces,
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
                "sh",
                "-c",
                setup,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the namespace could not be made"
        (self._init,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for name, entry in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items():
            module, _, function = entry.partition(":")
            text = _COMMAND.format(python=sys.executable, root=str(ROOT), module=module, function=function)
            self.write(self.commands / name, text, mode=0o755)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()  # and with it, by --kill-child, the first process of the namespace, and so all others
        self._process.communicate(timeout=PATIENCE)

    def entered(self, *words: str | Path, user: int = 0) -> Words:
        """Return the command that runs a command there, as root or as another user."""
        path = f"PATH={self.commands}:/usr/sbin:/usr/bin:/sbin:/bin"
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", f"HOME={MNT}/home"]
        entering = ["nsenter", "-t", self._init, *self._namespaces]
        return [*entering, "env", "-C", "/", path, *(become if user else []), *words]

    def run(self, *words: str | Path, user: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command there; whether it failed is for the caller to see."""
        return run(self.entered(*words, user=user), check=False)

    def did(self, *words: str | Path, user: int = 0) -> str:
        """Run a command there that has to succeed without a word on stderr, and return what it prints."""
        done = self.run(*words, user=user)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def write(self, path: Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file there."""
        script = 'printf %s "$1" >"$2"; chmod "$3" "$2"'
        self.did("sh", "-c", script, "sh", text, path, f"{mode:o}")

    def mounted(self) -> dict[str, tuple[str, str]]:
        """Return the lazyfs mounts below /mnt: at which directory, what source and which options."""
        lines = [line.split(" ") for line in self.did("cat", "/proc/mounts").splitlines()]
        return {
            words[1]: (words[0], words[3]) for words in lines if words[2] == "fuse.lazyfs" and f"{MNT}/" in words[1]
        }


def _closed_to_others() -> list[str]:
    """Return the directories on the way to the code that only their owner may enter, as /root often is."""
    ways = {Path(path).resolve() for path in (ROOT, sys.prefix, sys.base_prefix, sys.executable)} | {Path(sys.prefix)}
    found = set()
    for parent in {parent for way in ways for parent in (way, *way.parents)}:
        with contextlib.suppress(OSError):
            if not stat.S_IMODE(os.stat(parent).st_mode) & 0o001:
                found.add(str(parent))
    return sorted(found)
