"""The metrics of a mount, as Prometheus reads them: made of the counters that there are, when somebody asks.

Labels have few values each: an origin is `scheme://host:port`, of the first states.ORIGINS of them, never a URL.

*Source*: prometheus.io/docs/practices/naming, prometheus.io/docs/instrumenting/exposition_formats (0.0.4).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lazyfs import __version__, states
from lazyfs.errors import StoreError
from lazyfs.origin.client import OriginState
from lazyfs.origin.tally import BOUNDS
from lazyfs.session import Session

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_BLOCKS: Final = {
    "blocks_hit": "hit",
    "blocks_awaited": "awaited",
    "blocks_fetched": "fetched",
    "blocks_bypassed": "not_kept",
    "blocks_corrupt": "corrupt",
    "blocks_scrubbed": "scrubbed",
}

_COUNTERS: Final = {
    "reads": "Reads answered.",
    "read_bytes": "Bytes that reads were answered with.",
    "errors": "Reads and look-ups that ended in an error.",
    "retries": "Requests that were made again after a failure.",
    "hedges": "Requests sent beside one that was slow.",
    "failovers": "Requests that a mirror answered in place of an earlier one.",
    "shortcut_reads": "Of the reads, large ones that were answered from the store without the event loop.",
    "passthrough_opens": "Opens whose reads go past the daemon, and are not counted.",
    "daemon_restarts": "How often the daemon of this mount had to be started again.",
}


class Metrics(Collector):
    """The metrics of one mount."""

    def __init__(self, session: Session, mountpoint: str) -> None:
        self._session = session
        self._mountpoint = mountpoint.encode("utf-8", "backslashreplace").decode()  # it may hold bytes that are none
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """Return what a scraper is sent."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what there is now."""
        yield _gauge("mount", "The mount.", 1, version=__version__, mountpoint=self._mountpoint)
        yield from self._counters()
        yield from self._gauges()
        yield from _origins(states.origins(self._session))

    def _counters(self) -> Iterator[Metric]:
        counters = self._session.counters.as_dict()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"lazyfs_{name}", text, value=counters[name])
        blocks = CounterMetricFamily("lazyfs_blocks", "Blocks, by what became of them.", labels=["outcome"])
        for name, outcome in _BLOCKS.items():
            blocks.add_metric([outcome], counters[name])
        blocks.add_metric(["evicted"], self._session.store.evictor.evicted)
        yield blocks

    def _gauges(self) -> Iterator[Metric]:
        vfs, store, blobs = self._session.vfs, self._session.store, self._session.blobs.opened
        yield _gauge("files", "Files that are known.", vfs.tree.files)
        yield _gauge("names_not_shown", "Names that cannot be shown; status says why.", vfs.problems.count)
        yield _gauge("open_files", "Files that are open.", len(vfs.opened))
        yield _gauge("open_blobs", "Blobs that are open.", len(blobs))
        yield _gauge("flights", "Fetches under way.", sum(len(blob.flights) for blob in blobs))
        yield _gauge("store_degraded", "Whether the store cannot take blocks.", store.trouble.degraded)
        try:
            quota = store.quota.look()
        except (OSError, StoreError):
            return
        yield _gauge("store_used_bytes", "Bytes in the store, of all its processes, or reserved.", quota.used)
        yield _gauge("store_max_bytes", "The bound on that; 0 for none.", quota.max_cache)
        yield _gauge("store_min_free_bytes", "Bytes to leave free on its disk; 0 for none.", quota.min_free)


def _origins(found: list[OriginState]) -> Iterator[Metric]:
    label = ["origin"]
    requests = CounterMetricFamily(
        "lazyfs_origin_requests", "Requests, by status or why there was no answer.", labels=["origin", "outcome"]
    )
    faults = CounterMetricFamily("lazyfs_origin_faults", "What went wrong, by kind.", labels=["origin", "kind"])
    received = CounterMetricFamily("lazyfs_origin_bytes", "Bytes of bodies received.", labels=label)
    begun = HistogramMetricFamily("lazyfs_origin_first_byte_seconds", "Until answers began.", labels=label)
    now = GaugeMetricFamily("lazyfs_origin_requests_now", "Requests now.", labels=["origin", "state"])
    limit = GaugeMetricFamily("lazyfs_origin_requests_limit", "Requests at a time at the most.", labels=label)
    failing = GaugeMetricFamily("lazyfs_origin_failing", "Whether others are asked first.", labels=label)
    bounds = [*map(str, BOUNDS), "+Inf"]
    for one in found:
        tally = one.tally
        for outcome, count in tally.outcomes.items():
            requests.add_metric([one.shown, outcome], count)
        for kind, count in tally.faults.items():
            faults.add_metric([one.shown, kind], count)
        received.add_metric([one.shown], tally.received)
        begun.add_metric([one.shown], list(zip(bounds, itertools.accumulate(tally.begun), strict=True)), tally.seconds)
        now.add_metric([one.shown, "under_way"], one.under_way)
        now.add_metric([one.shown, "waiting"], one.waiting)
        limit.add_metric([one.shown], one.limit)
        failing.add_metric([one.shown], one.failing)
    yield from (requests, faults, received, begun, now, limit, failing)


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    gauge = GaugeMetricFamily(f"lazyfs_{name}", text, labels=list(labels))
    gauge.add_metric(list(labels.values()), value)
    return gauge
