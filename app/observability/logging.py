"""The service's log: a line an event, as text or as JSON, with the request or job it belongs to."""

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
"""Attributes of every record; None where there is no request or job."""
QUIET = {"asgi_correlation_id": logging.ERROR, "uvicorn.error": logging.ERROR}
"""What of libraries says, at a stranger's wish, nothing that one wants to know."""
ENGINE = "dbos"
ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Control characters, so that nobody writes a line of their own into the log."""

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def configure(settings: Settings) -> None:
    """Set up the log of this process; other packages are heard from warnings on."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler(settings, sys.stderr)])
    logging.getLogger("palettery").setLevel(level)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    engine = logging.getLogger(ENGINE)
    engine.handlers = [handler(settings, sys.stderr)]  # else it makes one, which writes as it likes
    engine.handlers[0].addFilter(_is_not_cancellation)
    engine.propagate = False


def handler(settings: Settings, stream: TextIO) -> logging.Handler:
    """Writes records to a stream, in the form that the settings ask for."""
    form = settings.log_format or ("text" if stream.isatty() else "json")
    made = logging.StreamHandler(stream)
    made.addFilter(_with_context)
    made.setFormatter(
        JsonFormatter(JSON, rename_fields=JSON_NAMES, timestamp="time")
        if form == "json"
        else _Text(TEXT)
    )
    return made


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Have everything that is logged meanwhile name the job."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """The engine calls it an error that a job was cancelled, or ended at its deadline."""
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__name__.endswith("CancelledError")


def _with_context(record: logging.LogRecord) -> bool:
    """Note what a record belongs to; it is kept in any case."""
    for name, value in zip(CONTEXT, (correlation_id.get(), _job_id.get()), strict=True):
        if value is not None:
            setattr(record, name, value)
    return True


class _Text(logging.Formatter):
    """A line for people."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        found = [(name, getattr(record, name, None)) for name in CONTEXT]
        told = " ".join(f"{name}={value}" for name, value in found if value)
        line = super().formatMessage(record).translate(ESCAPED)
        return f"{line} [{told}]" if told else line
