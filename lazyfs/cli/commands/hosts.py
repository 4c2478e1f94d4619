"""doctor, pack, install-units, config, completion, demo: what a host may want besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from lazyfs.cli.commands import mounts
from lazyfs.cli.commands.helping import Command
from lazyfs.cli.commands.options import asking_options, config_option, json_option, store_path

OF_CONFIG: Final = {option.name for option in mounts.mount.params if isinstance(option, click.Option)} - {
    "configuration", "foreground", "mount_options",
}  # fmt: skip
"""The options of `lazyfs mount` that are configured."""


@click.command(cls=Command)
@asking_options
@json_option("one object")
@click.argument("places", nargs=-1, metavar="[URL]...")
def doctor(places: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """See whether lazyfs can work here, and say what to do where it cannot.

    It looks at the kernel, FUSE, what lazyfs was built with, the store, and running mounts, and changes none of it. Of
    each URL it asks two bytes, to see whether its origin is of use; without one nobody is asked. Each line is ok, a
    note (it works, and could be better) or a problem. Ends with 1 when there is a problem.

    \b
    Examples:
      lazyfs doctor
      lazyfs doctor https://example.org/disk.img
    """
    from lazyfs.cli import doctor
    from lazyfs.cli.settings import settings_of

    settings = settings_of(store_path(options["store"]), places, options)
    return doctor.examine(places, settings, options["configuration"], as_json=as_json)


@click.command()
@click.option("--force", is_flag=True, help="Replace IMAGE if it is there.")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("image", type=click.Path(path_type=Path))
def pack(directory: Path, image: Path, force: bool) -> None:
    """Make an EROFS image of a directory, with mkfs.erofs.

    It keeps names, modes, owners, times, hard links, devices and attributes. It is not compressed, and is made to be
    served and mounted lazily. The same tree gives the same image. IMAGE is there when it is whole, and not before.

    \b
    Examples:
      lazyfs pack /srv/tree tree.erofs
    """
    from lazyfs.cli import packing

    packing.pack(directory, image, force=force)


@click.command("install-units")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Put it below DIR, as if that were /.",
)
@click.option("--print", "dry", is_flag=True, help="Only say what would be done.")
@click.option("--remove", "away", is_flag=True, help="Remove it again.")
def install_units(root: Path, dry: bool, away: bool) -> None:  # fmt: skip
    """Have mount(8), /etc/fstab and systemd know lazyfs.

    Puts links to mount.lazyfs where mount(8) looks for it, and the service template lazyfs@.service where systemd
    does. What is there already and not of lazyfs's making is left alone.

    \b
    Examples:
      lazyfs install-units --print       what it would do
      lazyfs install-units
      lazyfs install-units --remove
    """
    from lazyfs.cli import units

    (units.remove if away else units.install)(root.absolute(), dry=dry)


@click.command(cls=Command)
@config_option(wrong="passed on")
@json_option("one object")
def config(configuration: Any, as_json: bool, **options: Any) -> int:
    """Show what is configured, and who says so.

    Of each option of mount, in this order: /etc/lazyfs.toml, your own lazyfs.toml, the environment (LAZYFS_MAX_CACHE
    for --max-cache), and the options that are given here; what comes later counts. Then what is said of origins. No
    secret is shown. Exit status 2: something is wrong with it.

    \b
    Examples:
      lazyfs config
      lazyfs config --config FILE --max-cache 20G
    """
    from lazyfs.cli import configuring

    return configuring.show(configuration, options, as_json=as_json)


config.params = [*(option for option in mounts.mount.params if option.name in OF_CONFIG), *config.params]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete lazyfs's commands.

    Its first lines say where to put it; a package may have done so.

    \b
    Examples:
      lazyfs completion bash >~/.local/share/bash-completion/completions/lazyfs
      lazyfs completion fish >~/.config/fish/completions/lazyfs.fish
    """
    from lazyfs.cli import completing

    click.echo(completing.script(shell), nl=False)


@click.command()
def demo() -> None:
    """Show the main job, with an origin of its own.

    It mounts a file, lists it, reads a part of it and then all of it, mounts it again on the same store, stops the
    origin, reads once more, and unmounts. What it made is gone afterwards.

    \b
    Examples:
      lazyfs demo
    """
    from lazyfs.cli import demo

    demo.run()
