"""README.md is true: every block of it runs as it stands, prints what it shows, and every name in it is there."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lazyfs.cli.commands import commands as lazyfs
from tests.mounts import ROOT
from tests.readme import comparing, page, picture
from tests.readme.page import Block
from tests.readme.web import Web
from tests.readme.world import World

README = page.read()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    """The web that the page names."""
    return Web(tmp_path_factory.mktemp("web"))


class Reader:
    """Who reads one section from its beginning, and does what it says."""

    def __init__(self, world: World, blocks: list[Block]) -> None:
        self._world, self._left = world, blocks

    def follow(self, block: Block) -> None:
        """Do what stands in a block, and before it in what nobody has done yet. *Raises*: AssertionError."""
        while block in self._left:
            self._do(self._left.pop(0))
        if not self._left:
            assert self._world.mounted() == {}, f"line {block.line}: the section ends with this mounted"

    def _do(self, block: Block) -> None:
        if block.kind == "console":
            for command, shown in comparing.commands(block.text):
                printed = self._run(command, 1 if shown.startswith("lazyfs: ") else 0)
                assert comparing.alike(shown, printed), f"line {block.line}: $ {command}{printed}"
        elif block.kind == "python":
            self._run(f"python3 -c {shlex.quote(block.text)}")
        elif block.kind == "sh":
            self._run(block.text)
        elif block.file is not None:
            self._world.put(block.file, block.text)

    def _run(self, text: str, status: int = 0) -> str:
        done = self._world.shell(text)
        assert done.returncode == status, f"{text}\nexit status {done.returncode}:\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(request: pytest.FixtureRequest, web: Web) -> Iterator[Reader]:
    """Who reads the section that the parameter names."""
    with World(web) as world:
        yield Reader(world, list(README.sections[request.param]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a world of its own")
@pytest.mark.parametrize(
    ("reader", "block"),
    [pytest.param(block.section, block, id=str(block)) for block in README.blocks],
    indirect=["reader"],
    scope="module",
)
def test_every_block_runs(reader: Reader, block: Block) -> None:
    """A block runs behind those before it in its section; a file is there for the commands that come after it."""
    assert block.runs or block.file is not None, f"line {block.line}: nobody runs this block"
    reader.follow(block)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a world of its own")
def test_the_picture_shows_what_one_sees(web: Web) -> None:
    """Else tools/picture makes it anew."""
    with World(web) as world:
        seen = picture.recorded(world).export_text()
    shown = picture.text_of(picture.PICTURE.read_text())
    assert comparing.alike(shown, seen), f"{shown}\n\n{seen}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a world of its own")
def test_a_store_comes_back_from_an_archive(web: Web) -> None:
    """As CI keeps it, by a tar that knows no holes: the next job fetches nothing, and the store is no larger."""
    before, after, _ = README.sections["a-ci-cache"]
    with World(web) as world:
        for text in (before.text, "tail -c 1000 data/debian.raw | wc -c", after.text):
            assert world.shell(text).returncode == 0
        world.shell("du -s .lazyfs >used; tar cf kept.tar .lazyfs; rm -r .lazyfs; tar xf kept.tar")
        for text in (before.text, "tail -c 1000 data/debian.raw | wc -c"):
            assert world.shell(text).returncode == 0
        (mount,) = json.loads(world.shell("lazyfs status --json").stdout)["mounts"]
        assert mount["counters"]["origin_bytes"] < 1000
        used, kept = (int(text.split()[0]) for text in world.shell("cat used; du -s .lazyfs").stdout.splitlines())
        assert kept < used + 1000  # KiB; the whole file has 65536


JSON = {
    "status": "lazyfs status --watch --interval 0.1 --json | head -n 1",
    "status --why": "lazyfs status --why --json",
    "ls": "lazyfs ls --json",
    "map": "lazyfs map --json /mnt/x/debian.raw",
    "fetch": "lazyfs fetch --json https://example.org/data.zip",
    "pin, unpin, rm": "lazyfs rm --json https://example.org/data.zip",
    "upgrade": "lazyfs upgrade --json --all",
    "gc": "lazyfs gc --json",
    "fsck": "lazyfs fsck --json",
    "config": "lazyfs config --json",
    "doctor": "lazyfs doctor --json",
    "profile show": "lazyfs profile show --json /mnt/x/debian.raw",
}
"""The commands that print JSON, as the page's table has them, in an order in which they can be run."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a world of its own")
def test_what_is_said_of_json_is_in_it(web: Web) -> None:
    table = page.README.read_text().partition("| command | what it prints |")[2].partition("\n\n")[0]
    rows = re.findall(r"(?m)^\| (`.*`) \| (.*) \|$", table)
    told = {name.replace("`", ""): set(re.findall(r"`([a-z_]+)`", keys)) for name, keys in rows}
    assert set(told) == set(JSON)
    with World(web) as world:
        mount = "lazyfs mount https://example.org/images/debian.raw /mnt/x; head -c 5000000 /mnt/x/debian.raw | wc -c"
        done = world.shell(f"mkdir /mnt/x; {mount}; lazyfs umount /mnt/x; {mount}")
        assert done.returncode == 0, done.stdout
        for name, command in JSON.items():
            done = world.shell(command)
            assert done.returncode == 0, done.stdout
            assert told[name] - STATES - _keys(json.loads(done.stdout)) == set(), name
        assert world.shell("lazyfs umount /mnt/x").returncode == 0


