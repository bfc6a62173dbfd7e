"""Prometheus metrics of this process, in a registry of its own."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from palettery.app.errors import PaletteryError
from palettery.schemas.jobs import JobState
from palettery.schemas.tasks import CompressionTask

REQUEST_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
TASK_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
JOB_SECONDS = (0.1, 0.5, 1, 2.5, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200)
LABEL_CACHE_SIZE = 10_000
"""Size of the cache of label combinations."""
GAUGE_CACHE_S = 2.0
"""Lifetime of cached gauge values, so that scrapers do not load the database."""


class _Endpoint(NamedTuple):
    """Metrics of one method, route and status."""

    seconds: Histogram
    received: Counter
    sent: Counter


class Metrics:
    """Counters and histograms of events."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"palettery_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(
                f"palettery_{name}", text, labels, buckets=tuple(buckets), registry=registry
            )

        request_labels = ("method", "route", "status")
        self._requests = histogram(
            "http_request_seconds", "Duration of requests.", REQUEST_SECONDS, *request_labels
        )
        self._received = counter(
            "http_received_bytes", "Bytes of request bodies.", *request_labels[:2]
        )
        self._sent = counter("http_sent_bytes", "Bytes of response bodies.", *request_labels[:2])
        self._closed = counter(
            "http_closed_connections", "Connections closed by the server.", "reason"
        )
        self._jobs = histogram("job_seconds", "Duration of jobs.", JOB_SECONDS, "outcome")
        self._tasks = histogram(
            "task_seconds", "Duration of tasks in workers.", TASK_SECONDS, "kind"
        )
        self._weights = counter("weights", "Weights palettized.")
        self._bytes = counter("palettized_bytes", "Bytes of the weights palettized.")
        self._tensors = counter("tensors", "Tensors palettized, computed or reused.", "source")
        self._failures = counter("failures", "Failures of components of the service.", "code")
        self._endpoint = lru_cache(LABEL_CACHE_SIZE)(self._create_endpoint)

    def request(
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Record a request."""
        endpoint = self._endpoint(method, route, status)
        endpoint.seconds.observe(seconds)
        endpoint.received.inc(received)
        endpoint.sent.inc(sent)

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the server closed."""
        self._closed.labels(reason).inc()

    def job_ended(self, outcome: JobState, started_at: datetime | None) -> None:
        """Record a job's end; `started_at` is None for one that had not started."""
        start = started_at or datetime.now(UTC)
        self._jobs.labels(outcome).observe((datetime.now(UTC) - start).total_seconds())

    def task_ended(self, kind: str, seconds: float) -> None:
        """Record a task."""
        self._tasks.labels(kind).observe(seconds)

    def palettized(self, task: CompressionTask) -> None:
        """Count the weights of a task, computed or reused from an earlier job."""
        for part in task.slices:
            if part.first_row == 0:
                self._tensors.labels("computed" if part.known is None else "reused").inc()
            if part.known is None:
                self._weights.inc(math.prod(part.shape))
                self._bytes.inc(part.size_bytes)

    def reused(self, tensors: int) -> None:
        """Count tensors that were reused from an earlier job."""
        self._tensors.labels("reused").inc(tensors)

    def failed(self, error: PaletteryError) -> None:
        """Count a failure of a component of the service."""
        self._failures.labels(error.code).inc()

    def _create_endpoint(self, method: str, route: str, status: int) -> _Endpoint:
        return _Endpoint(
            self._requests.labels(method, route, status),
            self._received.labels(method, route),
            self._sent.labels(method, route),
        )


class Gauge(Collector):
    """Gauge that is queried on a scrape, and cached for a while."""

    def __init__(
        self,
        name: str,
        text: str,
        query: Callable[[], Mapping[JobState, int] | Mapping[str, int]],
        cache_s: float = GAUGE_CACHE_S,
    ) -> None:
        self._name, self._text, self._query, self._cache_s = name, text, query, cache_s
        self._expires_at, self._values = 0.0, dict[str, float]()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield a value per state; none if the query fails."""
        family = GaugeMetricFamily(f"palettery_{self._name}", self._text, labels=["state"])
        if time.monotonic() >= self._expires_at:
            try:
                self._values = {str(state): value for state, value in self._query().items()}
            except PaletteryError:
                self._values = {}
            self._expires_at = time.monotonic() + self._cache_s
        for state, value in self._values.items():
            family.add_metric([state], value)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the family without a query, for registration."""
        yield GaugeMetricFamily(f"palettery_{self._name}", self._text, labels=["state"])
