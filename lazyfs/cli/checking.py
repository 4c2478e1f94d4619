"""fsck: what is wrong with the store, a line each."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import click

from lazyfs.cli.showing import as_owner
from lazyfs.errors import StoreError
from lazyfs.sizes import format_size
from lazyfs.store.fsck import Fsck
from lazyfs.store.inspection import Finding


def fsck(store_path: Path, *, repair: bool, as_json: bool) -> int:
    """Check a store, print what is found, and return the command's exit status. *Raises*: StoreError."""
    with as_owner(store_path):
        check, findings = Fsck(store_path, repair=repair), list[Finding]()
        try:
            for finding in check.run():
                findings.append(finding)
                if not as_json:
                    click.echo(finding)
        except OSError as exc:
            raise StoreError(f"the store {store_path} cannot be checked: {exc.strerror or exc}") from exc
    sound = not any(finding.damage and not finding.mended for finding in findings)
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        seen = {"store": str(store_path), "blobs": check.blobs, "bytes_checked": check.checked}
        click.echo(json.dumps({**seen, "sound": sound, "findings": found}, indent=2))
    else:
        blobs = f"{check.blobs} {'blob' if check.blobs == 1 else 'blobs'}, {format_size(check.checked)} checked"
        remedy = "" if repair else f"; mend it with: lazyfs fsck --repair --store {shlex.quote(str(store_path))}"
        click.echo(f"sound: {blobs}" if sound else f"damaged: {blobs}{remedy}")
    return 0 if sound else 1
