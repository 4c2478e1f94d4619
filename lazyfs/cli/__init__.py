"""The command line: what is said in CONTRACT-like terms by `lazyfs --help`, one module for each group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; every failure is one line on stderr. Exit status 0: done, 1: failed, 2: wrongly called."""
    import click

    from lazyfs.cli.commands import commands
    from lazyfs.errors import LazyfsError

    try:
        sys.exit(commands.main(prog_name="lazyfs", standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(2)
    except click.ClickException as exc:
        context = getattr(exc, "ctx", None)
        command = context.command_path if context else "lazyfs"
        print(f"{command}: {exc.format_message().rstrip('.')} (try: {command} --help)", file=sys.stderr)
        sys.exit(2)
    except LazyfsError as exc:
        print(f"lazyfs: {exc}", file=sys.stderr)
        sys.exit(1)
    except BaseExceptionGroup as exc:
        if exc.subgroup(KeyboardInterrupt) is None:
            raise
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
