"""doctor: what lazyfs needs of this host, looked at and changed in nothing; each finding says what to do.

Each check runs in a process of its own, all of them at once, and is given up when its time is over: who looks at a
dead NFS server or at a stuck mount may wait for ever, in a way that not even SIGKILL ends. Nobody is asked over the
network but the origins of the URLs that are given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain

import click

from lazyfs import mountinfo, urls
from lazyfs.cli.doctor import host, mounts, origins, parts, storage
from lazyfs.cli.doctor.findings import SECONDS, Finding, State, UnderWay, note, ok, problem, under_way
from lazyfs.configuration import Configuration, mistaken
from lazyfs.errors import UsageError, one_line
from lazyfs.options import Settings

_COLOURS = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "red"}

FOR_ORIGIN = 45.0
"""Seconds for a URL: to connect and to begin an answer take 30 at the most, and there may be redirects."""


def examine(places: tuple[str, ...], settings: Settings, configuration: Configuration, *, as_json: bool) -> int:
    """Print what is found. Exit status 1: something keeps lazyfs from working. *Raises*: UsageError."""
    if strange := [place for place in places if not urls.is_http(place)]:
        raise UsageError(f"{strange[0]!r} is no http or https URL: doctor asks for files by their URLs")
    found = []
    for finding in chain(_configured(configuration), _found(places, settings)):
        found.append(finding)
        if not as_json:
            _print(finding)
    problems = sum(finding.state is State.PROBLEM for finding in found)
    if as_json:
        click.echo(json.dumps({"problems": problems, "findings": [each.as_dict() for each in found]}, indent=2))
    elif problems:
        click.echo(f"\n{problems} {'problem keeps' if problems == 1 else 'problems keep'} lazyfs from working.")
    else:
        click.echo("\nNothing keeps lazyfs from working.")
    return int(problems > 0)


def _configured(configuration: Configuration) -> Iterator[Finding]:
    """Yield what is wrong with the configuration; what is wrong of it says nothing."""
    for error in configuration.errors:
        what, _, remedy = str(error).partition("; ")
        yield problem("configuration", what, remedy or "lazyfs config shows what is configured, and by what")
    for line in mistaken():
        yield note("configuration", line)
    if not configuration.errors:
        yield ok("configuration", ", ".join(f"{path} {state}" for path, state in configuration.files))


def _found(places: tuple[str, ...], settings: Settings) -> Iterator[Finding]:
    """Yield what all checks find, in their order."""
    checks: list[UnderWay] = [under_way(subject, SECONDS, check) for subject, check in (*host.CHECKS, *parts.CHECKS)]
    checks += [under_way(subject, SECONDS, check, settings.store) for subject, check in storage.CHECKS]
    checks += [under_way(where, SECONDS, mounts.look, mounted) for where, mounted in _mounts().items()]
    checks += [under_way(urls.redact(url), FOR_ORIGIN, origins.ask, url, settings) for url in places]
    for check in checks:
        yield from check.findings()


def _mounts() -> dict[str, mountinfo.Mounted]:
    """Return our mounts, the topmost at each place."""
    return {mounted.mountpoint: mounted for mounted in mountinfo.mounts() if mounted.fstype == mountinfo.FSTYPE}


def _print(finding: Finding) -> None:
    state = click.style(f"{finding.state.value:<8}", fg=_COLOURS[finding.state])
    click.echo(f"{state} {one_line(f'{finding.subject}: {finding.what}')}")
    if finding.remedy:
        click.echo(f"         -> {one_line(finding.remedy)}")
