"""OpenTelemetry tracing, enabled by the extra `otel` and an endpoint in the environment."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers import this module without FastAPI
    from fastapi import FastAPI

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables of the exporter's endpoint, which the SDK reads."""
SERVICE_NAME = "palettery"
UNTRACED_URLS = "livez,readyz,metrics"
"""Patterns of URLs without spans, in the syntax of opentelemetry-instrumentation."""

log = logging.getLogger(__name__)

Span = Callable[[str, dict[str, str | int]], AbstractContextManager[object]]


def _no_span(_: str, __: dict[str, str | int]) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Tracing:
    """Functions that create spans; by default they do nothing."""

    span: Span = _no_span
    """Return a context manager for a span, by name and attributes."""
    instrument: Callable[["FastAPI"], None] = lambda _: None
    """Create a span for each request of an app."""


@contextmanager
def tracing() -> Iterator[Tracing]:
    """Set up tracing for the block; pending spans are sent at its end."""
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
        log.warning("tracing is disabled: %s; pip install 'palettery[otel]'", error)
        yield Tracing()
        return
    service = os.environ.get("OTEL_SERVICE_NAME", SERVICE_NAME)
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer(SERVICE_NAME)

    def instrument(app: "FastAPI") -> None:
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=provider,
            meter_provider=NoOpMeterProvider(),
            excluded_urls=UNTRACED_URLS,
            exclude_spans=["receive", "send"],
        )

    try:
        yield Tracing(
            lambda name, about: tracer.start_as_current_span(name, attributes=about), instrument
        )
    finally:
        provider.shutdown()
