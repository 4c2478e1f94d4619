"""The command line: what is said in CONTRACT-like terms by `lazyfs --help`, one module for each group of commands."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from lazyfs.cli import streams


class Statuses(NamedTuple):
    """What a command ends with when it does not succeed."""

    failed: int = 1
    misused: int = 2
    interrupted: int = 130


STATUSES: Final = Statuses()


NO_HOME: Final = "/nonexistent"
"""The home of who has none. *Source*: Debian's base-passwd; adduser(8)."""


def main() -> NoReturn:
    """Run the command; every failure is one line on stderr. Exit status 0: done, 1: failed, 2: wrongly called."""
    run(sys.argv[1:])


def run(words: list[str], statuses: Statuses = STATUSES, name: str = "lazyfs") -> NoReturn:
    """Run the command that `words` are, and end; what goes wrong is said in one line, under `name`."""
    try:
        status = _called(words)
    except BaseException as exc:
        status = explained(exc, statuses, name, words)
    _end(status)


def _called(words: list[str]) -> int:
    gc.disable()  # all that is loaded stays: it need not be looked through while it is
    streams.prepare()
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - neither HOME nor the table of users has one
        os.environ["HOME"] = NO_HOME
    if _mounts(words):
        from lazyfs import daemon

        daemon.begin()
    from lazyfs.cli.commands import commands

    if "_LAZYFS_COMPLETE" in os.environ:
        from lazyfs.cli import completing

        completing.register()
    gc.freeze()
    gc.enable()
    color = None if streams.coloured() else False
    status: int | None = commands.main(words, prog_name="lazyfs", standalone_mode=False, color=color)
    sys.stdout.flush()
    return status or 0


def explained(exc: BaseException, statuses: Statuses, name: str, words: Sequence[str] = ()) -> int:
    """Say in one line why a command ends, where there is something to say, and return its exit status.

    *Raises*: `exc`, when it is a defect and the environment asks for its traceback.
    """
    import click

    from lazyfs.cli import misuse, saying
    from lazyfs.errors import LazyfsError, Misconfigured

    match exc:
        case SystemExit():
            return exc.code if isinstance(exc.code, int) else 0
        case KeyboardInterrupt() | click.exceptions.Abort():
            return statuses.interrupted
        case BaseExceptionGroup() if exc.subgroup(KeyboardInterrupt) is not None:
            return statuses.interrupted
        case click.exceptions.NoArgsIsHelpError():
            exc.show()
            return statuses.misused
        case click.ClickException():
            saying.complain(misuse.explained(exc, words), name)
            return statuses.misused
        case BrokenPipeError():
            return statuses.failed
        case BaseExceptionGroup() if exc.subgroup(BrokenPipeError) is not None:
            return statuses.failed
        case LazyfsError():
            saying.complain(exc, name)
            return statuses.misused if isinstance(exc, Misconfigured) else statuses.failed
    if os.environ.get(saying.TRACEBACK):
        raise exc
    saying.complain((isinstance(exc, OSError) and saying.of_the_host(exc)) or saying.of_a_defect(exc), name)
    return statuses.failed


def _mounts(words: list[str]) -> bool:
    """Say whether a daemon will be wanted, as far as can be seen before the words are understood."""
    return words[:1] == ["mount"] and not {"-h", "--help", "-f", "--foreground"} & set(words)


def _end(status: int) -> NoReturn:
    """End the process, without Python's taking apart of all that it has loaded, which takes it 10 to 40 ms."""
    atexit._run_exitfuncs()
    with contextlib.suppress(streams.OutputError, OSError):  # that is said already, or nobody reads it
        sys.stdout.flush()
    os._exit(status)
