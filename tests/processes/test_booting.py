"""A made-up boot over a link: nothing more is fetched with its own profile, and little more with a wrong one."""

from __future__ import annotations

from pathlib import Path

from lazyfs.replay import AT_FIRST
from tests.processes import booting

MIB = 1 << 20


def test_a_boot_with_its_own_profile_and_with_a_wrong_one(tmp_path: Path) -> None:
    words = "--size 64 --read 3 --rounds 1 --rtt 0.005 --mbit 400 --work-ms 0"
    _, fetched = booting.run(tmp_path, booting.parser().parse_args(words.split()))
    (without,), (right,), (wrong,) = (fetched[way] for way in booting.WAYS)
    assert right <= without, "what is known need not be guessed"
    assert wrong <= without + AT_FIRST + MIB
