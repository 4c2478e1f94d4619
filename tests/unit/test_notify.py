"""What systemd is told, at a socket of the test's own."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from lazyfs import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_one_datagram_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"lazyfs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify.ready("mounted at /mnt/new\nline ü")
        notify.stopping("unmounting /mnt")
        assert systemd.recv(1000) == "READY=1\nSTATUS=mounted at /mnt/new line ü".encode()
        assert systemd.recv(1000) == b"STOPPING=1\nSTATUS=unmounting /mnt"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1"])
def test_nobody_is_told_who_does_not_ask(
    address: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready("mounted")
    assert caplog.records == []


def test_a_systemd_that_is_gone_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    with caplog.at_level(logging.WARNING):
        notify.ready("mounted")
    assert "READY=1" in caplog.text
