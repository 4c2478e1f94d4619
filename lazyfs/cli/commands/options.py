"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from lazyfs import records
from lazyfs.cli.values import BlockSize, Mountpoint, Seconds, Size
from lazyfs.options import default_path


def store_option(function: Any) -> Any:
    """Which store; nothing else of the configuration is for these commands."""
    return _store_option(config_option(only=frozenset({"store"}))(function))


def store_option_at_least(function: Any) -> Any:
    """As `store_option`, of a command that goes on when the configuration is wrong, and says so."""
    return _store_option(config_option(only=frozenset({"store"}), wrong="said")(function))


def _store_option(function: Any) -> Any:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The backing store, shared by every process that names it.",
    )(function)


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

        found = configuration.look(named)
        if wrong == "refused":
            found.check()
        elif wrong == "said":
            for error in found.errors:
                click.echo(f"lazyfs: {error}", err=True)
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
    for option in reversed(
        (
            click.option("--block-size", type=BlockSize(), default=records.DEFAULT_BLOCK_SIZE, metavar="SIZE",
                         help="The unit of presence, for blobs new to the store (64K to 8M, a power of two)."),
            click.option("--max-cache", type=Size(), metavar="SIZE",
                         help="Bytes of blob data in the store at the most, over all its processes (0: no bound)."),
            click.option("--min-free", type=Size(), metavar="SIZE",
                         help="Bytes to leave free on the store's file system."),
            click.option("--header", "headers", multiple=True, metavar="'K: V'",
                         help="Sent to the origins that the sources name, and to no other."),
            click.option("--header-file", "header_files", metavar="FILE", multiple=True,
                         type=click.Path(path_type=Path),
                         help="The same from a file, a header a line: keeps secrets off the command line."),
            click.option("--credential-command", metavar="CMD",
                         help="Ask this for what an origin wants to know of you; it speaks git's credential protocol."),
            click.option("--netrc-file", metavar="FILE", type=click.Path(path_type=Path),
                         default=Path("~/.netrc"), help="Look here otherwise; ~/.netrc if not said."),
            click.option("--mirror", "mirrors", multiple=True, metavar="FROM=TO",
                         help="For URLs that start with FROM, also try the same path under TO."),
            click.option("--ca-file", metavar="FILE", type=click.Path(path_type=Path),
                         help="Trust these authorities for TLS."),
            click.option("--client-cert", metavar="FILE", type=click.Path(path_type=Path),
                         help="Show this certificate to the origins that the sources name."),
            click.option("--client-key", metavar="FILE", type=click.Path(path_type=Path),
                         help="Its key, when that is not in the same file."),
            click.option("--proxy", metavar="URL",
                         help="Ask origins through this HTTP proxy; env: those that the environment names; none."),
            click.option("--platform", metavar="OS/ARCH[/VARIANT]",
                         help="Which image of an index (oci://): this machine's if not said."),
            click.option("--plain-http", is_flag=True,
                         help="Ask registries on other hosts, too, without TLS."),
            click.option("--offline", is_flag=True, help="Never touch the network: serve what the store has."),
            click.option("--read-timeout", type=Seconds(), default=60.0, metavar="SECONDS",
                         help="A read that cannot be served by then fails with EIO (0: wait for ever)."),
            click.option("--revalidate", type=Seconds("never"), default=60.0, metavar="SECONDS",
                         help="Ask again after that whether a name has changed (0: at each open; or never)."),
            click.option("--hedge", type=click.FloatRange(0, 100), default=3.0, metavar="PERCENT",
                         help="Requests that may be sent a second time when they are slow."),
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
