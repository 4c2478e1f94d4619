"""Credentials under a mount: who has them reads, who lacks them hears what is missing, and they are seen nowhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lazyfs import mountinfo
from tests import under
from tests.mounts import Mounts, lazyfs, on_mount, start
from tests.servers import MisbehavingOrigin

MIB = 1 << 20
BLOB = "random-1M-x"
PLANTED = "pLaNtEd-S3cret"


def expected(origin: MisbehavingOrigin) -> str:
    return hashlib.sha256(origin.expected(BLOB)).hexdigest()


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def by_command(directory: Path, _host: str) -> tuple[str, ...]:
    """A credential command that knows the password, and counts in a file how often it was asked."""
    helper = private(directory / "helper", f"echo $1 >>{directory}/asked\ncat >/dev/null\n"
                     f"[ $1 = get ] && printf 'username=user\\npassword={PLANTED}\\n'\n")  # fmt: skip
    return ("--credential-command", f"sh {helper}")


def by_netrc(directory: Path, host: str) -> tuple[str, ...]:
    file = private(directory / "netrc", f"machine {host} login user password {PLANTED}\n")
    return ("--netrc-file", str(file))


def by_header(directory: Path, _host: str) -> tuple[str, ...]:
    basic = "dXNlcjpwTGFOdEVkLVMzY3JldA=="
    return ("--header-file", str(private(directory / "headers", f"Authorization: Basic {basic}\n")))


@pytest.mark.parametrize("given", [by_command, by_netrc, by_header])
@pytest.mark.parametrize("redirected", [False, True])
def test_who_has_the_password_reads(
    origin: MisbehavingOrigin,
    mounts: Mounts,
    tmp_path: Path,
    given: Callable[[Path, str], tuple[str, ...]],
    redirected: bool,
) -> None:
    host = urlsplit(origin.base).hostname or ""
    url = origin.url(f"basic=user:{PLANTED}{',redirect' if redirected else ''}", BLOB)
    mount = mounts("blob=" + url, options=given(tmp_path, host))
    assert on_mount(under.sha256, mount.path("blob")) == expected(origin)
    if (asked := tmp_path / "asked").exists():
        assert asked.read_text() == "get\n", "once for all requests"


def test_a_token_is_fetched_once_for_all_and_again_when_it_is_used_up(
    origin: MisbehavingOrigin, mounts: Mounts
) -> None:
    name = "random-8M-x"
    mount = mounts("blob=" + origin.url("bearer=6", name), options=("--netrc-file", "/dev/null"))
    assert on_mount(under.pass_through, mount.path("blob")).digest == hashlib.sha256(origin.expected(name)).hexdigest()
    readers = [start(under.differing_reads, mount.path("blob"), mount.path("blob"), 4, 20, seed) for seed in range(2)]
    assert [reader.result() for reader in readers] == [[], []]
    log = origin.log()
    tokens = sum(line["target"].startswith("/token/") for line in log)
    assert 1 <= tokens <= 1 + sum(line["status"] == 401 for line in log) + len(log) // 6


def test_who_lacks_it_gets_eacces_and_is_told_what_is_missing(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    digest = f"sha256:{expected(origin)}"
    names = {"basic": f"basic=user:{PLANTED}", "refused": "status=403"}
    files = tmp_path / "files.jsonl"
    entries = [{"path": name, "url": origin.url(behaviour, BLOB), "size": MIB} for name, behaviour in names.items()] + [
        {"path": "by-digest", "url": origin.url(names["basic"], BLOB), "size": MIB, "digest": digest}
    ]
    files.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    mount = mounts(files, options=("--netrc-file", "/dev/null"))
    for name in (*names, "by-digest"):
        assert on_mount(under.pass_through, mount.path(name)).error == errno.EACCES, name
    assert "it wants a username and password for" in mount.log()
    failed = lazyfs(
        "mount", "--netrc-file", "/dev/null", "--store", tmp_path / "other", str(entries[0]["url"]), mount.at
    )
    assert failed.returncode == 1


def test_who_has_a_way_fetches_for_who_has_none(origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path) -> None:
    """One blob by its digest, two mounts: the one without the password never fails the other one, nor is it wrong."""
    name = "random-8M-x"
    digest = hashlib.sha256(origin.expected(name)).hexdigest()
    entry = {"path": "blob", "url": origin.url(f"basic=user:{PLANTED},rate=8M", name), "size": 8 * MIB}
    files = tmp_path / "files.jsonl"
    files.write_text(json.dumps({**entry, "digest": f"sha256:{digest}"}) + "\n")
    poor = mounts(files, options=("--netrc-file", "/dev/null"))
    rich = mounts(files, options=by_netrc(tmp_path, urlsplit(origin.base).hostname or ""))
    reader = start(under.sha256, rich.path("blob"))
    for _ in range(5):
        assert on_mount(under.pass_through, poor.path("blob")).error in (errno.EACCES, 0)
    assert reader.result() == digest
    assert on_mount(under.read_when_it_works, poor.path("blob"), 20.0) == origin.expected(name)
    assert rich.counters()["errors"] == 0


def test_two_names_of_one_blob_share_the_way_that_is_open(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    """In one mount: the name whose own URL is closed to us is read by way of the other one's."""
    digest = f"sha256:{expected(origin)}"
    files = tmp_path / "files.jsonl"
    urls = {"closed": origin.url(f"basic=user:{PLANTED}", BLOB), "open": origin.plain(BLOB)}
    entries = [{"path": name, "url": url, "size": MIB, "digest": digest} for name, url in urls.items()]
    files.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    mount = mounts(files, options=("--netrc-file", "/dev/null"))
    holder = start(under.hold_and_read, mount.path("closed"))
    holder.wait_until_open()
    assert on_mount(under.sha256, mount.path("open")) == expected(origin)
    assert hashlib.sha256(holder.result()).hexdigest() == expected(origin)


