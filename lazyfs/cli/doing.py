"""What a command has done, one thing after the other: said at once in lines, or as a list in JSON at the end."""

from __future__ import annotations

import json
from typing import Any, Self

import click

from lazyfs.errors import one_line


class Done:
    """Takes note of each thing. The JSON is whole, and says what was done, also when the rest has failed."""

    def __init__(self, *, as_json: bool, quiet: bool = False) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._things: list[dict[str, Any]] = []

    def note(self, line: str, **thing: Any) -> None:
        """Note a thing that was done: as a person reads it, and by the keys that scripts use."""
        self._things.append(thing)
        if not (self._as_json or self._quiet):
            click.echo(one_line(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._as_json:
            click.echo(json.dumps(self._things, indent=2))
