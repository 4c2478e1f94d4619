"""The configuration: what files and variables say, which counts, whom it believes, and what it says of mistakes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs import settings
from lazyfs.cli.commands.blobs import fetch
from lazyfs.cli.commands.mounts import mount
from lazyfs.configuration import Configuration, look, merged, mistaken, user_file
from lazyfs.configuration.files import Layer, Said, read_file
from lazyfs.configuration.keys import OF_COMMANDS, OF_ORIGINS, read_origin
from lazyfs.errors import UsageError

EXAMPLE = ("https", "example.org", 443)
SECRET = "pLaNtEd-S3cret"

VALUES: dict[str, tuple[Any, str, Any]] = {
    "store": ('"/s"', "/s", Path("/s")),
    "block-size": ('"64K"', "65536", 65536),
    "max-cache": ('"20G"', "20G", 20 << 30),
    "min-free": ("1024", "1024", 1024),
    "credential-command": ('"git credential-cache"', "git credential-cache", "git credential-cache"),
    "netrc-file": ('"/n"', "/n", Path("/n")),
    "mirror": ('"http://a/=http://b/"', "http://a/=http://b/", ("http://a/=http://b/",)),
    "ca-file": ('"/c"', "/c", Path("/c")),
    "proxy": ('"http://p:1"', "http://p:1", "http://p:1"),
    "platform": ('"linux/arm64"', "linux/arm64", "linux/arm64"),
    "plain-http": ("true", "1", True),
    "offline": ("false", "no", False),
    "read-timeout": ("2.5", "2.5", 2.5),
    "revalidate": ('"never"', "never", float("inf")),
    "hedge": ("0", "0", 0.0),
    "allow-other": ("true", "on", True),
    "scrub": ("0", "0", 0),
    "passthrough": ("false", "off", False),
    "takeover": ("false", "FALSE", False),
    "profile": ('["/p", "http://p/q"]', "/p http://p/q", ("/p", "http://p/q")),
    "no-profile": ("true", "yes", True),
    "metrics": ("9100", "9100", ("127.0.0.1", 9100)),
    "user": ('"nobody"', "nobody", "nobody"),
    "log-format": ('"json"', "json", "json"),
    "log-level": ('"debug"', "debug", "debug"),
}
"""Of each key what a file says, what a variable says, and what is meant. Those of files only have no TOML."""

OF_VARIABLES: dict[str, tuple[str, Any]] = {
    "header-file": ("/h /i", (Path("/h"), Path("/i"))),
    "client-cert": ("/c", Path("/c")),
    "client-key": ("/k", Path("/k")),
}


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def says(path: Path) -> Layer:
    layer = read_file(path)
    assert layer is not None
    return layer


def wrong(path: Path) -> str:
    """Return the one line that says what is wrong with a file."""
    with pytest.raises(UsageError) as caught:
        read_file(path)
    line = str(caught.value)
    shown = line + repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert SECRET not in shown
    assert "\n" not in line
    assert line.startswith(str(path))
    return line.removeprefix(str(path))


def test_every_key_is_in_files_and_in_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "".join(f"{name} = {toml}\n" for name, (toml, _, _) in VALUES.items()))
    values = says(path).values
    expected = {name: value for name, (_, _, value) in VALUES.items()}
    assert {name: said.value for name, said in values.items()} == expected
    assert [said.by for said in values.values()] == [f"{path}, line {n}" for n in range(1, len(values) + 1)]
    texts = {name: text for name, (_, text, _) in VALUES.items()} | {n: text for n, (text, _) in OF_VARIABLES.items()}
    assert set(texts) == set(OF_COMMANDS)
    environment = {OF_COMMANDS[name].variable: text for name, text in texts.items()}
    found = look("", Path("/nothing"), environment)
    assert found.errors == ()
    assert {n: said.value for n, said in found.values.items()} == expected | {
        n: v for n, (_, v) in OF_VARIABLES.items()
    }
    assert found.values["max-cache"].by == "LAZYFS_MAX_CACHE"


def test_an_origin_has_keys_of_its_own(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.toml",
        f"""