def test_a_header_file_may_be_rotated_under_a_running_mount(
    origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path
) -> None:
    def line(password: str) -> str:
        import base64

        return f"Authorization: Basic {base64.b64encode(f'user:{password}'.encode()).decode()}\n"

    file = private(tmp_path / "headers", line("first"))
    files = tmp_path / "files.jsonl"
    entries = [
        {"path": name, "url": origin.url(f"basic=user:{name}", BLOB), "size": MIB} for name in ("first", "second")
    ]
    files.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    options = ("--header-file", str(file), "--netrc-file", "/dev/null")
    mount = mounts(files, f"named={origin.plain(BLOB)}", options=options)
    assert on_mount(under.sha256, mount.path("first")) == expected(origin)
    assert on_mount(under.pass_through, mount.path("second")).error == errno.EACCES
    private(tmp_path / "new", line("second")).rename(file)
    assert hashlib.sha256(on_mount(under.read_when_it_works, mount.path("second"), 20.0)).hexdigest() == expected(
        origin
    )


def test_no_secret_is_seen_anywhere(origin: MisbehavingOrigin, mounts: Mounts, tmp_path: Path) -> None:
    """Planted in every place that takes one: URLs, headers, netrc, a command, tokens, a signed redirect, a proxy."""
    host = urlsplit(origin.base).hostname or ""
    hidden = f"%{ord(PLANTED[0]):x}{PLANTED[1:]}"  # for paths, which may be seen
    query = f"?X-Signature={PLANTED}"
    secret = private(tmp_path / "headers", f"X-Token: {PLANTED}\n")
    behaviours = {
        "plain": "close", "basic": f"basic=user:{hidden}", "signed": "signed=2", "gone": "status=500",
        "reset": "reset@2-", "changed": "etag-per-connection,close",
        "redirect": f"redirect-to=%2Fplain%2F{BLOB}%3Fsignature%3D{hidden}",
    }  # fmt: skip
    files, mirror = tmp_path / "files.jsonl", origin.plain("none") + query
    entries = [
        {"path": name, "url": origin.url(behaviour, BLOB) + query, "size": MIB, "mirrors": [mirror]}
        for name, behaviour in behaviours.items()
    ]
    files.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    scheme, rest = origin.plain(BLOB).split("://")
    options = (*by_command(tmp_path, host), *by_netrc(tmp_path, host), "--header-file", str(secret))
    userinfo = f"userinfo={scheme}://user:{PLANTED}@{rest}{query}"
    mount = mounts(files, userinfo, options=(*options, "--read-timeout", "3"))
    for name in (*behaviours, "userinfo"):
        on_mount(under.pass_through, mount.path(name))
    seen = {
        "status": json.dumps(mount.status()),
        "log": mount.log(),
        "mounts": Path("/proc/self/mounts").read_text() + Path("/proc/self/mountinfo").read_text(),
        "xattrs": str([on_mount(under.attributes, mount.path(name)) for name in behaviours]),
        "argv": "".join((Path("/proc") / str(pid) / "cmdline").read_text() for pid in (mount.pid,)),
        "comm": (Path("/proc") / str(mount.pid) / "comm").read_text(),
        "environ": str(os.environ.get("LAZYFS_STORE")),
        "ls": lazyfs("ls", "--json", "--store", mount.store).stdout,
        "fsck of names": str(mountinfo.mount_at(str(mount.at))),
    }
    failed = lazyfs("mount", "--store", mount.store, f"{origin.url('status=404', BLOB)}{query}", tmp_path / "nowhere")
    seen["errors"] = failed.stderr
    for file in mount.store.rglob("*"):
        if file.is_file():
            seen[str(file)] = file.read_bytes().decode("latin-1")
    encoded = "dXNlcjpwTGFOdEVk"  # user:pLaNtEd in base64, of whatever follows
    found = [place for place, text in seen.items() if PLANTED in text or encoded in text]
    assert found == []
    asked = json.dumps(origin.log())
    assert PLANTED in asked, "they were used all the same"
    assert encoded in asked
