"""What is said to who calls a command wrongly: what is wrong, the nearest that is right, where to read about it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import click


def explained(exc: click.ClickException, words: Sequence[str]) -> str:
    """Describe a wrong call of the command that `words` are."""
    command = getattr(getattr(exc, "ctx", None), "command_path", None) or _called(words)
    match exc:
        case click.exceptions.NoSuchCommand() if "://" in exc.command_name:
            what = f"there is no command {exc.command_name!r}; did you mean: lazyfs mount SOURCE MOUNTPOINT?"
        case click.exceptions.NoSuchCommand():
            what = f"there is no command {exc.command_name!r}{_nearest(exc.command_name, exc.possibilities)}"
        case click.exceptions.NoSuchOption():
            what = f"there is no option {exc.option_name}{_nearest(exc.option_name, exc.possibilities)}"
        case click.exceptions.MissingParameter(param=click.Parameter(type=click.Choice(choices=choices)) as missing):
            what = f"{missing.human_readable_name} is missing: one of {', '.join(choices)}"
        case _:
            what = exc.format_message().rstrip(".")
            what = what[:1].lower() + what[1:]
    return f"{what} (try: {command} --help)"


def _nearest(word: str, possible: list[str] | None) -> str:
    found = difflib.get_close_matches(word, possible or [], n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _called(words: Sequence[str]) -> str:
    """Return the command that words call, as far as there is one."""
    from lazyfs.cli.commands import commands

    command: click.Command | None = commands
    path = ["lazyfs"]
    for word in words:
        command = command.commands.get(word) if isinstance(command, click.Group) else None
        if command is None:
            break
        path.append(word)
    return " ".join(path)
