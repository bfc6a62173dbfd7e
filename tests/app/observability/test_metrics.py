"""Metrics as Prometheus reads them."""

from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry

from palettery.app.errors import StorageFull
from palettery.app.observability.metrics import Gauge, Metrics


def value(registry, name, **labels):
    return registry.get_sample_value(f"palettery_{name}", labels)


def test_events_are_counted_by_their_labels():
    metrics = Metrics()
    for _ in range(2):
        metrics.request("GET", "/v1/jobs", 200, 0.003, 10, 20)
    metrics.task_ended("FinishTask", 2.0)
    metrics.connection_closed("body")
    metrics.reused(3)
    metrics.failed(StorageFull("full"))
    seen, of = metrics.registry, {"method": "GET", "route": "/v1/jobs"}
    assert value(seen, "http_request_seconds_count", **of, status="200") == 2
    assert value(seen, "http_request_seconds_bucket", **of, status="200", le="0.005") == 2
    assert value(seen, "http_received_bytes_total", **of) == 20
    assert value(seen, "http_sent_bytes_total", **of) == 40
    assert value(seen, "task_seconds_sum", kind="FinishTask") == 2
    assert value(seen, "http_closed_connections_total", reason="body") == 1
    assert value(seen, "tensors_total", source="reused") == 3
    assert value(seen, "failures_total", code="storage_full") == 1


def test_job_that_never_started_took_no_time():
    metrics = Metrics()
    metrics.job_ended("cancelled", None)
    metrics.job_ended("succeeded", datetime.now(UTC) - timedelta(hours=1))
    assert value(metrics.registry, "job_seconds_bucket", outcome="cancelled", le="0.1") == 1
    assert value(metrics.registry, "job_seconds_sum", outcome="succeeded") >= 3600


def test_gauge_is_asked_once_in_a_while_and_silent_when_it_fails():
    answers = [{"queued": 1}, StorageFull("away")]

    def query():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry = CollectorRegistry()
    kept, asked = Gauge("jobs", "Jobs.", query), Gauge("jobs", "Jobs.", query, cache_s=0)
    registry.register(kept)
    assert [value(registry, "jobs", state="queued") for _ in range(2)] == [1, 1]
    assert [family.samples for family in asked.collect()] == [[]]
    assert answers == []
