"""What a daemon that takes over is handed, as words."""

from __future__ import annotations

import pytest

from lazyfs.privileges import Capability, Rights
from lazyfs.successor import Handed


@pytest.mark.parametrize(
    "handed",
    [
        Handed(3, 4, 5),
        Handed(3, 4, 5, 6, Rights("guest", Capability.SYS_ADMIN | Capability.DAC_READ_SEARCH)),
        Handed(3, 4, 5, stands_by=True),
    ],
)
def test_words_say_it_all(handed: Handed) -> None:
    assert Handed.of([*handed.words, "lazyfs mount", "/mnt/link=7"]) == handed
