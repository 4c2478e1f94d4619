"""What a command printed beside what the page shows of it: the same words in the same order, whatever the numbers.

What differs from one run to the next is blanked in both: numbers with their units, dates, times, ids and digests, and
how wide a column is. A line `...` on the page stands for any lines.
"""

from __future__ import annotations

import re
from typing import Final

ANY: Final = "..."

_VARYING: Final = re.compile(
    r"""
    \b[0-9a-f]{12,}\b                                     # ids, digests
    | (?<=Linux\ )\S+                                      # kernels
    | [█▚▸·]{3,}                                          # how far in front of a reader blocks are fetched
    | \b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\ +\d+\ +[\d:]+
    | \b\d[\d.,:T-]*Z?(?:\ ?(?:[KMGT]iB|B|ms|s|%|Mbit/s)(?:/s)?\b)?(?:\ ?%)?
    """,
    re.VERBOSE,
)


def commands(text: str) -> list[tuple[str, str]]:
    """Return the commands of a session, with what it shows of the output of each."""
    found: list[tuple[str, str]] = []
    continued = False
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]  # what comes before the first command is nobody's: IndexError
            found[-1] = (command + line, output) if continued else (command, output + line)
        continued = line.endswith("\\\n")
    return found


def alike(shown: str, printed: str) -> bool:
    """Say whether a command printed what is shown of it."""
    pattern = "".join(r"(?:.*\n)*" if line == ANY else re.escape(line) + r"\n" for line in _lines(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [" ".join(_VARYING.sub("#", line).split()) for line in text.rstrip().splitlines()]
