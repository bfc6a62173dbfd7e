"""What happens to jobs, as it happens, and their logs, over as many connections as it takes."""

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
"""Between the loss of a connection and the next, as browsers do it."""
KINDS: dict[str, type[BaseModel]] = {"state": Job, "progress": Progress, "log": LogLine}
OPEN = "open"
"""Event of a list that can be fetched now."""
CHANGES: dict[str, type[BaseModel]] = {"job": Job, "gone": GoneJob}


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
            path = f"/v1/jobs/{job_id}/events"
            response = await _opened(connection, path, {"Last-Event-ID": str(last)}, opened)
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


async def watch(
    connection: Connection, listed: Callable[[], AsyncIterator[Job]]
) -> AsyncIterator[Job | GoneJob]:
    """Every job that there is, as `listed` gives them, then every change of one, for ever.

    Raises:
        Unavailable: the server cannot be reached.
    """
    known: set[str] = set()
    while True:
        async with AsyncExitStack() as opened:
            response = await _opened(connection, "/v1/events", {}, opened)
            with suppress(httpx.TransportError):
                async for sent in EventSource(response).aiter_sse():
                    if sent.event == OPEN:
                        found = {job.id: job async for job in listed()}
                        for job_id in known - found.keys():
                            yield GoneJob(id=job_id)
                        for job in found.values():
                            yield job
                        known = set(found)
                    elif (change := _read(sent, CHANGES)) is not None:
                        assert isinstance(change, Job | GoneJob)  # noqa: S101 - of CHANGES
                        (known.add if isinstance(change, Job) else known.discard)(change.id)
                        yield change
        await anyio.sleep(RECONNECT_S)


async def _opened(
    connection: Connection, path: str, headers: dict[str, str], opened: AsyncExitStack
) -> httpx.Response:
    asked = {"Accept": "text/event-stream", **headers}
    response = await connection.again(
        lambda: opened.enter_async_context(connection.stream(path, asked))
    )
    kind = response.headers.get("Content-Type", "")
    if response.status_code != HTTPStatus.NO_CONTENT and not kind.startswith("text/event-stream"):
        raise PaletteryError(f"{response.url} answered with {kind or 'nothing'}, not with events")
    return response


def _parsed(sent: ServerSentEvent, last: int) -> JobEvent | None:
    """An event of a job; None for one of a kind that a newer server has."""
    data = _read(sent, KINDS)
    if data is None:
        return None
    assert isinstance(data, Job | Progress | LogLine)  # noqa: S101 - of KINDS
    return JobEvent(last, data)


def _read(sent: ServerSentEvent, kinds: Mapping[str, type[BaseModel]]) -> BaseModel | None:
    """What an event says; None for one of another kind."""
    kind = kinds.get(sent.event)
    if kind is None:
        return None
    try:
        return kind.model_validate_json(sent.data, extra="ignore")
    except ValidationError as error:
        raise PaletteryError(f"an event {sent.event!r} that this client cannot read") from error
