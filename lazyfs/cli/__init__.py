"""The command line: what is said in CONTRACT-like terms by `lazyfs --help`, one module for each group of commands."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Final, NamedTuple, NoReturn


class Statuses(NamedTuple):
    """What a command ends with when it does not succeed."""

    failed: int = 1
    misused: int = 2
    interrupted: int = 130


STATUSES: Final = Statuses()


def main() -> NoReturn:
    """Run the command; every failure is one line on stderr. Exit status 0: done, 1: failed, 2: wrongly called."""
    run(sys.argv[1:])


def run(words: list[str], statuses: Statuses = STATUSES, name: str = "") -> NoReturn:
    """Run the command that `words` are, and end. What goes wrong is said under `name`, else under the command's own."""
    gc.disable()  # all that is loaded stays: it need not be looked through while it is
    if _mounts(words):
        from lazyfs import daemon

        daemon.begin()
    import click

    from lazyfs.cli.commands import commands
    from lazyfs.errors import LazyfsError, Misconfigured

    if "_LAZYFS_COMPLETE" in os.environ:
        from lazyfs.cli import completing

        completing.register()
    gc.freeze()
    gc.enable()
    try:
        _end(commands.main(words, prog_name="lazyfs", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _end(statuses.interrupted)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        _end(statuses.misused)
    except click.ClickException as exc:
        context = getattr(exc, "ctx", None)
        command = context.command_path if context else "lazyfs"
        print(f"{name or command}: {exc.format_message().rstrip('.')} (try: {command} --help)", file=sys.stderr)
        _end(statuses.misused)
    except Misconfigured as exc:
        print(f"{name or 'lazyfs'}: {exc}", file=sys.stderr)
        _end(statuses.misused)
    except LazyfsError as exc:
        print(f"{name or 'lazyfs'}: {exc}", file=sys.stderr)
        _end(statuses.failed)
    except BaseExceptionGroup as exc:
        if exc.subgroup(KeyboardInterrupt) is None:
            raise
        _end(statuses.interrupted)
    except BrokenPipeError:
        os._exit(1)


def _mounts(words: list[str]) -> bool:
    """Say whether a daemon will be wanted, as far as can be seen before the words are understood."""
    return words[:1] == ["mount"] and not {"-h", "--help", "-f", "--foreground"} & set(words)


def _end(status: int) -> NoReturn:
    """End the process, without Python's taking apart of all that it has loaded, which takes it 10 to 40 ms.

    *Raises*: BrokenPipeError, when nobody reads what was printed.
    """
    atexit._run_exitfuncs()
    if sys.stdout is not None:  # as it is when the caller has closed it
        sys.stdout.flush()
    os._exit(status)
