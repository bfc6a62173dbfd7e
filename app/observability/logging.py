"""Logging as text or JSON, with the id of the request or job in every record."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar, TextIO

from asgi_correlation_id import correlation_id
from pythonjsonlogger.json import JsonFormatter

from palettery.app.settings import Settings

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JSON_FIELDS = ("levelname", "name", "message")
JSON_RENAMED_FIELDS = {"levelname": "level", "name": "logger"}
CONTEXT_FIELDS = ("request_id", "job_id")
"""Attributes of records that are logged during a request or job."""
LIBRARY_LEVELS = {"asgi_correlation_id": logging.ERROR, "uvicorn.error": logging.ERROR}
"""Level of library loggers that clients could flood."""
ENGINE_LOGGER = "dbos"
TORCH_LOGGER = "torch"
ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Escapes of control characters, against log injection."""

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def configure(settings: Settings) -> None:
    """Configure the logging of this process; other packages log warnings and errors only."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler(settings, sys.stderr)])
    logging.getLogger("palettery").setLevel(level)
    for name, library_level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)
    engine = logging.getLogger(ENGINE_LOGGER)
    engine.handlers = [handler(settings, sys.stderr)]  # otherwise it adds its own
    engine.handlers[0].addFilter(_is_not_cancellation)
    engine.propagate = False
    _Logger.handler = handler(settings, sys.stderr)
    logging.setLoggerClass(_Logger)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith(TORCH_LOGGER) and isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers = [_Logger.handler]


def handler(settings: Settings, stream: TextIO) -> logging.Handler:
    """Return a handler that writes to a stream, in the format of the settings."""
    log_format = settings.log_format or ("text" if stream.isatty() else "json")
    stream_handler = logging.StreamHandler(stream)
    stream_handler.addFilter(_add_context)
    stream_handler.setFormatter(
        JsonFormatter(JSON_FIELDS, rename_fields=JSON_RENAMED_FIELDS, timestamp="time")
        if log_format == "json"
        else _TextFormatter(TEXT_FORMAT)
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
    for name, value in zip(CONTEXT_FIELDS, (correlation_id.get(), _job_id.get()), strict=True):
        if value is not None:
            setattr(record, name, value)
    return True


class _Logger(logging.Logger):
    """Logger of a package that is imported after `configure`.

    torch adds handlers of its own as it is imported, which write another format.
    """

    handler: ClassVar[logging.Handler]

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name
        """Add a handler; loggers of torch get the handler of this process instead."""
        super().addHandler(self.handler if self.name.startswith(TORCH_LOGGER) else hdlr)


class _TextFormatter(logging.Formatter):
    """Formatter for text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        context = [(name, getattr(record, name, None)) for name in CONTEXT_FIELDS]
        suffix = " ".join(f"{name}={value}" for name, value in context if value)
        line = super().formatMessage(record).translate(ESCAPED)
        return f"{line} [{suffix}]" if suffix else line
