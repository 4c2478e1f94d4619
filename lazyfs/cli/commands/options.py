"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import click

from lazyfs import records
from lazyfs.cli.commands.helping import Option
from lazyfs.cli.values import BlockSize, Mountpoint, Seconds, Size, Within
from lazyfs.options import default_path

STORE: Final = "The store"
ORIGINS: Final = "Origins"
READS: Final = "Reads"

F = TypeVar("F", bound=Callable[..., Any])

_File: Final = click.Path(path_type=Path, readable=False)


def store_option(function: Any) -> Any:
    """Which store; nothing else of the configuration is for these commands."""
    return _store_option(config_option(only=frozenset({"store"}))(function))


def store_option_at_least(function: Any) -> Any:
    """As `store_option`, of a command that goes on when the configuration is wrong, and says so."""
    return _store_option(config_option(only=frozenset({"store"}), wrong="said")(function))


def _store_option(function: Any) -> Any:
    return click.option(
        "--store", cls=Option, type=_File, metavar="DIR", group=STORE,
        help="The store, shared by every process that names it: /var/cache/lazyfs for root, else below ~/.cache.",
    )(function)  # fmt: skip


def json_option(shape: str) -> Callable[[F], F]:
    """Whether what is printed is for scripts: JSON of this shape, whole or not at all."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print JSON: {shape}.")


def config_option(
    *, only: frozenset[str] | None = None, wrong: Literal["refused", "said", "passed on"] = "refused"
) -> Callable[[Any], Any]:
    """Have a command go by the configuration (of which it may be for `only` some keys), where its words say nothing.

    With all keys, the command gets it as `configuration`. A `wrong` one ends the command, or is said, or `passed on`.
    """

    def configure(context: click.Context, _parameter: click.Parameter, named: str | None) -> Any:
        if context.resilient_parsing:  # to complete a line
            return None
        from lazyfs import configuration  # which --help does without
        from lazyfs.cli.saying import complain

        found = configuration.look(named)
        if wrong == "refused":
            found.check()
        elif wrong == "said":
            for error in found.errors:
                complain(error)
        parameters = found.parameters()
        context.default_map = {name: parameters[name] for name in parameters if only is None or name in only}
        return found

    return click.option(
        "--config",
        "configuration",
        metavar="FILE",
        is_eager=True,  # it says what other options are by default
        expose_value=only is None,
        callback=configure,
        help="The configuration to go by, in place of your own lazyfs.toml (/dev/null: none).",
    )


def fetching_options(function: Any) -> Any:
    """The options of whatever asks origins."""
    return _store_option(config_option()(_fetching_options(function)))


def _fetching_options(function: Any) -> Any:
    store, origin, read = (partial(click.option, cls=Option, group=group) for group in (STORE, ORIGINS, READS))
    for option in reversed(
        (
            store("--max-cache", type=Size(), metavar="SIZE",
                  help="Bytes of blob data in it at the most, over all its processes (0: no bound)."),
            store("--min-free", type=Size(), metavar="SIZE",
                  help="Bytes to leave free on its file system (0: none)."),
            store("--block-size", type=BlockSize(), default=records.DEFAULT_BLOCK_SIZE, metavar="SIZE",
                  help="The unit of fetching, for blobs new to it: a power of two, 64K to 8M; 256K if not said."),
            origin("--header", "headers", multiple=True, metavar="'K: V'",
                   help="Sent to the origins that the sources name, and to no other."),
            origin("--header-file", "header_files", metavar="FILE", multiple=True, type=_File,
                   help="The same from a file, a header a line: keeps secrets off the command line."),
            origin("--credential-command", metavar="CMD",
                   help="Ask this for what an origin wants to know of you; it speaks git's credential protocol."),
            origin("--netrc-file", metavar="FILE", type=_File, default=Path("~/.netrc"),
                   help="Look here otherwise; ~/.netrc if not said."),
            origin("--mirror", "mirrors", multiple=True, metavar="FROM=TO",
                   help="For URLs that start with FROM, also try the same path under TO."),
            origin("--ca-file", metavar="FILE", type=_File, help="Trust these authorities for TLS."),
            origin("--client-cert", metavar="FILE", type=_File,
                   help="Show this certificate to the origins that the sources name."),
            origin("--client-key", metavar="FILE", type=_File,
                   help="Its key, when that is not in the same file."),
            origin("--proxy", metavar="URL",
                   help="Ask origins through this HTTP proxy; env: those that the environment names; none."),
            origin("--platform", metavar="OS/ARCH[/VARIANT]",
                   help="Which image of an index (oci://): this machine's if not said."),
            origin("--plain-http", is_flag=True, help="Ask registries on other hosts, too, without TLS."),
            read("--offline", is_flag=True, help="Never touch the network: serve what the store has."),
            read("--read-timeout", type=Seconds(), default=60.0, metavar="SECONDS",
                 help="A read that cannot be served by then fails with EIO; 60 if not said (0: wait for ever)."),
            read("--revalidate", type=Seconds("never"), default=60.0, metavar="SECONDS",
                 help="Ask again after that whether a name has changed; 60 if not said (0: at each open; or never)."),
            read("--hedge", type=Within(0, 100), default=3.0, metavar="PERCENT",
                 help="Requests that may be sent a second time when they are slow; 3 if not said."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def asking_options(function: Any) -> Any:
    """The same, so that what a mount is given can be given; the help shows those that say how an origin is asked.

    A wrong configuration is passed on.
    """
    shown = {"store", "config", "header", "header-file", "credential-command", "netrc-file", "ca-file", "client-cert",
             "client-key", "proxy"}  # fmt: skip
    function = _store_option(config_option(wrong="passed on")(_fetching_options(function)))
    for option in function.__click_params__:
        if option.name == "store":
            option.type = Mountpoint()  # who looks at a store on a dead disk may wait for ever, too
        option.hidden = not {name.removeprefix("--") for name in option.opts} & shown
    return function


def store_path(given: Path | None) -> Path:
    """Return the store's absolute path, given, or the default."""
    return (given or default_path()).expanduser().absolute()
