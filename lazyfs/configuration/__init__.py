"""What is configured: files and the environment, each in the way of those before it, value by value.

    /etc/lazyfs.toml  →  the user's lazyfs.toml, or the file that is named  →  LAZYFS_…  →  a command's options

Of an origin, too, each value counts by itself: the user's file may add a limit to what /etc says of it. The options are
for the commands; what they do not say is asked for here. What is read is plain values: a mount's daemon gets them with
its order, and reads none of this.

*Source*: the XDG base directory specification, which is what platformdirs goes by; that would be another thing to load.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lazyfs.configuration.files import Layer, Said, read_file
from lazyfs.configuration.keys import OF_COMMANDS
from lazyfs.errors import Misconfigured, UsageError
from lazyfs.options import Place

SYSTEM: Final = Path("/etc/lazyfs.toml")

VARIABLE: Final = "LAZYFS_CONFIG"
"""Names another file in place of the user's; an empty one stands for none."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is said in the end. `files` are those that were looked at, and what came of it; `errors` what is wrong.

    A file or a variable that is wrong says nothing.
    """

    values: dict[str, Said] = field(default_factory=dict)
    origins: dict[Place, dict[str, Said]] = field(default_factory=dict)
    files: tuple[tuple[Path, str], ...] = ()
    errors: tuple[Misconfigured, ...] = ()

    def check(self) -> Configuration:
        """Return it, if nothing is wrong with it. *Raises*: Misconfigured."""
        if self.errors:
            raise self.errors[0]
        return self

    def parameters(self) -> dict[str, Any]:
        """Return the values by what commands call them."""
        return {OF_COMMANDS[name].parameter: said.value for name, said in self.values.items()}


def look(named: str | None = None, system: Path = SYSTEM, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read what there is; `named` is the file in place of the user's, empty for none. Raises nothing."""
    if named is None:
        named = environment.get(VARIABLE)
    users = user_file(environment) if named is None else Path(named).expanduser()
    layers: list[Layer] = []
    files: list[tuple[Path, str]] = []
    errors: list[Misconfigured] = []
    for path in (system, users) if named != "" else (system,):
        try:
            layer = read_file(path, wanted=path is users and named is not None)
        except Misconfigured as exc:
            layer = None
            errors.append(exc)
            files.append((path, "wrong"))
        else:
            files.append((path, "not there" if layer is None else "read"))
        if layer is not None:
            layers.append(layer)
    if os.geteuid() != 0:  # /etc/lazyfs.toml says it for root's mounts: nobody else can have a daemon run as a user
        for layer in layers:
            layer.values.pop("user", None)
    layers.append(_of_environment(environment, errors))
    return merged(layers, tuple(files), tuple(errors))


def load(named: str | None = None) -> Configuration:
    """Read what there is. *Raises*: Misconfigured, when anything is wrong with it."""
    return look(named).check()


def merged(
    layers: list[Layer], files: tuple[tuple[Path, str], ...] = (), errors: tuple[Misconfigured, ...] = ()
) -> Configuration:
    """Put layers together: of each value, the last that is said counts."""
    whole = Configuration(files=files, errors=errors)
    for layer in layers:
        whole.values.update(layer.values)
        for place, own in layer.origins.items():
            whole.origins.setdefault(place, {}).update(own)
    return whole


def user_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's file is, if there is one."""
    configured = environment.get("XDG_CONFIG_HOME", "").strip()
    path = Path(configured or "~/.config", "lazyfs", "lazyfs.toml")
    with contextlib.suppress(RuntimeError):  # who has no home has no file in it
        path = path.expanduser()
    return path


def mistaken(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield a line for each variable that is none, and almost one: nobody looks at it."""
    import difflib  # only for who wants to know

    known = {VARIABLE, *(key.variable for key in OF_COMMANDS.values())}
    for name in environment:
        if name.startswith("LAZYFS") and name not in known:
            for nearest in difflib.get_close_matches(name, known, 1, 0.85):
                yield f"{name}: there is no such variable; did you mean {nearest}?"


def _of_environment(environment: Mapping[str, str], errors: list[Misconfigured]) -> Layer:
    layer = Layer()
    for key in OF_COMMANDS.values():
        variables = (key.variable, "NETRC") if key.name == "netrc-file" else (key.variable,)
        by = next((variable for variable in variables if environment.get(variable)), None)
        if by is not None:
            try:
                layer.values[key.name] = Said(key.value(environment[by], None), by)
            except UsageError as exc:
                errors.append(Misconfigured(f"{by}: {exc}"))
    return layer
