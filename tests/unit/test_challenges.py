"""What a WWW-Authenticate header asks for: as the standards write it, as servers write it, as attackers would."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyfs import urls
from lazyfs.origin.challenges import _ITEM, Challenge, parse_challenges

REGISTRY = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"'


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b=c \\"d\\" \\\\",x="UTF-8"', [("basic", {"realm": 'a, b=c "d" \\', "x": "UTF-8"})]),
        ("BASIC Realm=simple", [("basic", {"realm": "simple"})]),
        ("Basic realm = x , charset = y", [("basic", {"realm": "x", "charset": "y"})]),
        ('Basic realm=""', [("basic", {"realm": ""})]),
        ('Basic realm="a", realm="b"', [("basic", {"realm": "a"})]),
        # RFC 9110 §11.6.1's own example: two challenges in one header, the first with two parameters
        (
            'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""',
            [("basic", {"realm": "simple"}), ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'})],
        ),
        ("Negotiate, NTLM", [("negotiate", {}), ("ntlm", {})]),
        ("Negotiate YII/x+y==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (", ,\tNegotiate ,, Basic realm=x,", [("negotiate", {}), ("basic", {"realm": "x"})]),
        # not quoted, as some servers send it
        ("Bearer realm=https://h/token?a=b,service=s", [("bearer", {"realm": "https://h/token?a=b", "service": "s"})]),
        # what is none ends it
        ('Basic realm="x", ;, Bearer', [("basic", {"realm": "x"})]),
        ('Basic realm="never closed, Bearer', [("basic", {})]),
        ('realm="x", Basic', [("basic", {})]),
        ('Basic "x"', [("basic", {})]),
        ("Bas<ic realm=x", []),
    ],
)  # fmt: skip
def test_headers(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, found.parameters) for found in parse_challenges(header)] == challenges


@pytest.mark.parametrize(
    ("header", "url"),
    [
        (REGISTRY, "https://auth.example/token?service=registry.example&scope=repository%3Aa%2Fb%3Apull"),
        ('Bearer realm="https://h/t?x=%20y&z#fragment"', "https://h/t?x=%20y&z"),
        ('Bearer realm="https://h/t",scope="a:b:c d:e:f,g"', "https://h/t?scope=a%3Ab%3Ac&scope=d%3Ae%3Af%2Cg"),
        ('Bearer realm="http://h:5000"', "http://h:5000"),
        ('Bearer realm="https://h/t",service="a&scope=b#c"', "https://h/t?service=a%26scope%3Db%23c"),
        ('Bearer realm="https://h/t",service="\ud800"', "https://h/t?service=%3F"),
        ("Bearer", None),
        ('Bearer realm="GitLab"', None),
        ('Bearer realm="/token"', None),
        ('Bearer realm="ftp://h/"', None),
        ('Bearer realm="http://["', None),
        ('Bearer realm="https://u:p@h/"', None),
        ('Bearer realm="https://h/a b"', None),
        ('Bearer realm="https://h/a\x01b"', None),
        ('Bearer realm="https://h\u00e9/"', None),
        ('Basic realm="https://h/t"', None),
    ],
)
def test_where_a_token_is_to_be_had(header: str, url: str | None) -> None:
    assert parse_challenges(header)[0].token_url == url


tokens = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1)
spaces = st.text(" \t", max_size=2)


@given(
    st.lists(st.tuples(tokens, st.dictionaries(tokens.map(str.lower), st.text()))),
    st.data(),
)
def test_what_was_written_is_read(challenges: list[tuple[str, dict[str, str]]], data: st.DataObject) -> None:
    def written(name: str, value: str) -> str:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{name}{data.draw(spaces)}={data.draw(spaces)}"{quoted}"{data.draw(spaces)}'

    header = ",".join(
        f"{data.draw(spaces)}{scheme} {','.join(written(*pair) for pair in parameters.items())}"
        for scheme, parameters in challenges
    )
    assert parse_challenges(header) == [Challenge(scheme.lower(), parameters) for scheme, parameters in challenges]


headers = st.lists(
    st.sampled_from(['"', "\\", ",", "=", " ", "\t", "a", "Bearer", "realm=", "https://h/", "[", "\n", "\u00e9", "@"])
    | st.text(max_size=3)
).map("".join)


@given(headers)
def test_any_text_is_read_or_ended(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()
        url = challenge.token_url
        assert url is None or (urls.is_http(url) and urls.target(url) is not None)


@given(st.text(), st.text())
def test_service_and_scope_stay_where_they_are(service: str, scope: str) -> None:
    url = Challenge("bearer", {"realm": "https://h/t?a=b", "service": service, "scope": scope}).token_url
    assert url is not None
    parts = urlsplit(url)
    assert (parts.netloc, parts.path, parts.fragment) == ("h", "/t", "")
    assert {name for name, _ in parse_qsl(parts.query)} <= {"a", "service", "scope"}


def test_the_pattern_never_goes_back() -> None:
    """Reading a header of any make takes steps in proportion to its length: no repeat gives back what it took."""

    parser = re._parser  # type: ignore[attr-defined]

    def repeats(node: object) -> Iterator[str]:
        if isinstance(node, (list, tuple, parser.SubPattern)):
            for part in node:
                yield from repeats(part)
        elif str(node).endswith("_REPEAT"):
            yield str(node)

    assert set(repeats(parser.parse(_ITEM.pattern, re.DOTALL))) == {"POSSESSIVE_REPEAT"}


PIECES = ["a", " ", ",", "=", '"', "\\", "a ", "a,", "a=", 'a="', "a =", 'a="\\"",', "a b ", "a a=,", "=a", '"a']


@pytest.mark.parametrize("piece", PIECES)
def test_a_large_header_is_read(piece: str) -> None:
    for before, after in itertools.product(["", 'Basic realm="'], ["", ";"]):
        text = before + piece * (65536 // len(piece)) + after
        assert len(parse_challenges(text)) <= 32768
