"""Logging as text or JSON, with the id of the request or job in every record."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from asgi_correlation_id import correlation_id
from pythonjsonlogger.json import JsonFormatter

from palettery.app.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JSON = ("levelname", "name", "message")
JSON_NAMES = {"levelname": "level", "name": "logger"}
CONTEXT = ("request_id", "job_id")
"""Attributes that records have inside of a request or job."""
QUIET = {"asgi_correlation_id": logging.ERROR, "uvicorn.error": logging.ERROR}
"""Level of library loggers that clients could flood."""
ENGINE = "dbos"
ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Escapes of control characters, against log injection."""

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def configure(settings: Settings) -> None:
    """Configure the logging of this process; other packages log warnings and errors only."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler(settings, sys.stderr)])
    logging.getLogger("palettery").setLevel(level)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    engine = logging.getLogger(ENGINE)
    engine.handlers = [handler(settings, sys.stderr)]  # otherwise it adds its own
    engine.handlers[0].addFilter(_is_not_cancellation)
    engine.propagate = False


def handler(settings: Settings, stream: TextIO) -> logging.Handler:
    """Return a handler that writes to a stream, in the format of the settings."""
    form = settings.log_format or ("text" if stream.isatty() else "json")
    stream_handler = logging.StreamHandler(stream)
    stream_handler.addFilter(_add_context)
    stream_handler.setFormatter(
        JsonFormatter(JSON, rename_fields=JSON_NAMES, timestamp="time")
        if form == "json"
        else _Text(TEXT)
    )
    return stream_handler


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Add the job's id to all records during the block."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Return whether a record is not the engine's error message about a cancelled job."""
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__name__.endswith("CancelledError")


def _add_context(record: logging.LogRecord) -> bool:
    """Add the ids of request and job to a record."""
    for name, value in zip(CONTEXT, (correlation_id.get(), _job_id.get()), strict=True):
        if value is not None:
            setattr(record, name, value)
    return True


class _Text(logging.Formatter):
    """Formatter for text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        context = [(name, getattr(record, name, None)) for name in CONTEXT]
        suffix = " ".join(f"{name}={value}" for name, value in context if value)
        line = super().formatMessage(record).translate(ESCAPED)
        return f"{line} [{suffix}]" if suffix else line
