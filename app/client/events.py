"""Live events and logs of jobs, with automatic reconnection."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus

import anyio
import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel, ValidationError

from palettery.app.client.connection import Connection
from palettery.app.errors import PaletteryError
from palettery.schemas.events import GoneJob, LogLine, LogPage
from palettery.schemas.jobs import ENDED, Job, Progress

RECONNECT_S = 1
"""Delay before reconnecting, as in browsers."""
KINDS: dict[str, type[BaseModel]] = {"state": Job, "progress": Progress, "log": LogLine}
OPEN = "open"
"""Event after which the list of jobs can be fetched without missing a change."""
CHANGES: dict[str, type[BaseModel]] = {"job": Job, "gone": GoneJob}


@dataclass(frozen=True)
class JobEvent:
    """An event of a job."""

    number: int
    """Number of the last event that has one; `events(job_id, after=number)` resumes after it."""
    data: Job | Progress | LogLine
    """The job in its new state, its progress, or a line of its log."""

    @property
    def kind(self) -> str:
        """Kind of the event: state, progress or log."""
        return next(name for name, kind in KINDS.items() if isinstance(self.data, kind))


async def events(connection: Connection, job_id: str, after: int) -> AsyncIterator[JobEvent]:
    """Yield a job's events after number `after`, until it has ended.

    Raises:
        NotFound: there is no such job.
        Unavailable: the server cannot be reached.
    """
    last = after
    while True:
        has_ended = False
        async with AsyncExitStack() as stack:
            path = f"/v1/jobs/{job_id}/events"
            response = await _open(connection, path, {"Last-Event-ID": str(last)}, stack)
            if response.status_code == HTTPStatus.NO_CONTENT:
                return  # the job has ended, and there are no more events
            with suppress(httpx.TransportError):
                async for message in EventSource(response).aiter_sse():
                    last = int(message.id) if message.id.isdecimal() else last
                    event = _parse(message, last)
                    if event is not None:
                        # False again if it was retried.
                        has_ended = isinstance(event.data, Job) and event.data.state in ENDED
                        yield event
        if not has_ended:
            await anyio.sleep(RECONNECT_S)


async def log_lines(connection: Connection, job_id: str, after: int) -> AsyncIterator[LogLine]:
    """Yield the lines of a job's log so far, after number `after`."""
    while True:
        page = await connection.get(LogPage, f"/v1/jobs/{job_id}/log", after=after, limit=1000)
        if not page.items:
            return
        for line in page.items:
            yield line
        after = page.next_after


async def watch(
    connection: Connection, list_jobs: Callable[[], AsyncIterator[Job]]
) -> AsyncIterator[Job | GoneJob]:
    """Yield every job of `list_jobs`, then every change, endlessly.

    Raises:
        Unavailable: the server cannot be reached.
    """
    ids: set[str] = set()
    while True:
        async with AsyncExitStack() as stack:
            response = await _open(connection, "/v1/events", {}, stack)
            with suppress(httpx.TransportError):
                async for message in EventSource(response).aiter_sse():
                    if message.event == OPEN:
                        jobs = {job.id: job async for job in list_jobs()}
                        for job_id in ids - jobs.keys():
                            yield GoneJob(id=job_id)
                        for job in jobs.values():
                            yield job
                        ids = set(jobs)
                    elif (change := _read(message, CHANGES)) is not None:
                        assert isinstance(change, Job | GoneJob)  # noqa: S101 - of CHANGES
                        (ids.add if isinstance(change, Job) else ids.discard)(change.id)
                        yield change
        await anyio.sleep(RECONNECT_S)


async def _open(
    connection: Connection, path: str, headers: dict[str, str], stack: AsyncExitStack
) -> httpx.Response:
    headers = {"Accept": "text/event-stream", **headers}
    response = await connection.with_retries(
        lambda: stack.enter_async_context(connection.stream(path, headers))
    )
    kind = response.headers.get("Content-Type", "")
    if response.status_code != HTTPStatus.NO_CONTENT and not kind.startswith("text/event-stream"):
        raise PaletteryError(
            f"{response.url} responded with {kind or 'nothing'}, not an event stream"
        )
    return response


def _parse(message: ServerSentEvent, last: int) -> JobEvent | None:
    """Parse an event of a job; None if its kind is unknown, from a newer server."""
    data = _read(message, KINDS)
    if data is None:
        return None
    assert isinstance(data, Job | Progress | LogLine)  # noqa: S101 - of KINDS
    return JobEvent(last, data)


def _read(message: ServerSentEvent, kinds: Mapping[str, type[BaseModel]]) -> BaseModel | None:
    """Parse the data of an event; None if its kind is not in `kinds`."""
    kind = kinds.get(message.event)
    if kind is None:
        return None
    try:
        return kind.model_validate_json(message.data, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(
            f"the server sent an event {message.event!r} that this client cannot read"
        ) from error
