"""Spans of requests and jobs, as a collector of OpenTelemetry receives them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.ports import free_port


class Collector(ThreadingHTTPServer):
    """Takes spans over OTLP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            self.server.services.add(about["service.name"])
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.heavy
def test_requests_and_jobs_make_spans(serve, tmp_path, model, collector):
    host, port = collector.server_address
    with serve(tmp_path / "data", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{host}:{port}") as server:
        trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        sent = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        server.http.get("/v1/jobs/none", headers=sent)
        job_id = server.submit(model)
        server.succeeded(job_id)
        assert server.program.stop() == 0  # which sends what was not sent yet
    assert collector.services == {"palettery"}
    (request,) = collector.named("GET /v1/jobs/{job_id}")[:1]
    assert request.trace_id.hex() == trace_id
    assert collector.named("POST /v1/jobs")
    (job,) = collector.named("job")
    about = {pair.key: pair.value for pair in job.attributes}
    assert about["job_id"].string_value == job_id
    (work,) = collector.named("FinishTask")
    assert (work.trace_id, work.parent_span_id) == (job.trace_id, job.span_id)
    assert not [span for span in collector.spans if "readyz" in span.name]


@pytest.mark.heavy
def test_collector_that_is_away_holds_nobody_up(serve, tmp_path, model):
    nobody = f"http://127.0.0.1:{free_port()}"
    with serve(tmp_path / "data", OTEL_EXPORTER_OTLP_ENDPOINT=nobody) as server:
        server.succeeded(server.submit(model))
        assert server.program.stop() == 0
