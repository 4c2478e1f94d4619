"""What mount.lazyfs makes of mount(8)'s words."""

from __future__ import annotations

import pytest

from lazyfs.cli.helper import Call, read_call, split, translated
from lazyfs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        ("ro,,store=/x,", ["ro", "store=/x"]),
        (r"source=http://h/a\,b,ro", ["source=http://h/a,b", "ro"]),
        ('header="A: b,c",ro', ["header=A: b,c", "ro"]),
        (r'header="A: \"b\",c"', ['header=A: "b",c']),
        (r"store=/a\b,store=/c\\,d", [r"store=/a\b", r"store=/c\,d"]),
        ('store=/open"quote,ro', ['store=/open"quote', "ro"]),
    ],
)
def test_options_are_split_where_mount_splits_them(text: str, options: list[str]) -> None:
    assert list(split(text)) == options


def test_words_come_in_any_order() -> None:
    call = read_call(["-s", "URL", "-o", "a,b", "/mnt", "-n", "-v", "-t", "fuse.lazyfs", "-o", "c", "-N", "/ns"])
    assert call == Call("URL", "/mnt", ("a", "b", "c"), sloppy=True, namespace="/ns")


def test_options_are_those_of_the_command() -> None:
    options = ("rw", "max_cache=1G", "read-timeout=5", "offline", "no_passthrough", "source=B", "allow_other",
               "x-systemd.automount", "noexec", "header=A: b=c", "header=D: e", "comment=x",
               "profile=/a", "profile=http://h/b", "no_profile")  # fmt: skip
    assert translated(Call("A", "/mnt", options)) == (
        ["A", "B"],
        ["--max-cache=1G", "--read-timeout=5", "--offline", "--no-passthrough", "--allow-other", "-onoexec",
         "--header=A: b=c", "--header=D: e", "--profile=/a", "--profile=http://h/b", "--no-profile"],
    )  # fmt: skip


@pytest.mark.parametrize("option", ["foreground", "help", "o", "max_cash=1", "max_cache", "offline=1", "source"])
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(UsageError):
        translated(Call("A", "/mnt", (option,)))


@pytest.mark.parametrize("words", [[], ["URL"], ["A", "B", "/mnt"], ["-x", "URL", "/mnt"]])
def test_what_mount_would_not_say_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="mount -t lazyfs SOURCE MOUNTPOINT"):
        read_call(words)
