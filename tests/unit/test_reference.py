"""References to images: the field's grammar, and where each leads."""

from __future__ import annotations

import pytest

from lazyfs import urls
from lazyfs.errors import UsageError
from lazyfs.sources.reference import parse_reference
from lazyfs.sources.spec import Form, Source, parse_source

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "means", "base"),
    [
        ("oci://r.example/app", "oci://r.example/app:latest", "https://r.example/v2/app/"),
        ("oci://R.Example:443/a/b_c/d-e:V1.2", "oci://r.example:443/a/b_c/d-e:V1.2", "https://r.example:443/v2/a/b_c/d-e/"),
        (f"oci://r.example/app@sha256:{HEX}", f"oci://r.example/app@sha256:{HEX}", "https://r.example/v2/app/"),
        (f"oci://r.example/app:1@sha256:{HEX}", f"oci://r.example/app@sha256:{HEX}", "https://r.example/v2/app/"),
        ("oci://registry/app", "oci://registry/app:latest", "https://registry/v2/app/"),
        ("oci://localhost/app", "oci://localhost/app:latest", "http://localhost/v2/app/"),
        ("oci://127.3.2.1:5000/app", "oci://127.3.2.1:5000/app:latest", "http://127.3.2.1:5000/v2/app/"),
        ("oci://[::1]:5000/app", "oci://[::1]:5000/app:latest", "http://[::1]:5000/v2/app/"),
        ("oci://[2001:db8::1]/app", "oci://[2001:db8::1]/app:latest", "https://[2001:db8::1]/v2/app/"),
        ("oci://10.0.0.1:5000/app", "oci://10.0.0.1:5000/app:latest", "https://10.0.0.1:5000/v2/app/"),
        ("oci://docker.io/debian", "oci://docker.io/library/debian:latest", "https://registry-1.docker.io/v2/library/debian/"),
        ("oci://index.docker.io/a/b:1", "oci://docker.io/a/b:1", "https://registry-1.docker.io/v2/a/b/"),
        ("oci://r.example/a__b.c---d", "oci://r.example/a__b.c---d:latest", "https://r.example/v2/a__b.c---d/"),
    ],
)  # fmt: skip
def test_what_a_reference_means(text: str, means: str, base: str) -> None:
    found = parse_reference(text)
    assert str(found) == means
    assert str(parse_reference(means)) == means
    assert found.base() == base
    assert found.base(plain_http=True) == base.replace("https:", "http:")
    assert urls.repository_of(f"{base}manifests/{found.wanted}") == found.repository
    assert urls.repository_of(f"{base}blobs/sha256:{HEX}") == found.repository


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("oci://r.example/App", "lower case"),
        ("oci://r.example/", "no repository"),
        ("oci://debian", "on Docker Hub: oci://docker.io/debian"),
        ("oci:///app", "no registry"),
        ("oci://r_x.example/app", "no registry"),
        ("oci://r.example:0/app", "no registry"),
        ("oci://r.example:70000/app", "no registry"),
        ("oci://[::g]/app", "no registry"),
        ("oci://ann:secret@r.example/app", "no registry"),
        ("oci://r.example/a//b", "not the name of a repository"),
        ("oci://r.example/../b", "not the name of a repository"),
        ("oci://r.example/a/-b", "not the name of a repository"),
        ("oci://r.example/a?b=c", "not the name of a repository"),
        ("oci://r.example/" + "a" * 250, "not the name of a repository"),
        ("oci://r.example/app:", "no tag"),
        ("oci://r.example/app:.x", "no tag"),
        ("oci://r.example/app:" + "x" * 129, "no tag"),
        ("oci://r.example/app:tä", "no tag"),
        ("oci://r.example/app@sha256:12", "no digest"),
        (f"oci://r.example/app@sha256:{'A' * 64}", "64 digits in lower case"),
        (f"oci://r.example/app@sha512:{'a' * 128}", "sha512 is not supported"),
    ],
)
def test_what_is_none_is_refused_in_a_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_images_as_sources() -> None:
    assert parse_source("oci://r.example/app") == Source(Form.IMAGE, "oci://r.example/app:latest")
    named = parse_source("vm/app=oci://r.example/app:1")
    assert named == Source(Form.IMAGE, "oci://r.example/app:1", "vm/app")
    assert (named.remote, named.shown) == (True, "oci://r.example/app:1")
    with pytest.raises(UsageError, match="cannot be the name"):
        parse_source("../x=oci://r.example/app:1")


@pytest.mark.parametrize(
    "url",
    ["https://r.example/v2/app/tags/list", f"https://r.example/x/v2/app/blobs/sha256:{HEX}", "https://r.example/v2/",
     f"https://r.example/v2/app/blobs/sha256:{HEX}?x=1", "https://r.example/v2/app/blobs/1", "/v2/app/manifests/1"],
)  # fmt: skip
def test_other_urls_are_of_no_repository(url: str) -> None:
    assert urls.repository_of(url) == ""
