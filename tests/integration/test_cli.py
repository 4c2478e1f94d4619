"""The commands as a person meets them; what they say when they fail is in test_errors.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lazyfs import __version__
from lazyfs.cli.commands import commands
from tests import under
from tests.mounts import ENVIRONMENT, PATIENCE, ROOT, Leftovers, Mounts, lazyfs, on_mount, start, wait_for_end
from tests.servers import MisbehavingOrigin, Nginx

DISK = bytes(range(256)) * 4096
"""What the origin has as disk.img: 1 MiB."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An origin with disk.img and a.txt, which nothing here changes."""
    base = tmp_path_factory.mktemp("origin")
    (base / "docroot").mkdir()
    (base / "docroot" / "disk.img").write_bytes(DISK)
    (base / "docroot" / "a.txt").write_text("hello\n")
    with Nginx(base / "nginx", base / "docroot") as nginx:
        yield nginx.url


def test_a_bad_line_of_a_manifest_is_refused_by_number_and_the_rest_is_served(
    nginx: Nginx, docroot: Path, mounts: Mounts, tmp_path: Path
) -> None:
    (docroot / "a.txt").write_text("hello\n")
    manifest = tmp_path / "list.jsonl"
    good = json.dumps({"path": "a", "url": f"{nginx.url}/a.txt", "size": 6})
    unsafe = json.dumps({"path": "../b", "url": f"{nginx.url}/a.txt"})
    manifest.write_text("\n".join([good, unsafe, "nonsense", json.dumps({"path": "c"}), good.replace('"a"', '"d/e"')]))

    mount = mounts(os.path.relpath(manifest, ROOT))  # the daemon works elsewhere

    assert on_mount(under.names, mount.path()) == ["a", "d"]
    assert on_mount(under.read, mount.path("d/e")) == b"hello\n"
    assert list(mount.status()["reasons"]) == [f"{manifest}, line {number}" for number in (2, 3, 4)]
    shown = lazyfs("status", mount.at).stdout
    assert re.search(r"line 2: .*unsafe", shown)
    assert re.search(r"line 3: not JSON", shown)


def test_a_live_mount_is_refused_and_goes_on(url: str, mounts: Mounts) -> None:
    mount = mounts(f"{url}/disk.img")

    done = lazyfs("mount", "--store", mount.store, f"{url}/a.txt", mount.at)

    assert done.returncode == 1
    assert done.stderr == f"lazyfs: {mount.at} has a mount already; unmount it with: lazyfs umount {mount.at}\n"
    assert on_mount(under.names, mount.path()) == ["disk.img"]

    (upgraded,) = json.loads(lazyfs("upgrade", "--json", mount.at).stdout)
    assert upgraded == {"mountpoint": str(mount.at), "pid": mount.status()["pid"], "version": __version__}


def test_a_dead_mount_is_explained_replaced_and_unmounted(url: str, mounts: Mounts) -> None:
    mount = mounts(f"{url}/disk.img")
    mount.kill()

    commands: list[list[str | Path]] = [
        ["status", mount.at],
        ["add", mount.at, f"{url}/a.txt"],
        ["remove", mount.at, "disk.img"],
        ["fetch", mount.path("disk.img")],
    ]
    for words in commands:
        done = lazyfs(*words)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"lazyfs umount {mount.at}" in done.stderr

    again = mounts(f"{url}/disk.img", at=mount.at)
    assert on_mount(under.read, again.path("disk.img")) == DISK

    again.kill()
    assert lazyfs("umount", mount.at).returncode == 0
    assert not Leftovers.below(mount.at.parent).mounts


def test_a_busy_mount_is_kept_and_its_holder_named(url: str, mounts: Mounts) -> None:
    mount = mounts(f"{url}/disk.img")
    reader = start(under.hold_and_read, mount.path("disk.img"))
    reader.wait_until_open()

    done = lazyfs("umount", mount.at)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"(pid {reader.pid})" in done.stderr
    assert "--lazy" in done.stderr

    assert lazyfs("umount", "--lazy", mount.at).returncode == 0
    assert not Leftovers.below(mount.at.parent).mounts
    assert reader.result() == DISK  # through a mount that is no longer there
    wait_for_end([mount.pid])


def test_an_interrupted_mount_takes_its_daemon_with_it(tmp_path: Path) -> None:
    at = tmp_path / "at"
    at.mkdir()
    with MisbehavingOrigin() as origin:
        url = origin.url("stall", "random-1M-x")
        command: list[str | Path] = [sys.executable, "-m", "lazyfs", "mount", "--store", tmp_path / "store", url, at]
        with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as mounting:
            origin.wait(url, requests=1)
            mounting.send_signal(signal.SIGINT)
            _, errors = mounting.communicate(timeout=PATIENCE)

        assert mounting.returncode == 130
        assert errors.strip() == ""
        origin.wait(url, most_open=0)
        assert not Leftovers.settled(tmp_path)


