"""Logs that are left over, and those that a daemon writes, also one that cannot be seen in /proc."""

from __future__ import annotations

from pathlib import Path

from lazyfs.store import running


def test_a_log_is_written_as_long_as_it_is_open(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert not running.is_written(log)
    with log.open("ab") as first, log.open("ab") as second:
        running.note_written(first.fileno())
        running.note_written(second.fileno())
        assert running.is_written(log)
        first.close()
        assert running.is_written(log)
    assert not running.is_written(log)
    log.unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    log.symlink_to("elsewhere")
    assert not running.is_written(log)
