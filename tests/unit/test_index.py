"""Directory listings as real servers print them, and as nobody should.

The pages are what the servers sent for one directory with the files of `SIZES`, all of 2024-01-02 10:00 UTC:
nginx 1.22, Apache 2.4.71, lighttpd 1.4.69, Caddy 2.6.2, Python 3.11.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs.entries import Entry, Kind, Refusal, unsafe
from lazyfs.errors import SourceError
from lazyfs.sources import index
from lazyfs.sources.index import parse_index

PAGES = Path(__file__).parent / "pages"
BASE = "http://h/pages/"
TEN_O_CLOCK = 1704189600 * 10**9

LONG = "disk-" + "x" * 60 + ".qcow2"  # nginx and Apache show it cut short
SIZES = {
    "a b": 1,
    "a%20b": 2,
    "a%2Fb": 3,
    "#hash": 4,
    "what?": 5,
    "plus+plus": 6,
    "été": 7,
    "latin-\udce9": 8,
    "colon:1.iso": 9,
    "amp&amp;<b>\"'": 10,
    "semi;": 11,
    "new\nline": 12,
    "back\\slash": 972,
    LONG: 9999,
    "empty": 0,
    "kib": 12293,
    "large.img": 3_000_000_000,
}
DIRECTORIES = {"sub", "dir with space"}


def read(body: str | bytes, content_type: str = "text/html", base: str = BASE) -> list[Entry | Refusal]:
    return list(parse_index(body if isinstance(body, bytes) else body.encode(), content_type, base))


def entries(body: str | bytes, content_type: str = "text/html", base: str = BASE) -> dict[str, Entry]:
    found = read(body, content_type, base)
    assert not [item for item in found if isinstance(item, Refusal)]
    return {item.path: item for item in found if isinstance(item, Entry)}


def page(name: str) -> dict[str, Entry]:
    kind = "application/json" if name.endswith(".json") else "text/html;charset=utf-8"
    return entries((PAGES / name).read_bytes(), kind)


@pytest.mark.parametrize(
    ("name", "exact_to", "timed"),
    [
        ("nginx.html", 1 << 40, True),
        ("nginx.json", 1 << 40, True),
        ("nginx-rounded.html", 9999, True),  # autoindex_exact_size off
        ("apache-pre.html", -1, True),  # IndexOptions FancyIndexing; large.img is described as "20 GiB image"
        ("apache-icons.html", -1, True),  # … IconsAreLinks: two anchors a file
        ("apache-table.html", -1, True),  # … HTMLTable
        ("apache-list.html", -1, False),
        ("lighttpd.html", -1, True),
        ("caddy.html", -1, False),
    ],
)
def test_real_pages(name: str, exact_to: int, timed: bool) -> None:
    found = page(name)
    assert {path for path, entry in found.items() if entry.kind is Kind.DIRECTORY} == DIRECTORIES
    files = {path: entry.size for path, entry in found.items() if entry.kind is Kind.FILE}
    assert files == {path: size if size <= exact_to else None for path, size in SIZES.items()}
    assert {entry.mtime_ns for entry in found.values()} == {TEN_O_CLOCK if timed else None}


def test_python_http_server() -> None:
    found = page("python.html")
    # It prints the byte E9 as the UTF-8 of a surrogate: a name of its own, under a URL that it does answer.
    assert set(found) == set(SIZES) - {"latin-\udce9"} | {"latin-\udced\udcb3\udca9"} | DIRECTORIES


def test_urls_are_what_the_server_wrote() -> None:
    apache = page("apache-pre.html")
    assert apache["semi;"].url == BASE + "semi;"
    assert apache["plus+plus"].url == BASE + "plus+plus"
    assert apache["colon:1.iso"].url == BASE + "colon:1.iso"
    assert apache["back\\slash"].url == BASE + "back%5cslash"
    assert apache["a%2Fb"].url == BASE + "a%252Fb"
    assert apache["dir with space"].url == BASE + "dir%20with%20space/"


def test_nginx_json_and_html_agree() -> None:
    assert page("nginx.json") == page("nginx.html")


@pytest.mark.parametrize(
    "href",
    [
        "",
        ".",
        "./",
        "..",
        "../",
        "/",
        "/pages/",
        "/pages",
        "?C=N;O=D",
        "x?C=N",
        "#top",
        "x#top",
        "x/y",
        "x//",
        "//",
        "mailto:a@h",
        "javascript:void(0)",
        "http://g/pages/x",
        "https://h/pages/x",
        "http://h:81/pages/x",
        "//g/x",
        "/other/x",
        "../x",
        "http://h:bad/pages/x",
        "http://[h/pages/x",
        "x/../../y",
    ],
)
def test_links_that_are_no_children_are_passed_over(href: str) -> None:
    assert read(f'<a href="{href}">x</a>') == []


@pytest.mark.parametrize(
    "href",
    [
        "x",
        "./x",
        "/pages/x",
        "http://h/pages/x",
        "HTTP://H:80/pages/x",
        "//h/pages/x",
        "/p%61ges/x",
        "y/../x",
        " x\n",
        "http://user:secret@h/pages/x",
    ],
)
def test_links_that_are_children(href: str) -> None:
    entry = entries(f'<a href="{href}">x</a>')["x"]
    assert entry.url in (BASE + "x", "http://h/p%61ges/x")


def test_a_base_without_its_slash_is_cut_there() -> None:
    assert entries('<a href="x">', base="http://h/pages/index.html?sig=secret")["x"].url == BASE + "x"
    assert entries('<a href="/x">', base="http://h")["x"].url == "http://h/x"


@pytest.mark.parametrize("href", ["a%2Fb", "%2e%2e/", "%2e", "%2F", "nul%00", "x" * 256, "%C3%A9" * 128])
def test_unsafe_names_are_refused(href: str) -> None:
    [refusal] = read(f'<a href="{href}">x</a>')
    assert isinstance(refusal, Refusal)
    assert refusal.where
    assert refusal.reason


def test_bytes_that_no_request_can_carry_are_escaped_in_the_url() -> None:
    body = '<a href="é à">'.encode() + b'<a href="\xe9%20">'
    assert [(e.path, e.url) for e in entries(body).values()] == [
        ("é à", BASE + "%C3%A9%20%C3%A0"),
        ("\udce9 ", BASE + "%E9%20"),
    ]


@pytest.mark.parametrize("tail", ["20 KB", "20KB", "20.0", "1.2K", "12M", "-", "", "20 bytes", "2" * 19, "9" * 40])
def test_only_a_plain_integer_is_a_size(tail: str) -> None:
    entry = entries(f"<pre><a href=x>x</a>  02-Jan-2024 10:00  {tail}\n")["x"]
    assert (entry.size, entry.mtime_ns) == (None if tail != "2" * 19 else int(tail), TEN_O_CLOCK)


@pytest.mark.parametrize("when", ["2024-01-02 10:00", "2024-Jan-02 10:00:00"])
def test_a_size_beside_a_date_in_some_zone_does_not_spare_the_question(when: str) -> None:
    entry = entries(f"<pre><a href=x>x</a>  {when}  20\n")["x"]
    assert (entry.size, entry.mtime_ns) == (None, TEN_O_CLOCK)


def test_sizes_in_front_of_the_name_are_not_lent_to_the_one_before() -> None:
    found = entries("<pre><a href=x>x</a>\n02-Jan-2024 10:00  20  <a href=y>y</a><br>02-Jan-2024 10:00  30  <a href=z>")
    assert [entry.size for entry in found.values()] == [None, None, None]


def test_a_page_cut_short_never_gives_a_wrong_size_or_name() -> None:
    body = (PAGES / "nginx.html").read_bytes()
    whole = page("nginx.html")
    for end in range(len(body)):
        for path, entry in entries(body[:end]).items():
            assert entry.url == whole[path].url
            assert entry.size in (None, whole[path].size)


@pytest.mark.parametrize("when", ["31-Feb-2024 10:00", "02-Foo-2024 10:00", "2024-01-02 25:00", "0000-01-01 00:00"])
def test_a_time_on_no_calendar_is_no_time(when: str) -> None:
    assert entries(f"<a href=x>x</a>  {when}  20\n")["x"].mtime_ns is None


def test_the_first_of_two_counts() -> None:
    assert entries("<a href=x>x</a> 02-Jan-2024 10:00  1\n<li><a href=x/>x</a>")["x"].size == 1


@pytest.mark.parametrize("base", ["", "/x/", "ftp://h/", "http:///x/", "http://a b/", "http://h/\ud800/"])
def test_a_base_that_is_no_url(base: str) -> None:
    with pytest.raises(SourceError, match="not an"):
        read("<a href=x>", base=base)


def test_a_page_without_links_is_an_empty_directory() -> None:
    assert read("") == read("<html><h1>It works!</h1>") == read("[]", "application/json") == []


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        ("{}", "application/json", "not a list"),
        ("[", "application/json", "cannot be read"),
        ("[" * 100_000, "text/json", "cannot be read"),
        (f"[{'1' * 5000}]", "application/json", "cannot be read"),
        ("<?xml?>", "text/xml", "text/xml"),
        ("\x7fELF", "application/octet-stream", "not a directory index"),
        ("<!--" + "-" * 1_000_000, "text/html", "a tag in it is over"),
    ],
)
def test_what_is_no_listing_at_all(body: str, content_type: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        read(body, content_type, "http://user:secret@h/x/?secret")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_type_is_guessed_only_when_none_is_given() -> None:
    assert list(entries(b' [{"name": "x", "type": "file"}]', "")) == ["x"]
    assert list(entries(b"<a href=x>", "")) == ["x"]


def test_json_items_that_cannot_be_shown_do_not_hide_the_rest() -> None:
    items = [1, {}, {"name": 1}, {"name": "s", "type": "other"}, {"name": "a/b", "type": "file"}]
    items += [{"name": "..", "type": "directory"}, {"name": "\ud800", "type": "file"}]
    items += [{"name": "ok", "type": "file", "size": size, "mtime": "7"} for size in (True, -1, 1.5, "1", 2**63)]
    *refused, last = read(json.dumps(items), "application/json; charset=utf-8")
    assert len(refused) == 7
    assert all(isinstance(item, Refusal) for item in refused)
    assert last == Entry("ok", Kind.FILE, url=BASE + "ok")


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_ENTRIES", 3)
    assert len(read("<a href=1><a href=2><a href=3>")) == 3
    with pytest.raises(SourceError, match="more than 3"):
        read("<a href=1><a href=2><a href=3><a href=4>")


def test_a_page_in_many_pieces_reads_as_one() -> None:
    body = "<pre>" + "".join(f"<a href='é{i}'>é</a>  02-Jan-2024 10:00  {i}\r\n" for i in range(20_000))
    found = entries(body)
    assert [(e.path, e.size) for e in found.values()] == [(f"é{i}", i) for i in range(20_000)]


names = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(st.lists(names.filter(lambda name: "/" not in name and unsafe(name) is None), unique=True))
def test_names_round_trip_through_nginx_json(expected: list[str]) -> None:
    body = json.dumps([{"name": n, "type": "file", "size": 1} for n in expected], ensure_ascii=False)
    found = read(body.encode("utf-8", "surrogateescape"), "application/json")
    assert [item.path for item in found if isinstance(item, Entry)] == expected
    # The URL that is made of a name is, as a link in HTML, that name again.
    links = "".join(f'<a href="{item.url}">' for item in found if isinstance(item, Entry))
    assert list(entries(links)) == expected


soup = st.lists(
    st.sampled_from(
        [
            "<a href=",
            '"',
            "'",
            ">",
            "x",
            "</a>",
            "%",
            "%2F",
            "..",
            "/",
            "<!--",
            "-->",
            "<![x[",
            "<script>",
            "&",
            "&#0;",
            "<td>",
            "\n",
            " 02-Jan-2024 10:00  20 ",
            "[",
            "{",
            '{"name":"x","type":"file"}',
            ",",
            "]",
            "http://h/",
            "é",
        ]
    )
).map("".join)


@given(st.binary() | soup.map(str.encode), st.sampled_from(["text/html", "application/json", "", "x/y"]))
def test_any_bytes_give_safe_entries_or_a_source_error(body: bytes, content_type: str) -> None:
    with suppress(SourceError):
        for item in parse_index(body, content_type, BASE):
            if isinstance(item, Entry):
                assert unsafe(item.path) is None
                assert "/" not in item.path
                assert item.url is not None
                assert item.url.startswith("http://h/")
                assert item.url.isascii()
