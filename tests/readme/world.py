"""A world for one section of README.md: a host of its own, with its own network, on which the web of that page is.

Nothing of the machine's is changed, and nothing outside is asked: there is no way out of its network. One reads the
page in it as root, in a directory of one's own, in one shell: what a block has set or where it has gone holds for the
next.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final, Self

from tests.hosts import MNT, Host
from tests.mounts import ROOT, Words, run
from tests.readme.web import HOSTS, Web

HOME: Final = MNT / "you"
WITHIN: Final = 25
"""Units: seconds.  How long a block may take; then its processes are ended."""

_KEPT: Final = MNT / ".over"
"""Where the shell's state is kept from one block to the next."""

STAND_INS: Final = {
    "tools/lazyfs": "it sets up what is missing and goes on as `lazyfs`: the set-up needs a network",
    "python3": "the interpreter that the tests run with, which has lazyfs",
    "sudo": "one is root there",
    "apt-get": "there is no network: this looks whether tools/setup.sh installs packages of these names",
    "pipx": "there is no network: tests/integration/test_packages.py builds the packages and looks into them",
    "systemctl": "no systemd is started: this reads the unit with systemd-analyze and runs its ExecStart",
    "podman": "it wants a machine's cgroups, and storage of its own; crun is what it runs containers with",
}
"""Commands that are not the real ones, and why; what stands in for them is in the directory `standins`."""

_SCRIPT: Final = f"""
busybox ip link set lo up
busybox hostname readme
for directory in /srv /var/cache; do mount -t tmpfs -o mode=755 tmpfs $directory; done
[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm # machines fall back on emulation, the same everywhere
echo '127.0.0.1 localhost {" ".join(HOSTS)}' >/etc/hosts
mkdir -p {HOME} {_KEPT}/nginx
: >{_KEPT}/variables
echo {HOME} >{_KEPT}/directory
"""

_RUN: Final = f"""
for name in $(env | sed -n 's/^\\(LAZYFS_\\w*\\|XDG_\\w*\\)=.*/\\1/p'); do unset $name; done
. {_KEPT}/variables
cd "$(cat {_KEPT}/directory)"
set -e
eval "$1"
export -p >{_KEPT}/variables
pwd >{_KEPT}/directory
"""


class World(Host):
    """Such a world."""

    def __init__(self, web: Web) -> None:
        super().__init__(namespaces=("-n", "-u"), script=_SCRIPT)
        self._web = web

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._furnish()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _furnish(self) -> None:
        for name in STAND_INS:
            place = HOME / name if "/" in name else self.commands / name
            text = Path(__file__).with_name("standins").joinpath(Path(name).name).read_text()
            self.did("mkdir", "-p", place.parent)
            for mark, path in (("@ROOT@", ROOT), ("@INSTALLED@", _KEPT / "installed"), ("@PYTHON@", sys.executable)):
                text = text.replace(mark, str(path))
            self.write(place, text, mode=0o755)
        self._install_entry_points()
        trusted = _KEPT / "authority.pem"
        self.write(trusted, self._web.authority.read_text())
        self.did("sh", "-c", f"echo 'export HOME={HOME} SSL_CERT_FILE={trusted}' >>{_KEPT}/variables")
        self.write(_KEPT / "nginx.conf", self._web.configuration(_KEPT / "nginx"))
        self.did("nginx", "-e", _KEPT / "nginx/error.log", "-c", _KEPT / "nginx.conf")  # it returns when it listens

    def _install_entry_points(self) -> None:
        """Have other packages find ours, as pip would: what there is of lazyfs in site-packages may be an older one."""
        directory = _KEPT / "installed/lazyfs-0.dist-info"
        self.did("mkdir", "-p", directory)
        self.write(directory / "METADATA", "Metadata-Version: 2.1\nName: lazyfs\nVersion: 0\n")
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("entry-points", {})
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in its.items()) for group, its in groups.items()
        ]
        self.write(directory / "entry_points.txt", "".join(lines))

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run commands as they stand, until one fails; stdout has both streams."""
        return run(self.shelled(f"exec 2>&1\n{text}"), check=False)

    def shelled(self, text: str) -> Words:
        """Return the command that runs commands so, from outside."""
        return self.entered("timeout", f"{WITHIN}", "sh", "-c", _RUN, "sh", text)

    def put(self, name: str, text: str) -> None:
        """Write a file, by a name relative to where the shell is."""
        directory, name, text = (shlex.quote(word) for word in (str(Path(name).parent), name, text))
        done = self.shell(f"mkdir -p {directory}; printf %s {text} >{name}")
        assert done.returncode == 0, done.stdout