def test_the_demo_shows_what_it_says_and_leaves_nothing(tmp_path: Path) -> None:
    with _demo(tmp_path) as demo:
        output, errors = demo.communicate(timeout=PATIENCE * 2)

    assert demo.returncode == 0, errors
    assert errors == ""
    prompts = [line for line in output.splitlines() if line.startswith("$ ")]
    assert sum(line.startswith("$ lazyfs mount http://127.0.0.1:") for line in prompts) == 3
    assert "\x1b" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("until", ["$ lazyfs mount", "$ sha256sum second/"])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, until: str, number: signal.Signals) -> None:
    with _demo(tmp_path) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(until):
                break
        demo.send_signal(number)
        demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not Leftovers.settled(tmp_path)


def _demo(directory: Path) -> subprocess.Popen[str]:
    environment = {**ENVIRONMENT, "TMPDIR": str(directory)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "lazyfs", "demo"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def _commands() -> Iterator[list[str]]:
    """Yield the words of each command there is."""
    ahead: list[tuple[list[str], click.Command]] = [([], commands)]
    while ahead:
        words, command = ahead.pop(0)
        yield words
        inner = command.commands.items() if isinstance(command, click.Group) else ()
        ahead += [([*words, name], each) for name, each in inner]


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_each_command_explains_itself(words: list[str]) -> None:
    """In one form: a sentence, an example or more that begin with the command, options; no line is too long."""
    shown = CliRunner().invoke(commands, [*words, "--help"], prog_name="lazyfs", terminal_width=80).output
    command = " ".join(["lazyfs", *words])

    assert shown.startswith(f"Usage: {command} ")
    first = shown.split("\n\n")[1].strip()
    assert re.fullmatch(r"[A-Z](?!.*\. ).*\.", first.replace("\n  ", " ")), "one sentence"
    _, _, rest = shown.partition("\n  Examples:\n")
    examples = rest.partition("\n\n")[0].splitlines()
    assert examples
    assert all(line.startswith(f"    {command}") for line in examples)
    assert max(map(len, shown.splitlines())) <= 80
    assert "..." not in "".join(line for line in shown.splitlines()[1:])


def test_help_is_short_to_type_and_quick(tmp_path: Path) -> None:
    """Also as `python -m lazyfs`, which calls itself lazyfs."""
    words = [sys.executable, "-X", "importtime", "-m", "lazyfs", "-h"]
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )

    assert done.stdout.startswith("Usage: lazyfs ")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"trio", "httpx", "h11", "pyfuse3", "rich", "sqlite3", "ssl", "platformdirs"}


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which `lazyfs` is the command."""
    words = ["sh", "-c", f'lazyfs() {{ "{sys.executable}" -m lazyfs "$@"; }}; {script}']
    given = {**ENVIRONMENT, **environment}
    return subprocess.run(words, cwd=ROOT, env=given, capture_output=True, timeout=PATIENCE, check=False)


def test_what_was_done_is_said_for_people_and_for_scripts(url: str, tmp_path: Path) -> None:
    store: list[str | Path] = ["--store", tmp_path / "store"]

    def did(*words: str | Path, status: int = 0) -> str:
        done = lazyfs(*words)
        assert done.returncode == status, done.stderr
        assert done.stderr.count("\n") == status
        return done.stdout

    def said(*words: str | Path, status: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(did(*words, "--json", status=status))
        return found

    assert re.fullmatch(r"fetched disk.img, 1.0 MiB in [0-9.]+ s\n", did("fetch", *store, f"{url}/disk.img"))
    (fetched,) = said("fetch", *store, f"{url}/a.txt", f"{url}/none", status=1)
    assert (fetched["path"], fetched["size"], set(fetched)) == ("a.txt", 6, {"path", "size", "seconds"})
    for output in ("/dev/stdout", "-"):
        assert did("fetch", *store, "-o", output, f"{url}/a.txt") == "hello\n"
    link, written = tmp_path / "link", tmp_path / "written"
    link.symlink_to(written.name)
    assert did("fetch", *store, "-o", link, f"{url}/a.txt") == ""
    assert (link.is_symlink(), written.read_text()) == (True, "hello\n")

    rows = {row["url"]: row["blob"] for row in said("ls", *store)}
    disk, text = rows[f"{url}/disk.img"], rows[f"{url}/a.txt"]
    assert did("pin", *store, disk) == f"pinned {disk}\n"
    assert said("pin", *store, f"{url}/disk.img") == [{"blob": disk}]
    assert [row["blob"] for row in said("rm", *store, disk, text, status=1)] == [text], "what went all the same"
    assert did("unpin", *store, disk) == f"unpinned {disk}\n"
    assert said("unpin", *store, disk) == [{"blob": disk}]
    assert said("rm", *store, disk)[0]["bytes_freed"] >= len(DISK)


def test_streams_that_are_closed_or_full_or_not_read(url: str, tmp_path: Path) -> None:
    """A closed stream's number goes to no file of the store, so nothing is written into that."""
    store = f"--store {tmp_path}/store"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = shell(f"lazyfs fetch {store} {url}/a.txt {closed}; exec lazyfs ls {store} {closed}")
        assert (done.returncode, done.stderr) == (0, b"")
    assert shell(f"lazyfs fsck {store}").stdout.startswith(b"sound: 1 blob")
    for unbuffered in ("", "1"):
        done = shell("(lazyfs -h; echo $? >&2) | :", PYTHONUNBUFFERED=unbuffered)
        assert done.stderr in (b"0\n", b"1\n"), "nothing else, whether or not it came to be written"
    assert shell("lazyfs nope 2>/dev/full").returncode == 2


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_names_of_all_kinds_in_any_locale(locale: dict[str, str], docroot: Path, nginx: Nginx, tmp_path: Path) -> None:
    (docroot / "bl\u00e5.img").write_text("x")
    (docroot / os.fsdecode(b"\xff.img")).write_text("y")
    store = f"--store {tmp_path}/store"
    done = shell(f"lazyfs fetch {store} {nginx.url}/bl%C3%A5.img {nginx.url}/%FF.img", **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"fetched \xff.img, 1 B" in done.stdout
    assert done.stdout.startswith(b"fetched bl\xc3\xa5.img, 1 B")
    done = shell(f"lazyfs fetch {store} {nginx.url}/none/bl\u00e5.img; lazyfs ls {store} --json", **locale)
    assert (done.stderr.count(b"\n"), len(json.loads(done.stdout))) == (1, 2)


def test_output_that_goes_where_stdout_goes_is_added_there(url: str, tmp_path: Path) -> None:
    for output in ("-", "/dev/stdout"):
        assert shell(f"lazyfs fetch --store {tmp_path}/s -o {output} {url}/a.txt >>{tmp_path}/log").returncode == 0
    assert (tmp_path / "log").read_text() == "hello\nhello\n"
    assert Path("/dev/stdout").is_symlink()


def test_who_has_read_enough_ends_a_fetch_without_a_word(url: str, tmp_path: Path) -> None:
    done = shell(f"(lazyfs fetch --store {tmp_path}/s -o - {url}/disk.img; echo $? >{tmp_path}/status) | head -c 1")
    assert (len(done.stdout), done.stderr, (tmp_path / "status").read_text()) == (1, b"", "1\n")


def test_a_name_controls_no_terminal(docroot: Path, nginx: Nginx, mounts: Mounts) -> None:
    name = "a\x1b]0;x\x07\n.img"
    (docroot / name).write_text("some text")
    mount = mounts(f"{nginx.url}/a%1B%5D0;x%07%0A.img")
    on_mount(under.sha256, mount.path(name))
    shown = "a\\x1b]0;x\\x07\\n.img"
    why = lazyfs("status", "--why", mount.at).stdout
    assert shown in why
    fetched = lazyfs("fetch", mount.path(name)).stdout
    assert fetched.startswith(f"fetched {shown}, 9 B")
    assert all(line.isprintable() for line in (why + fetched).splitlines())


def test_a_defect_is_one_line_that_says_so(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "lazyfs").mkdir(parents=True)
    for path in (ROOT / "lazyfs").iterdir():
        (code / "lazyfs" / path.name).symlink_to(path)
    (code / "lazyfs" / "cli").unlink()
    shutil.copytree(ROOT / "lazyfs" / "cli", code / "lazyfs" / "cli")
    (code / "lazyfs" / "cli" / "showing.py").write_text(
        "def list_blobs(store_path, *, as_json):\n    raise KeyError('http://u:s3cret@h/x?y')\n"
    )
    script = f"cd {code}; lazyfs ls"
    done = shell(script, PYTHONPATH=str(code))
    assert done.returncode == 1
    assert done.stderr == (
        b"lazyfs: KeyError('http://h/x') was not foreseen: a defect of lazyfs, please report it; "
        b"LAZYFS_TRACEBACK=1 shows where it was met\n"
    )
    done = shell(script, PYTHONPATH=str(code), LAZYFS_TRACEBACK="1")
    assert (done.returncode, done.stderr.startswith(b"Traceback")) == (1, True)
