"""From a command's options, as click has read them, to the settings of a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lazyfs import settings
from lazyfs.configuration.keys import OF_COMMANDS
from lazyfs.errors import Misconfigured

if TYPE_CHECKING:
    from lazyfs.options import Settings


def settings_of(store: Path, sources: tuple[str, ...], options: dict[str, Any]) -> Settings:
    """Make a session's settings of the options. *Raises*: click.BadParameter, Misconfigured; they show no secret."""
    configuration = options["configuration"]
    try:
        return settings.settings_of(store, sources, options, configuration)
    except settings.BadOption as exc:
        if exc.option in OF_COMMANDS:
            source = click.get_current_context().get_parameter_source(OF_COMMANDS[exc.option].parameter)
            if source is ParameterSource.DEFAULT_MAP:
                raise Misconfigured(f"{configuration.values[exc.option].by}: {exc}") from None
        raise click.BadParameter(exc.reason, param_hint=f"'--{exc.option}'") from None
