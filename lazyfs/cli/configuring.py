"""config: what is configured in the end, and who says so; nothing that may be a secret."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from lazyfs import urls
from lazyfs.cli.commands.options import store_path
from lazyfs.cli.saying import complain
from lazyfs.cli.showing import print_table
from lazyfs.configuration import Configuration, mistaken
from lazyfs.configuration.keys import OF_COMMANDS, OF_ORIGINS, Key
from lazyfs.errors import Misconfigured
from lazyfs.options import Place
from lazyfs.settings import check_origins, own_options


class Row(NamedTuple):
    """A key, its value, and who says it."""

    key: Key
    value: Any
    by: str


def show(configuration: Configuration, options: dict[str, Any], *, as_json: bool) -> int:
    """Print what a mount with these options would go by; return the exit status: 0, or 2 when something is wrong."""
    errors = [*configuration.errors, *_wrong_origins(configuration)]
    rows = [_row(key, options, configuration) for key in OF_COMMANDS.values()]
    if headers := options["headers"]:
        rows.append(Row(OF_ORIGINS["header"], tuple(headers), "--header"))
    origins = {shown(place): _origin_rows(configuration, place) for place in configuration.origins}
    if as_json:
        _print_json(configuration, rows, origins, errors)
    else:
        _print(configuration, rows, origins)
    for error in (*errors, *mistaken()):
        complain(error)
    return 2 if errors else 0


def shown(place: Place) -> str:
    """Return an origin as a file would name it."""
    return f"{place[0]}://{urls.shown_host(place)}"


def _wrong_origins(configuration: Configuration) -> list[Misconfigured]:
    """Say what of each origin could not be used, whoever asks for it."""
    wrong = []
    try:
        own_options(configuration)
    except Misconfigured as exc:
        wrong.append(exc)
    for place in configuration.origins:
        try:
            check_origins(configuration, [place])
        except Misconfigured as exc:
            wrong.append(exc)
    return wrong


def _row(key: Key, options: dict[str, Any], configuration: Configuration) -> Row:
    source = click.get_current_context().get_parameter_source(key.parameter)
    value = options[key.parameter]
    if source is ParameterSource.COMMANDLINE:
        by = f"--{key.name}"
    elif source is ParameterSource.DEFAULT_MAP:
        by = configuration.values[key.name].by
    else:
        by, value = "default", store_path(None) if key.name == "store" else value
    return Row(key, value, by)


def _origin_rows(configuration: Configuration, place: Place) -> list[Row]:
    own = configuration.origins[place]
    return [Row(key, own[name].value, own[name].by) for name, key in OF_ORIGINS.items() if name in own]


def _print(configuration: Configuration, rows: list[Row], origins: dict[str, list[Row]]) -> None:
    for path, state in configuration.files:
        click.echo(f"{path}: {state}")
    click.echo()
    print_table(["KEY", "VALUE", "FROM"], _table(rows))
    for origin, own in origins.items():
        click.echo(f'\n[origin."{origin}"]')
        print_table(["KEY", "VALUE", "FROM"], _table(own))


def _table(rows: list[Row]) -> list[list[str]]:
    return [[row.key.name, row.key.shown(row.value), row.by] for row in rows]


def _print_json(
    configuration: Configuration, rows: list[Row], origins: dict[str, list[Row]], errors: list[Misconfigured]
) -> None:
    whole = {
        "files": [{"path": str(path), "state": state} for path, state in configuration.files],
        "values": _as_json(rows),
        "origins": {origin: _as_json(own) for origin, own in origins.items()},
        "errors": [str(error) for error in errors],
    }
    click.echo(json.dumps(whole, indent=2))


def _as_json(rows: list[Row]) -> dict[str, dict[str, Any]]:
    return {row.key.name: {"value": row.key.plain(row.value), "from": row.by} for row in rows}
