"""Spans for OpenTelemetry: on where the extra `otel` is installed and an endpoint is set."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers use this module, and do without it
    from fastapi import FastAPI

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that say where spans go; the SDK reads them, and the others of OpenTelemetry."""
NAME = "palettery"
UNTRACED = "livez,readyz,metrics"

log = logging.getLogger(__name__)

Span = Callable[[str, dict[str, str | int]], AbstractContextManager[object]]


def _no_span(_: str, __: dict[str, str | int]) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Tracing:
    """What makes spans; nothing does unless it was told to."""

    span: Span = _no_span
    """Around a piece of work, by its name and attributes."""
    follow: Callable[["FastAPI"], None] = lambda _: None
    """Have each request of an app make a span."""


@contextmanager
def tracing() -> Iterator[Tracing]:
    """Spans that are sent while this is open, and the last of them when it closes."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        yield Tracing()
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.metrics import NoOpMeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("no spans are sent: %s; pip install 'palettery[otel]'", error)
        yield Tracing()
        return
    service = os.environ.get("OTEL_SERVICE_NAME", NAME)
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer(NAME)

    def follow(app: "FastAPI") -> None:
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),
            excluded_urls=UNTRACED,
            exclude_spans=["receive", "send"],
        )

    try:
        yield Tracing(
            lambda name, about: tracer.start_as_current_span(name, attributes=about), follow
        )
    finally:
        provider.shutdown()
