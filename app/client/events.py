"""A job's events as they happen, and its log, over as many connections as it takes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus

import anyio
import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel, ValidationError

from app.client.connection import Connection
from app.errors import PaletteryError
from schemas.events import LogLine, LogPage
from schemas.jobs import ENDED, Job, Progress

RECONNECT_S = 1
"""Between the loss of a connection and the next, as browsers do it."""
KINDS: dict[str, type[BaseModel]] = {"state": Job, "progress": Progress, "log": LogLine}


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job."""

    number: int
    """Of the last event that has one; `events(job_id, after=number)` goes on behind it."""
    data: Job | Progress | LogLine
    """The job in its new state, what it has done so far, or a line of its log."""

    @property
    def kind(self) -> str:
        """state, progress or log."""
        return next(name for name, kind in KINDS.items() if isinstance(self.data, kind))


async def events(connection: Connection, job_id: str, after: int) -> AsyncIterator[JobEvent]:
    """A job's events from behind number `after` to its end.

    Raises:
        NotFound: there is no such job.
        Unavailable: the server cannot be reached.
    """
    last = after
    while True:
        has_ended = False
        async with AsyncExitStack() as opened:
            response = await _opened(connection, job_id, last, opened)
            if response.status_code == HTTPStatus.NO_CONTENT:
                return  # the job has ended, and nothing follows what we have seen
            with suppress(httpx.TransportError):
                async for sent in EventSource(response).aiter_sse():
                    last = int(sent.id) if sent.id.isdecimal() else last
                    event = _parsed(sent, last)
                    if event is not None:
                        # It may have been retried since.
                        has_ended = isinstance(event.data, Job) and event.data.state in ENDED
                        yield event
        if not has_ended:
            await anyio.sleep(RECONNECT_S)


async def log_lines(connection: Connection, job_id: str, after: int) -> AsyncIterator[LogLine]:
    """The lines of a job's log so far, from behind number `after`."""
    while True:
        page = await connection.get(LogPage, f"/v1/jobs/{job_id}/log", after=after, limit=1000)
        if not page.items:
            return
        for line in page.items:
            yield line
        after = page.next_after


async def _opened(
    connection: Connection, job_id: str, last: int, opened: AsyncExitStack
) -> httpx.Response:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
    path = f"/v1/jobs/{job_id}/events"
    response = await connection.again(
        lambda: opened.enter_async_context(connection.stream(path, headers))
    )
    kind = response.headers.get("Content-Type", "")
    if response.status_code != HTTPStatus.NO_CONTENT and not kind.startswith("text/event-stream"):
        raise PaletteryError(f"{response.url} answered with {kind or 'nothing'}, not with events")
    return response


def _parsed(sent: ServerSentEvent, last: int) -> JobEvent | None:
    """An event; None for one of a kind that a newer server has."""
    kind = KINDS.get(sent.event)
    if kind is None:
        return None
    try:
        data = kind.model_validate_json(sent.data, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(f"an event {sent.event!r} that this client cannot read") from error
    assert isinstance(data, Job | Progress | LogLine)  # noqa: S101 - of KINDS
    return JobEvent(last, data)
