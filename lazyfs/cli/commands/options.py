"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lazyfs import records
from lazyfs.cli.values import BlockSize, Mountpoint, Seconds, Size
from lazyfs.options import default_path


def store_option(function: Any) -> Any:
    """Which store."""
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="DIR",
        envvar="LAZYFS_STORE",
        help="The backing store, shared by every process that names it.",
    )(function)


def fetching_options(function: Any) -> Any:
    """The options of whatever asks origins."""
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
            click.option("--netrc-file", metavar="FILE", type=click.Path(path_type=Path), envvar="NETRC",
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
                         help="Ask origins through this HTTP proxy; env: through those that the environment names."),
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
    return store_option(function)


def asking_options(function: Any) -> Any:
    """The same, so that what a mount is given can be given; the help shows those that say how an origin is asked."""
    shown = {"store", "header", "header-file", "credential-command", "netrc-file", "ca-file", "client-cert",
             "client-key", "proxy"}  # fmt: skip
    function = fetching_options(function)
    for option in function.__click_params__:
        if option.name == "store":
            option.type = Mountpoint()  # who looks at a store on a dead disk may wait for ever, too
        option.hidden = not {name.removeprefix("--") for name in option.opts} & shown
    return function


def store_path(given: Path | None) -> Path:
    """Return the store's absolute path, given, or the default."""
    return (given or default_path()).expanduser().absolute()
