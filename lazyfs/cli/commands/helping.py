"""What `--help` looks like: commands in sections and options in groups, in an order of ours, and nothing cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class Option(click.Option):
    """An option that `--help` shows under the heading `group`."""

    def __init__(self, *declared: Any, group: str = "Options", **attributes: Any) -> None:
        super().__init__(*declared, **attributes)
        self.group = group


class Command(click.Command):
    """A command with its options in groups: in the order in which the groups are met, those without one last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups, each under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        others = groups.pop("Options", [])
        for heading, records in {**groups, "Other options" if groups else "Options": others}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=28)


class Group(click.Group):
    """Commands under the heading of what they are for; those that were added without one come last."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[click.Command]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sections = {heading: [command.name for command in group] for heading, group in (sections or {}).items()}
        for group in (sections or {}).values():
            for command in group:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        placed = [name for names in self.sections.values() for name in names if name is not None]
        return placed + [name for name in self.commands if name not in placed]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with the first sentence of its help, whole."""
        names = self.list_commands(ctx)
        placed = {name for group in self.sections.values() for name in group}
        others: list[str | None] = [name for name in names if name not in placed]
        width = max(map(len, names), default=0)  # the same in all of them
        for heading, group in {**self.sections, "Commands": others}.items():
            rows = [
                (str(name).ljust(width), self.commands[str(name)].get_short_help_str(limit=1000))
                for name in group
                if not self.commands[str(name)].hidden
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
