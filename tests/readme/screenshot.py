"""The picture of the page of a mount that fetches, in README.md: tests/readme/screenshot.png, made by tools/picture."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import Final

from tests.hosts import MNT
from tests.readme.world import World

SCREENSHOT: Final = Path(__file__).with_name("screenshot.png")

_WORK: Final = """
cat >/etc/lazyfs.toml <<END
[origin."https://example.org"]
rate = "3M"
END
mkdir -p /mnt/images
lazyfs mount --max-cache 1G --metrics 9100 https://example.org/images/ /mnt/images
cat /mnt/images/debian.qcow2 >/dev/null
(lazyfs fetch /mnt/images/debian.raw >/dev/null 2>&1 &)
(for n in $(seq 200); do
    dd if=/mnt/images/disk.img bs=64k skip=$((n * 37 % 128)) count=1 status=none of=/dev/null
    sleep 0.2
done >/dev/null 2>&1 &)
"""
"""Some reads, and a fetch that is slow enough to be seen."""

_LOOK: Final = """
from pathlib import Path
from tests.browser import Browser

with Browser(Path("{directory}/browser")) as browser:
    browser.look(1280, 750)
    browser.open("http://127.0.0.1:9100/")
    browser.until("document.body?.dataset.state === 'live' && document.querySelectorAll('#files tr').length > 2")
    buttons = "[...document.querySelectorAll('#files button')]"
    browser.evaluate(f"{{buttons}}.find((button) => button.textContent === 'debian.raw').click()")
    browser.until("parseInt(document.getElementById('map-share').textContent) > 45")
    print(browser.call("Page.captureScreenshot", format="png")["data"])
"""


def taken(world: World) -> bytes:
    """Have a mount of that world fetch a file, and return the page as a PNG, when nearly half of it is there."""
    work = world.shell(_WORK)
    assert work.returncode == 0, work.stdout
    look = world.shell(f"python3 -c {shlex.quote(_LOOK.format(directory=MNT / '.over'))}")
    assert look.returncode == 0, look.stdout
    return base64.b64decode(look.stdout)
