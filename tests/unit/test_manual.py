"""The manual pages: what a help text becomes, shown as man(1) shows it."""

from __future__ import annotations

import re

import click
import pytest

from lazyfs.cli import manual
from tests.mounts import run


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write to FILE; -- 'so'.")
@click.option("--quiet", hidden=True)
def sample(output: str, quiet: bool) -> None:
    """Do it. More follows.

    .A line with a dot, a back\\slash, and 'quotes'.

    \b
    one   two
    three four

    \b
    Examples:
      lazyfs sample https://example.org/disk.img
      lazyfs sample --output - ~/x
    """


def shown(page: str, path: str) -> str:
    with open(path, "w") as file:
        file.write(page)
    return re.sub(".\b", "", run(["mandoc", "-T", "ascii", path]).stdout)


def test_a_help_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("page") / "lazyfs-sample.1")
    page = shown(manual._page_of(["lazyfs", "sample"], sample, []), path)
    assert "NAME\n       lazyfs-sample - do it\n" in page
    assert "SYNOPSIS\n       lazyfs sample [OPTIONS]\n" in page
    assert (
        "DESCRIPTION\n       Do it. More follows.\n\n       .A line with a dot, a back\\slash, and 'quotes'.\n" in page
    )
    assert "           one   two\n           three four\n" in page
    assert "       -o, --output FILE\n              Write to FILE; -- 'so'.\n" in page
    assert "quiet" not in page
    examples = (
        "EXAMPLES\n           lazyfs sample https://example.org/disk.img\n           lazyfs sample --output - ~/x\n"
    )
    assert examples in page
    assert run(["mandoc", "-T", "lint", "-W", "warning", path], check=False).stdout == ""


def test_each_command_has_a_page() -> None:
    pages = dict(manual.pages())
    assert {"lazyfs.1", "lazyfs-mount.1", "lazyfs-profile.1", "lazyfs-profile-show.1", "mount.lazyfs.8"} <= pages.keys()
    assert "\\fBlazyfs\\-doctor\\fP(1)" in pages["lazyfs.1"]
    assert "\\fB\\-h\\fP, \\fB\\-\\-help\\fP" in pages["lazyfs-mount.1"]
    assert ".SH EXAMPLES" in pages["lazyfs-mount.1"]
