"""A process that reads a blob through a store: `reader.py STORE URL PIECE`.

It says `begun`, waits for a line, reads from the first byte to the last in pieces, and says the SHA-256 of what it got
and its counters as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import trio

from lazyfs.blob import Limits
from lazyfs.blobs import Blobs
from lazyfs.counters import Counters
from lazyfs.origin.client import Client, ClientOptions
from lazyfs.store import Store
from lazyfs.versions import Known, blob_id_for


async def main(store_path: str, url: str, piece: str) -> None:
    counters = Counters()
    store = Store.open(Path(store_path), 1 << 16)
    async with trio.open_nursery() as nursery:
        client = Client(ClientOptions(), counters, nursery)
        found = await client.probe(url)
        assert found is not None
        known = Known(url, found.version, found.ranged, found.head)
        blobs = Blobs(store, client, counters, nursery, Limits(memory=1 << 20))
        blob = await blobs.open(blob_id_for(url, found.version, None), known)
        print("begun", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        digest = hashlib.sha256()
        for offset in range(0, found.version.size, int(piece)):
            digest.update(await blob.read(offset, int(piece)))
        blobs.close(blob)
        await client.aclose()
    store.close()
    print(json.dumps({"sha256": digest.hexdigest(), **counters.as_dict()}), flush=True)


trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
