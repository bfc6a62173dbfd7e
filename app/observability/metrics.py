"""Numbers about this process for Prometheus; each process has a registry of its own."""

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
SERIES = 10_000
"""Combinations of labels looked up fast."""
QUEUE_FOR_S = 2.0
"""How long counts of jobs are taken for new, so that scrapers do not wear the database out."""


class _Endpoint(NamedTuple):
    """What is counted of one method, route and status."""

    seconds: Histogram
    received: Counter
    sent: Counter


class Metrics:
    """What is counted as it happens."""

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

        of = ("method", "route", "status")
        self._requests = histogram("http_request_seconds", "Requests.", REQUEST_SECONDS, *of)
        self._received = counter("http_received_bytes", "Bytes of request bodies.", *of[:2])
        self._sent = counter("http_sent_bytes", "Bytes of response bodies.", *of[:2])
        self._closed = counter("http_closed_connections", "Connections given up.", "reason")
        self._jobs = histogram("job_seconds", "Jobs, from their start.", JOB_SECONDS, "outcome")
        self._tasks = histogram("task_seconds", "Tasks, in workers.", TASK_SECONDS, "kind")
        self._weights = counter("weights", "Weights palettized.")
        self._bytes = counter("palettized_bytes", "Bytes of the weights palettized.")
        self._tensors = counter("tensors", "Tensors palettized, by where from.", "source")
        self._failures = counter("failures", "What was away or failed.", "code")
        self._endpoint = lru_cache(SERIES)(self._new_endpoint)

    def request(
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """A request has ended."""
        endpoint = self._endpoint(method, route, status)
        endpoint.seconds.observe(seconds)
        endpoint.received.inc(received)
        endpoint.sent.inc(sent)

    def connection_closed(self, reason: str) -> None:
        """A connection was given up."""
        self._closed.labels(reason).inc()

    def job_ended(self, outcome: JobState, started_at: datetime | None) -> None:
        """A job has ended; None for one that had not begun."""
        began = started_at or datetime.now(UTC)
        self._jobs.labels(outcome).observe((datetime.now(UTC) - began).total_seconds())

    def task_ended(self, kind: str, seconds: float) -> None:
        """A worker has ended a task."""
        self._tasks.labels(kind).observe(seconds)

    def palettized(self, task: CompressionTask) -> None:
        """The weights of a task are palettized, by it or by an earlier job."""
        for part in task.slices:
            if part.first_row == 0:
                self._tensors.labels("computed" if part.known is None else "reused").inc()
            if part.known is None:
                self._weights.inc(math.prod(part.shape))
                self._bytes.inc(part.size_bytes)

    def reused(self, tensors: int) -> None:
        """Tensors were taken from an earlier job, all at once."""
        self._tensors.labels("reused").inc(tensors)

    def failed(self, error: PaletteryError) -> None:
        """Something that the service needs failed."""
        self._failures.labels(error.code).inc()

    def _new_endpoint(self, method: str, route: str, status: int) -> _Endpoint:
        return _Endpoint(
            self._requests.labels(method, route, status),
            self._received.labels(method, route),
            self._sent.labels(method, route),
        )


class Gauge(Collector):
    """What is looked up when somebody asks, and not again for a while."""

    def __init__(
        self,
        name: str,
        text: str,
        look: Callable[[], Mapping[JobState, int] | Mapping[str, int]],
        for_s: float = QUEUE_FOR_S,
    ) -> None:
        self._name, self._text, self._look, self._for_s = name, text, look, for_s
        self._until, self._seen = 0.0, dict[str, float]()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """A value for each state; none when it cannot be told."""
        found = GaugeMetricFamily(f"palettery_{self._name}", self._text, labels=["state"])
        if time.monotonic() >= self._until:
            try:
                self._seen = {str(state): value for state, value in self._look().items()}
            except PaletteryError:
                self._seen = {}
            self._until = time.monotonic() + self._for_s
        for state, value in self._seen.items():
            found.add_metric([state], value)
        yield found

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is looked up to register it."""
        yield GaugeMetricFamily(f"palettery_{self._name}", self._text, labels=["state"])
