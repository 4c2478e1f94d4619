"""The picture of a session on the first screen of README.md: the commands of session.sh, run in a world, on a terminal.

`tools/picture` makes it anew, as session.svg, and with a browser screenshot.png (tests/readme/screenshot.py).
`tools/picture --text` prints what the first one would show.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from itertools import groupby
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.mounts import PATIENCE
from tests.readme import screenshot
from tests.readme.web import Web
from tests.readme.world import World

SESSION: Final = Path(__file__).with_name("session.sh")
PICTURE: Final = SESSION.with_suffix(".svg")

COLUMNS: Final = 108
TERMINAL: Final = f"export TERM=xterm-256color COLUMNS={COLUMNS} LC_ALL=C.UTF-8; unset NO_COLOR"
PROMPT: Final = "[bold green]$[/] "
_FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def recorded(world: World) -> Console:
    """Run the session, and return a console that has recorded what one sees of it."""
    console = Console(record=True, file=io.StringIO(), width=COLUMNS, force_terminal=True, legacy_windows=False)
    world.shell("mkdir -p /mnt/images")
    for command in SESSION.read_text().splitlines():
        console.print(PROMPT, Text(command), sep="", soft_wrap=True)
        console.print(Text.from_ansi(on_terminal(world, command)), soft_wrap=True, end="")
    return console


def on_terminal(world: World, command: str) -> str:
    """Run a command with a terminal, and return what it writes there. *Raises*: CalledProcessError."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, COLUMNS, 0, 0))
    words = world.shelled(f"{TERMINAL}; {command}")
    with subprocess.Popen(words, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        written = bytearray()
        try:
            while piece := os.read(ours, 1 << 16):
                written += piece
        except OSError:  # EIO: nobody has the other side open any more
            pass
        finally:
            os.close(ours)
        if process.wait(PATIENCE) != 0:
            raise subprocess.CalledProcessError(process.returncode, command, bytes(written))
    return written.decode().replace("\r\n", "\n")


def drawn(console: Console) -> str:
    """Return what was recorded as a picture that needs nothing from elsewhere."""
    picture = console.export_svg(title="lazyfs", theme=MONOKAI, unique_id="lazyfs", clear=False)
    return _FONT.sub("", picture).replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas").rstrip() + "\n"


def text_of(picture: str) -> str:
    """Return the lines of text that such a picture shows, without its title."""
    pieces = []
    for text in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("clip-path"):
            pieces.append((float(text.get("y", "0")), float(text.get("x", "0")), text.text or ""))
    rows = groupby(sorted(pieces), key=lambda piece: piece[0])
    return "\n".join("".join(piece[2] for piece in row).replace("\xa0", " ").rstrip() for _, row in rows)


def main() -> None:
    """Make them, or print what the first one shows."""
    with tempfile.TemporaryDirectory() as directory:
        web = Web(Path(directory))
        with World(web) as world:
            console = recorded(world)
        if sys.argv[1:] == ["--text"]:
            print(console.export_text(), end="")
            return
        PICTURE.write_text(drawn(console))
        with World(web) as world:
            screenshot.SCREENSHOT.write_bytes(screenshot.taken(world))


if __name__ == "__main__":
    main()
