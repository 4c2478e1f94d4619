"""status --watch: what the mounts do in each period, drawn over and over on a terminal, a block each elsewhere."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from lazyfs import control
from lazyfs.cli.mounting import absolute, ask, mounted_at, store_of
from lazyfs.cli.screen import Screen
from lazyfs.cli.showing import counted, describe, mounts_of, store_line
from lazyfs.sizes import format_size

FIRST: Final = 0.3
"""Seconds after which there is something to show, when periods are longer."""

SLOWEST: Final = 5
"""Reads that are shown, of those that a mount says were the slowest of the last minute."""

WORDS: Final = {"first_byte": "first byte", "lock": "another process"}
"""What is waited for, where the word that JSON has for it is none for people."""


def watch(mountpoint: Path | None, store_path: Path, interval: float, *, as_json: bool) -> None:
    """Show a store and its mounts, or one mount, until interrupted, or until nobody reads it. *Units*: seconds.

    *Raises*: LazyfsError, when there is no such store or mount, or no more. A mount that does not answer is waited for.
    """
    screen = Screen()
    before = _sample(mountpoint, store_path)
    pause = min(FIRST, interval)
    while True:
        time.sleep(pause)
        now = _sample(mountpoint, store_path)
        if as_json:
            described = {"store": now.store, "mounts": _with_rates(now, before), "silent": now.silent}
            click.echo(json.dumps({"time": round(now.when, 3), **described}))
        else:
            screen.draw(_block(now, before))
        before, pause = now, interval


@dataclass(frozen=True, slots=True)
class _Sample:
    """What there was at one time: seconds since the epoch, and on a clock that nobody sets."""

    when: float
    clock: float
    store: dict[str, Any]
    mounts: list[dict[str, Any]]
    silent: list[str]  # a line for each mount that does not answer

    def same(self, other: dict[str, Any]) -> dict[str, Any]:
        """Return what a mount said that says something else another time; nothing, if its daemon was not there."""
        names = ("mountpoint", "pid")
        return next((mount for mount in self.mounts if all(mount[name] == other[name] for name in names)), {})


def _sample(mountpoint: Path | None, store_path: Path) -> _Sample:
    mounts: list[dict[str, Any]] = []
    silent: list[str] = []
    if mountpoint is None:
        mounts, silent = mounts_of(store_path)
    else:
        mounted = mounted_at(absolute(mountpoint))
        store_path = store_of(mounted)
        try:
            mounts.append(ask(mounted, "status"))
        except control.ControlError as exc:
            silent.append(str(exc))
    return _Sample(time.time(), time.monotonic(), describe(store_path), mounts, silent)


class _Rates:
    """How much more of each number there is in a mount than there was, in a second; 0 where nothing was."""

    def __init__(self, now: dict[str, Any], before: dict[str, Any], seconds: float) -> None:
        self._now, self._before, self._seconds = now, before, seconds

    def of(self, *names: str) -> float:
        """Return the rate of the number that these names lead to."""
        if not self._before:
            return 0.0
        now, before = _found(self._now, names), _found(self._before, names)
        return (now - before) / self._seconds


def _found(numbers: dict[str, Any], names: tuple[str, ...]) -> float:
    """Return a number; 0 for what is not there yet, or what a daemon from before an upgrade does not say."""
    value: Any = numbers
    for name in names:
        value = value.get(name, {})
    return float(value or 0)


def _rates(now: _Sample, before: _Sample, mount: dict[str, Any]) -> _Rates:
    return _Rates(mount, before.same(mount), max(now.clock - before.clock, 1e-9))


def _with_rates(now: _Sample, before: _Sample) -> list[dict[str, Any]]:
    """Return the mounts with `rates`: of each counter, and of each origin's bytes and requests, in a second."""
    described = []
    for mount in now.mounts:
        rates = _rates(now, before, mount)
        counters = {name: round(rates.of("counters", name), 3) for name in mount["counters"]}
        origins = {
            origin: {name: round(rates.of("origins", origin, name), 3) for name in ("bytes", "requests", "faults")}
            for origin in mount.get("origins", {})
        }
        described.append({**mount, "rates": {**counters, "origins": origins}})
    return described


def _block(now: _Sample, before: _Sample) -> list[str]:
    lines = [f"{time.strftime('%H:%M:%S', time.localtime(now.when))}  {store_line(now.store)}"]
    if not now.mounts and not now.silent:
        lines.append("no mounts")
    lines += now.silent
    for mount in now.mounts:
        lines += _mount_lines(mount, _rates(now, before, mount))
    return lines


def _mount_lines(mount: dict[str, Any], rates: _Rates) -> list[str]:
    counters, now_open = mount["counters"], mount.get("open_files", 0)
    found = {name: rates.of("counters", f"blocks_{name}") for name in ("hit", "awaited", "fetched")}
    share = f"{found['hit'] * 100 / sum(found.values()):.0f} % hit" if any(found.values()) else "none read"
    lines = [
        "",
        f"{mount['mountpoint']}: {counted(mount['files'], 'file')}, {now_open} open, daemon {mount['pid']},"
        f" {counted(counters.get('daemon_restarts', 0), 'restart')}",
        f"  read      {_bytes(rates.of('counters', 'read_bytes'))} in {rates.of('counters', 'reads'):.0f} reads/s,"
        f" {counted(counters['errors'], 'error')} so far",
        f"  blocks    {share}, {found['fetched']:.0f}/s fetched, {found['awaited']:.0f}/s awaited from other processes,"
        f" {rates.of('blocks_evicted'):.0f}/s evicted; {counted(mount.get('flights', 0), 'flight')} now",
    ]
    for origin, state in mount.get("origins", {}).items():
        failing = ", failing" if state["failing"] else ""
        lines.append(
            f"  origin    {origin} {_bytes(rates.of('origins', origin, 'bytes'))}"
            f" in {rates.of('origins', origin, 'requests'):.0f} requests/s,"
            f" {state['under_way']} under way, {state['waiting']} waiting, {counted(state['faults'], 'fault')} so far"
            f"{failing}"
        )
    if mount["degraded"]:
        lines.append(f"  store     degraded: {mount['degraded']}")
    slowest = mount.get("slow_reads", [])[:SLOWEST]
    return [*lines, *(f"  {'' if number else 'slowest':9} {_slow(read)}" for number, read in enumerate(slowest))]


def _slow(read: dict[str, Any]) -> str:
    """Return what a slow read was, and what it waited for, the longest first."""
    place = f"{read['path'] or read['blob'][:20]}, {format_size(read['length'])} at {format_size(read['offset'])}"
    reader = f", {read['command']} ({read['pid']})" if read["command"] else ""
    waited = ", ".join(f"{WORDS.get(why, why)} {_seconds(seconds)}" for why, seconds in read["waited"].items())
    after = f", after: {'; '.join(read['faults'])}" if read["faults"] else ""
    failed = f"; failed: {read['error']}" if read["error"] else ""
    state = ", still waiting" if read["under_way"] else ""
    return f"{_seconds(read['seconds'])}{state}: {place}{reader}: {waited}{after}{failed}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _bytes(rate: float) -> str:
    return f"{format_size(round(rate))}/s"
