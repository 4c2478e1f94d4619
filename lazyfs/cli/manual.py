"""The manual pages, made when the package is built of what --help says: one for each command, and mount.lazyfs(8).

*Source*: man-pages(7) for the sections, groff_man(7) for the macros.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Iterator
from typing import Final

import click

from lazyfs import __version__
from lazyfs.cli import helper
from lazyfs.cli.commands import commands

STATUSES: Final = {
    "0": "It is done.",
    "1": "It has failed; one line on standard error says what, for what, and what to do.",
    "2": "It was wrongly called.",
    "130": "It was interrupted.",
}

VARIABLES: Final = {
    "LAZYFS_STORE": "The store, where --store says none.",
    "LAZYFS_MAX_CACHE": "In place of --max-cache; and so for the other options that lazyfs config shows.",
    "LAZYFS_TRACEBACK": "Anything: show where a defect of lazyfs itself was met.",
    "NO_COLOR": "Anything: no colours, even on a terminal.",
    "LAZYFS_CONFIG": "The configuration to go by, in place of your own; empty for none.",
    "NETRC": "The netrc file, where --netrc-file says none.",
    "REGISTRY_AUTH_FILE": "The logins for registries, in place of those of podman, skopeo and docker.",
    "XDG_CACHE_HOME": "The store of users other than root is there, in lazyfs; else in ~/.cache.",
}

PLACES: Final = {
    "/etc/lazyfs.toml": "The configuration of the host.",
    "~/.config/lazyfs/lazyfs.toml": "Your own; what it says counts.",
    "/var/cache/lazyfs": "The store of root.",
    "~/.cache/lazyfs": "The store of other users.",
    "/etc/lazyfs": "Mounts that systemd makes, see lazyfs install-units.",
}

MOUNT_STATUSES: Final = {
    "0": "It is mounted, perhaps since before.",
    "1": "It was wrongly called.",
    "8": "It was interrupted.",
    "32": "It has failed.",
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each page's file and its text."""
    ours = list(_commands(commands, ["lazyfs"]))
    for words, command in ours:
        yield f"{'-'.join(words)}.1", _page_of(words, command, ours)
    yield "mount.lazyfs.8", _page_of_helper()


def _commands(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            if not below.hidden:
                yield from _commands(below, [*words, name])


def _page_of(words: list[str], command: click.Command, ours: list[tuple[list[str], click.Command]]) -> str:
    context = click.Context(command, info_name=" ".join(words), **commands.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    about, examples = _described(command.help or "")
    page = [_head("-".join(words), 1), _section("NAME"), f"{_text('-'.join(words))} \\- {_text(_short(command))}"]
    page += [_section("SYNOPSIS"), f".B {_text(' '.join(words))}", _text(usage)]
    page += [_section("DESCRIPTION"), *about]
    below = [(name, each) for name, each in ours if len(name) == len(words) + 1 and name[: len(words)] == words]
    if below:
        page += [_section("COMMANDS")]
        page += [_item(f"\\fB{_text('-'.join(name))}\\fP(1)", _short(each)) for name, each in below]
    page += [_section("OPTIONS"), *_options(command, context)]
    page += [_section("EXAMPLES"), *examples] if examples else []
    page += [_section("EXIT STATUS"), *(_item(f"\\fB{key}\\fP", value) for key, value in STATUSES.items())]
    if len(words) == 1:
        page += [_section("ENVIRONMENT"), *(_item(f"\\fB{_text(key)}\\fP", value) for key, value in VARIABLES.items())]
        page += [_section("FILES"), *(_item(f"\\fI{_text(key)}\\fP", value) for key, value in PLACES.items())]
    others = [["lazyfs"]] if len(words) > 1 else [name for name, _ in below]
    page += [_section("SEE ALSO"), _seen([*((name, 1) for name in others), (["mount.lazyfs"], 8), (["fuse"], 4)])]
    return "\n".join(page) + "\n"


def _page_of_helper() -> str:
    title, *rest = re.split(r"\n\n", inspect.cleandoc(helper.__doc__ or ""))
    synopsis = next(part for part in rest if part.startswith("    "))
    about = [part for part in rest if part is not synopsis and not part.startswith("*Source*")]
    page = [_head("mount.lazyfs", 8), _section("NAME"), "mount.lazyfs \\- mount lazyfs as mount(8) and /etc/fstab do"]
    page += [_section("SYNOPSIS"), _text(synopsis.strip()), _section("DESCRIPTION")]
    page += [_text(_flowing(f"This is {title.partition(': ')[2]}"))]
    for part in about:
        if part.startswith("- "):
            page += [f'.IP "\\(bu" 3\n{_text(_flowing(each))}' for each in re.split(r"\n?^- ", part, flags=re.M)[1:]]
        else:
            page += [".PP", _text(_flowing(part))]
    page += [_section("EXIT STATUS"), *(_item(f"\\fB{key}\\fP", value) for key, value in MOUNT_STATUSES.items())]
    page += [_section("SEE ALSO"), _seen([(["lazyfs", "mount"], 1), (["mount"], 8), (["fstab"], 5)])]
    return "\n".join(page) + "\n"


def _described(text: str) -> tuple[list[str], list[str]]:
    """Return the description and the examples of a help text.

    A paragraph that begins with \\b is shown as it is; one of these that says "Examples:", or has only commands, is an
    example.
    """
    about: list[str] = []
    examples: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text).partition("\f")[0]):
        literal = part.startswith("\b")
        lines = part.removeprefix("\b").strip("\n").split("\n")
        example = bool(re.match(r"(?i)examples?:$", lines[0].strip()))
        lines = lines[example:]
        if example or (literal and all(re.match(r" *([\w.]*=\S* )*(lazyfs|eval|#|$)", line) for line in lines)):
            examples += [".PP"] * bool(examples) + _literal(lines)
        elif literal:
            about += [".PP", *_literal(lines)]
        elif lines:
            about += [".PP"] * bool(about) + [_text(_flowing(part))]
    return about, examples


def _literal(lines: list[str]) -> list[str]:
    shown = inspect.cleandoc("\n".join(lines)).split("\n")
    return [".RS 4", ".nf", *map(_text, shown), ".fi", ".RE"]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            names = re.sub(r"(?<![\w-])(-{1,2}[\w-]+)", lambda found: f"\\fB{_text(found[1])}\\fP", _quoted(record[0]))
            yield _item(names, record[1])


def _short(command: click.Command) -> str:
    """Return the first sentence of a help text, as the NAME of its page says it."""
    first = _flowing((command.help or "").strip().partition("\n\n")[0])
    return re.split(r"(?<=[^.][.]) ", first[:1].lower() + first[1:])[0].rstrip(".")


def _head(name: str, section: int) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    return f'.TH "{_text(name.upper())}" "{section}" "{day}" "lazyfs {__version__}" "lazyfs manual"'


def _section(name: str) -> str:
    return f".SH {name}"


def _item(name: str, text: str) -> str:
    return f".TP\n{name}\n{_text(text)}"


def _seen(names: list[tuple[list[str], int]]) -> str:
    return ",\n".join(f"\\fB{_text('-'.join(words))}\\fP({section})" for words, section in names)


def _flowing(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return text.replace("\\", "\\e")


def _text(text: str) -> str:
    """Write text so that roff shows it as it is."""
    text = _quoted(text).replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    return re.sub(r"^(?=[.'])", r"\\&", text.replace("~", "\\(ti"), flags=re.M)