STATES = {"ok", "note", "problem"}
"""Values that the table names."""


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set[str]().union(*map(_keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("block", [block for block in README.blocks if block.file], ids=str)
def test_every_file_is_used(block: Block) -> None:
    """By a command after it in its section, which fails if the file is not right."""
    later = [other.text for other in README.sections[block.section][block.number :] if other.runs]
    name = READ_BY.get(str(block.file), Path(str(block.file)).stem)
    assert any(name in text for text in later), f"line {block.line}: nobody reads this file"


READ_BY = {"/etc/fstab": "mount /mnt/"}
"""What reads files that commands do not name."""


def test_the_commands_are_those_that_there_are() -> None:
    rows = re.findall(r"(?m)^\| (`lazyfs [^|]*)\|", page.README.read_text().replace("\\|", " "))
    table = {name for row in rows for name in re.findall(r"`lazyfs ([a-z-]+)", row)}
    assert table == {name for name, command in lazyfs.commands.items() if not command.hidden}


def test_every_option_that_is_named_is_there() -> None:
    """In the text; those in blocks are run."""
    there = {"--help", *_options(lazyfs)}
    named = {word for text in README.code for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert named - there - OF_OTHERS == set()


OF_OTHERS = {"--make-shared", "--chart"}
"""Options of other programs: mount(8), tools/bench."""


def _options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        for name in command.commands.values():
            yield from _options(name)


def test_every_link_leads_somewhere() -> None:
    for link in README.links:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        assert not path or (ROOT / path).exists(), link
        assert not anchor or path or anchor in README.anchors, link


def test_the_tools_are_those_that_there_are() -> None:
    """Each one that can be run is named, and none that cannot."""
    tools = {path.name for path in (ROOT / "tools").iterdir() if path.is_file() and os.access(path, os.X_OK)}
    named = {name for text in README.code for name in re.findall(r"(?<![\w/])tools/([a-z-]+)(?=$| )", text)}
    assert tools - named == set()
    assert {name for name in named if not (ROOT / "tools" / name).exists()} == set()


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("read  16.0 KiB in 1 read", "read 1 MiB in  23 read", True),
        ("url-b5570640dc711d6c  64.0 MiB  100 %", "url-0123456789abcdef 1 B 3 %", True),
        ("one\n...\nlast", "one\ntwo\nthree\nlast\n", True),
        ("one\nlast", "one\ntwo\nlast", False),
        ("0 errors", "0 failures", False),
    ],
)
def test_outputs_are_compared_without_what_varies(shown: str, printed: str, same: bool) -> None:
    assert comparing.alike(shown, printed) is same