[origin."https://Example.org:443"]
header = "X-Token: {SECRET}"
header-file = ["one", "~/two", "/three"]
credential-command = "git credential-cache"
netrc-file = "netrc"
mirrors = ["https://mirror.example.net/pub", "http://near:8080"]
ca-file = "ca.pem"
client-cert = "me.pem"
client-key = "me.key"
proxy = "http://user:{SECRET}@proxy:3128"
connections = 4
rate = "2M"
[origin.'http://*.example.com:8080/']
proxy = "none"
""",
    )
    layer = says(path)
    own = {name: said.value for name, said in layer.origins[EXAMPLE].items()}
    assert set(own) == set(OF_ORIGINS)
    assert own["header"] == (("X-Token", SECRET),)
    assert own["header-file"] == (tmp_path / "one", Path("~/two"), Path("/three"))
    assert own["mirrors"] == ("https://mirror.example.net/pub/", "http://near:8080/")
    assert own["rate"] == 2 << 20
    assert layer.origins["http", "*.example.com", 8080] == {"proxy": Said("none", f"{path}, line 15")}

    (origin, wild) = settings.own_options(merged([layer]))
    assert (origin.place, wild.place) == (EXAMPLE, ("http", "*.example.com", 8080))
    assert (origin.connections, origin.rate, origin.ca_file) == (4, 2 << 20, tmp_path / "ca.pem")
    assert origin.header_files == (tmp_path / "one", Path("~/two").expanduser(), Path("/three"))
    assert SECRET not in repr(origin)
    for name, key in OF_ORIGINS.items():
        assert SECRET not in key.shown(own[name]) + str(key.plain(own[name]))


def test_mirrors_of_an_origin_are_for_all_spellings_of_it(tmp_path: Path) -> None:
    text = (
        '[origin."https://example.org"]\nmirrors = "https://near/pub"\n[origin."http://x:81"]\nmirrors = "http://y"\n'
    )
    options = {**settings.UNSAID, "mirrors": ("http://a/=http://b/",)}
    configuration = merged([says(written(tmp_path / "a.toml", text))])
    assert settings.settings_of(tmp_path, [], options, configuration).mirrors == (
        ("http://a/", "http://b/"),
        ("https://example.org:443/", "https://near/pub/"),
        ("https://example.org/", "https://near/pub/"),
        ("http://x:81/", "http://y/"),
    )


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('max-cahce = "1G"', 1, "max-cahce: there is no such key; did you mean max-cache?"),
        ('\nmax_cache = "1G"', 2, "max_cache: there is no such key; did you mean max-cache?"),
        ("zzz = 1", 1, "zzz: there is no such key: remove it, or see lazyfs config"),
        ("[mount]\nmax-cache = 1", None, "mount: there is no such key"),
        ('header-file = "x"', 1, 'header-file: it is for one origin: write it below a line [origin."https://'),
        ('header = "x"', 1, "header: it is for one origin"),
        ("connections = 1", 1, "connections: it is for one origin"),
        ('[origin."http://a"]\nmax-cache = 1', 2, "max-cache: it is not for one origin: write it above the first line"),
        ('[origin."http://a"]\nconection = 1', 2, "conection: there is no such key; did you mean connections?"),
        ("max-cache = 20G", 1, "this is not TOML: "),
        ('a = "b\n', 1, "this is not TOML: illegal character '\\n'"),
        ("a = [1,\n\n", 3, "this is not TOML: invalid value"),
        (f'[origin."http://u:{SECRET}@a"]\n[origin."http://u:{SECRET}@a"]', 2, "this is not TOML: a table is there"),
        ("max-cache = true", 1, "max-cache: a size is a number of bytes, or one with K, M, G or T in quotes"),
        ("max-cache = -1", 1, "max-cache: a size is"),
        ('max-cache = "much"', 1, "max-cache: 'much' is not a size"),
        ('block-size = "3M"', 1, "block-size: a block size is a power of two from 64K to 8M"),
        ('offline = "yes"', 1, "offline: it takes true or false"),
        ("offline = 1", 1, "offline: it takes true or false"),
        ("read-timeout = -1", 1, "read-timeout: it takes a number of seconds, 0 or more"),
        ("read-timeout = nan", 1, "read-timeout: it takes a number of seconds, 0 or more"),
        ('revalidate = "always"', 1, 'revalidate: it takes a number of seconds, 0 or more, or "never"'),
        ("hedge = 101", 1, "hedge: it takes a number of percent, from 0 to 100"),
        ("store = 1", 1, "store: it takes text, in quotes"),
        ('metrics = "here"', 1, "metrics: 'here' is no PORT"),
        ('log-level = "loud"', 1, "log-level: it takes one of: debug, info, warning, error"),
        (f'proxy = "socks://u:{SECRET}@p"', 1, "proxy: a proxy is an http or https URL, env, or none"),
        (f'mirror = ["http://u:{SECRET}@a"]', 1, "mirror: a mirror is written as FROM=TO"),
        ("origin = 1", 1, 'origin: write a table for each, [origin."https://example.org"]'),
        ("[origin.example]", None, '[origin."example"]: an origin is a scheme and a host, such as "https://example.org"'),
        ('[origin."https://a/b"]', 1, '[origin."https://a/b"]: an origin has no path: what is said is for all of it; '
                                      'write [origin."https://a"]'),
        (f'[origin."https://a?b={SECRET}"]', 1, '[origin."https://a"]: an origin has no path'),
        (f'[origin."https://u:{SECRET}@a"]', 1, '[origin."https://a"]: an origin has no user'),
        (f'[origin."u:{SECRET}@a"]', 1, '[origin."a"]: an origin is a scheme and a host'),
        ('[origin."https://a.*.b"]', 1, '[origin."https://a.*.b"]: a * stands for the first part of a host'),
        ('[origin."https://*"]', 1, "a * stands for"),
        ('[origin."http://*.0.0.1"]', 1, "a * stands for"),
        ('[origin]\n"http://a" = 1', None, '[origin."http://a"]: it takes a table of keys'),
        ('[origin."http://a"]\n[origin."http://A:80"]', 2, '[origin."http://a:80"]: it is there twice, in another'),
        (f'[origin."http://a"]\nheader = "X {SECRET}"', 2, "header: a header is written as 'Name: value'"),
        (f'[origin."http://a"]\nheader = "Range: {SECRET}"', 2, "header: Range is lazyfs's own to send"),
        ('[origin."http://a"]\nconnections = 0', 2, "connections: it takes a number of requests, from 1 to 512"),
        ('[origin."http://a"]\nrate = "1K"', 2, "rate: a rate is 64K a second or more"),
        (f'[origin."http://a"]\nmirrors = ["b?{SECRET}"]', 2, "mirrors: a mirror of an origin is the http or"),
        ('[origin."http://*.a.b"]\nmirrors = "http://m"', 2, "mirrors: these are of one host"),
        ('[origin."http://a"]\nproxy = "env"', 2, "proxy: an origin's proxy is an http or https URL, or none"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, line: int | None, said: str) -> None:
    found = wrong(written(tmp_path / "a.toml", text))
    assert found.startswith(f", line {line}: " if line else ": ")
    assert said in found


def test_whom_it_believes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "hedge = 1", 0o644)
    assert says(path).values["hedge"].value == 1
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert wrong(path) == f" may be written by others, who could have it say anything: chmod go-w {path}"
    path.chmod(0o644)
    (tmp_path / "link").symlink_to(path)
    assert says(tmp_path / "link").values
    assert read_file(Path("/dev/null")) == Layer()
    assert "cannot be read: Is a directory; name another with --config, or none: --config /dev/null" in wrong(tmp_path)
    path.write_bytes(b"\n\n\xff")
    assert wrong(path) == ", line 3: it is not text (UTF-8)"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "hedge = 1", 0o644)
    os.chown(path, 4000, 4000)
    assert wrong(path).startswith(" belongs to another user (4000), who could have it say anything: chown it")


@pytest.mark.parametrize("said", [f'header = "X-Token: {SECRET}"', f'proxy = "http://user:{SECRET}@proxy"'])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, said: str) -> None:
    path = written(tmp_path / "a.toml", f'[origin."http://a"]\n{said}\n', 0o644)
    assert "others may read this file: chmod 600 it, or put the secret into a header-file of its own" in wrong(path)
    path.chmod(0o600)
    assert says(path).origins


def test_what_comes_later_counts_value_by_value(tmp_path: Path) -> None:
    origin = '[origin."https://example.org"]\n'
    system = written(
        tmp_path / "etc.toml", f"hedge = 1\nmax-cache = 1\nmin-free = 1\n{origin}connections = 1\nrate = '1M'"
    )
    users = written(tmp_path / "home" / "lazyfs" / "lazyfs.toml", f"hedge = 2\nmin-free = 2\n{origin}connections = 2")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "LAZYFS_HEDGE": "3", "LAZYFS_STORE": ""}
    found = look(None, system, environment).check()
    assert {name: said.value for name, said in found.values.items()} == {"hedge": 3, "max-cache": 1, "min-free": 2}
    assert found.values["min-free"].by == f"{users}, line 2"
    own = found.origins[EXAMPLE]
    assert (own["connections"].value, own["rate"].value) == (2, 1 << 20)
    assert found.files == ((system, "read"), (users, "read"))
    for none in ("", "/dev/null"):
        alone = look(None, system, environment | {"LAZYFS_CONFIG": none})
        assert (alone.values["min-free"].value, alone.errors) == (1, ())
        assert look(none, system, environment) == alone


def test_what_is_wrong_says_nothing_and_the_rest_counts(tmp_path: Path) -> None:
    system = written(tmp_path / "etc.toml", "hedge = 1\n")
    environment = {"LAZYFS_SCRUB": "much", "LAZYFS_OFFLINE": "maybe", "LAZYFS_MAX_CACHE": "1G"}
    found = look(str(tmp_path / "missing"), system, environment)
    assert set(found.values) == {"hedge", "max-cache"}
    missing, offline, scrub = map(str, found.errors)
    said = "cannot be read: No such file or directory; name another with --config, or none: --config /dev/null"
    assert missing == f"{tmp_path}/missing {said}"
    assert offline == "LAZYFS_OFFLINE: it takes true or false"
    assert scrub == "LAZYFS_SCRUB: 'much' is not a size: write bytes, or a number with K, M, G or T"
    with pytest.raises(UsageError, match="No such file"):
        found.check()


def test_the_users_file_is_where_platformdirs_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for configured in ("", str(tmp_path)):
        monkeypatch.setenv("XDG_CONFIG_HOME", configured)
        assert user_file() == platformdirs.user_config_path("lazyfs") / "lazyfs.toml"


def test_a_variable_that_is_almost_one_is_found() -> None:
    names = ["LAZYFS_MAXCACHE", "LAZYFS_MAX_CACHE", "LAZYFS_CONFIG", "LAZYFS_TEST_NO_PASSTHROUGH", "HOME"]
    assert list(mistaken(dict.fromkeys(names, ""))) == [
        "LAZYFS_MAXCACHE: there is no such variable; did you mean LAZYFS_MAX_CACHE?"
    ]


def test_netrc_is_a_second_name_of_its_variable() -> None:
    named = look("", Path("/nothing"), {"NETRC": "/n", "LAZYFS_NETRC_FILE": "/m"}).values["netrc-file"]
    assert named == Said(Path("/m"), "LAZYFS_NETRC_FILE")
    assert look("", Path("/nothing"), {"NETRC": "/n"}).values["netrc-file"] == Said(Path("/n"), "NETRC")


def test_origins_are_read_as_urls_are() -> None:
    assert read_origin("https://example.org") == read_origin("HTTPS://Example.ORG:443/") == EXAMPLE
    assert read_origin("http://[::1]:8080") == ("http", "::1", 8080)


_layers = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers()),
        st.dictionaries(
            st.sampled_from([EXAMPLE, ("http", "x", 80)]), st.dictionaries(st.sampled_from("pq"), st.integers())
        ),
    ),
    max_size=4,
)


@given(_layers)
def test_merging_keeps_each_last_word(layers: list[tuple[dict[str, int], dict[Any, dict[str, int]]]]) -> None:
    def said(values: dict[str, int]) -> dict[str, Said]:
        return {name: Said(value, "") for name, value in values.items()}

    made = [Layer(said(values), {place: said(own) for place, own in origins.items()}) for values, origins in layers]
    whole = merged(made)
    for name in "abc":
        last = next((values[name] for values, _ in reversed(layers) if name in values), None)
        assert (whole.values[name].value if name in whole.values else None) == last
    for place in {place for _, origins in layers for place in origins}:
        for name in "pq":
            tables = [origins.get(place, {}) for _, origins in reversed(layers)]
            last = next((table[name] for table in tables if name in table), None)
            assert (whole.origins[place][name].value if name in whole.origins[place] else None) == last


def test_python_gets_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(
        tmp_path / "a.toml", 'max-cache = "1G"\nhedge = 1\n[origin."https://example.org"]\nconnections = 3\n'
    )
    monkeypatch.setenv("LAZYFS_CONFIG", str(path))
    monkeypatch.setenv("LAZYFS_STORE", str(tmp_path / "store"))
    made = settings.configured(["https://example.org/file"], hedge=5.0)
    assert (made.store, made.max_cache, made.client.hedge) == (tmp_path / "store", 1 << 30, 0.05)
    assert [(own.place, own.connections) for own in made.client.origins] == [(EXAMPLE, 3)]
    assert made.client.credentials.named == {EXAMPLE}
    with pytest.raises(UsageError, match="there is no option max_cash; there are: store, block_size"):
        settings.configured(max_cash=1)
    path.write_text("hedge = 1\nhedg = 2\n")
    with pytest.raises(UsageError, match="line 2: hedg: there is no such key; did you mean hedge"):
        settings.configured()


def test_files_of_an_origin_are_looked_at_when_it_is_named(tmp_path: Path) -> None:
    said = {"header-file": "no header", "ca-file": "no certificate", "client-cert": "nor here"}
    for name, content in said.items():
        written(tmp_path / name, content)
        text = f'[origin."https://*.example.org"]\n{name} = "{name}"\n'
        configuration = merged([says(written(tmp_path / "a.toml", text))])
        made = settings.settings_of(tmp_path, ["https://example.org/a"], settings.UNSAID, configuration)
        assert len(made.client.origins) == 1
        with pytest.raises(UsageError, match=f"a.toml, line 2: {name}: .*{name}"):
            settings.settings_of(tmp_path, ["https://a.example.org/a"], settings.UNSAID, configuration)
    key = merged([says(written(tmp_path / "a.toml", '[origin."https://a"]\nclient-key = "k"'))])
    with pytest.raises(UsageError, match="line 2: client-key: a key is of no use without client-cert"):
        settings.own_options(key)


def test_nothing_is_said_by_nobody() -> None:
    assert look("", Path("/nothing"), {}) == Configuration(files=((Path("/nothing"), "not there"),))


def test_each_option_is_a_key_and_has_one_default() -> None:
    """What is added to `lazyfs mount` is added to the keys, and what asks origins has the same defaults in Python."""
    options = {option.name: option for option in (*fetch.params, *mount.params) if isinstance(option, click.Option)}
    for name in ("as_json", "configuration", "foreground", "headers", "mount_options", "output", "digest"):
        del options[name]
    keys = {key.parameter: f"--{key.name}" for key in OF_COMMANDS.values()}
    assert keys.keys() == options.keys()
    assert all(keys[name] in option.opts for name, option in options.items())
    said = fetch.make_context("fetch", ["http://a/"]).params
    assert {name: said.get(name) for name in settings.UNSAID} == settings.UNSAID
