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
from palettery.schemas.events import DeletedJob, LogLine, LogPage
from palettery.schemas.jobs import ENDED_STATES, Job, Progress

RECONNECT_S = 1
"""Delay before reconnecting, as in browsers."""
EVENT_TYPES: dict[str, type[BaseModel]] = {"state": Job, "progress": Progress, "log": LogLine}
OPEN = "open"
"""Event after which the list of jobs can be fetched without missing a change."""
CHANGE_TYPES: dict[str, type[BaseModel]] = {"job": Job, "gone": DeletedJob}


@dataclass(frozen=True)
class JobEvent:
    """An event of a job."""

    number: int
    """Number of this event, or of the last that has one; `events(job_id, after=number)` resumes."""
    data: Job | Progress | LogLine
    """The job in its new state, its progress, or a line of its log."""

    @property
    def kind(self) -> str:
        """Kind of the event: state, progress or log."""
        return next(name for name, kind in EVENT_TYPES.items() if isinstance(self.data, kind))


async def events(connection: Connection, job_id: str, after: int) -> AsyncIterator[JobEvent]:
    """Yield a job's events after number `after`, until it has ended.

    Raises:
        NotFound: there is no such job.
        Unavailable: the server cannot be reached.
    """
    async for number, data in follow(connection, f"/v1/jobs/{job_id}/events", after, EVENT_TYPES):
        assert isinstance(data, Job | Progress | LogLine)  # noqa: S101 - of KINDS
        yield JobEvent(number, data)


async def follow(
    connection: Connection, path: str, after: int, types: Mapping[str, type[BaseModel]]
) -> AsyncIterator[tuple[int, BaseModel]]:
    """Yield (number, data) of the events of a stream after number `after`.

    An event without a number has that of the last one. The stream ends with an event whose `state`
    is final. Events of newer servers, whose kind is not in `types`, are left out.

    Raises:
        NotFound: there is no such stream.
        Unavailable: the server cannot be reached.
    """
    last = after
    while True:
        has_ended = False
        async with AsyncExitStack() as stack:
            response = await _open(connection, path, {"Last-Event-ID": str(last)}, stack)
            if response.status_code == HTTPStatus.NO_CONTENT:
                return  # the job has ended, and there are no more events
            with suppress(httpx.TransportError):
                async for message in EventSource(response).aiter_sse():
                    last = int(message.id) if message.id.isdecimal() else last
                    data = _parse_event(message, types)
                    if data is not None:
                        # A job that is retried after its end is not final any more.
                        has_ended = getattr(data, "state", None) in ENDED_STATES
                        yield last, data
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
) -> AsyncIterator[Job | DeletedJob]:
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
                            yield DeletedJob(id=job_id)
                        for job in jobs.values():
                            yield job
                        ids = set(jobs)
                    elif (change := _parse_event(message, CHANGE_TYPES)) is not None:
                        assert isinstance(change, Job | DeletedJob)  # noqa: S101 - of CHANGES
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


def _parse_event(
    message: ServerSentEvent, types: Mapping[str, type[BaseModel]]
) -> BaseModel | None:
    """Parse the data of an event; None if its kind is not in `types`."""
    kind = types.get(message.event)
    if kind is None:
        return None
    try:
        return kind.model_validate_json(message.data, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(
            f"the server sent an event {message.event!r} that this client cannot read"
        ) from error
