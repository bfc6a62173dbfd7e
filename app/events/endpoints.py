"""Events and logs of jobs over HTTP.

FastAPI sends a comment as a heartbeat on streams that are silent for 15 seconds.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from palettery.app.events.job_streams import JobStreams
from palettery.app.events.list_streams import ListStreams
from palettery.app.events.repository import EventRepository, JobSnapshot, StoredEvent
from palettery.app.events.stream_limits import StreamLimits
from palettery.app.http.caller import Caller
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup
from palettery.app.keys.authentication import Reader
from palettery.schemas.events import LogPage

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

RECONNECT_AFTER_MS = 1_000
MAX_NUMBER = 2**31 - 1
NUMBER_BOUNDS = {"ge": 0, "le": MAX_NUMBER}
JOB_PROBLEMS = problems(_404="no such job", _422="not the number of an event")
LIMIT_PROBLEMS = problems(
    _429="the owner has as many event streams open as it may, or all owners together"
)

Events = Annotated[EventRepository, Depends(ServiceLookup(EventRepository))]
Streams = Annotated[JobStreams, Depends(ServiceLookup(JobStreams))]
Lists = Annotated[ListStreams, Depends(ServiceLookup(ListStreams))]
Limits = Annotated[StreamLimits, Depends(ServiceLookup(StreamLimits))]


@dataclass(frozen=True)
class StreamStart:
    """Job and event after which a stream starts."""

    job_id: str
    number: int
    """Number of the last event that the client has received."""
    snapshot: JobSnapshot | None
    """State of the job; None if no event will follow."""


async def stream_caller(limits: Limits, caller: Reader) -> AsyncIterator[Caller]:
    """Yield the caller, who holds a stream slot until the response or the connection ends."""
    with limits.slot(caller.owner):
        yield caller


StreamCaller = Annotated[Caller, Depends(stream_caller)]


After = Annotated[
    int | None, Query(**NUMBER_BOUNDS, description="Number of the last event that was received.")
]
LastEventId = Annotated[
    int | None,
    Header(**NUMBER_BOUNDS, description="The same, as browsers send it; it overrides `after`."),
]


def stream_start(
    job_id: str,
    events: Events,
    response: Response,
    caller: StreamCaller,
    after: After = None,
    last_event_id: LastEventId = None,
) -> StreamStart:
    """Return where the stream starts; sets status 204 if no event follows, so no reconnection."""
    events.check_owner(caller.owner, job_id)
    return find_start(events, response, job_id, after, last_event_id)


def find_start(
    events: EventRepository,
    response: Response,
    job_id: str,
    after: int | None,
    last_event_id: int | None,
) -> StreamStart:
    """Return where a stream starts, as `stream_start` does, for a job of any kind."""
    number = next(n for n in (last_event_id, after, 0) if n is not None)
    snapshot = events.snapshots([job_id]).get(job_id)
    if snapshot is None or (snapshot.has_ended and number >= snapshot.newest):
        response.status_code = 204
        snapshot = None
    return StreamStart(job_id, number, snapshot)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={
        204: {"description": "the job has ended, and no event follows"},
        **JOB_PROBLEMS,
        **LIMIT_PROBLEMS,
    },
)
async def stream(
    streams: Streams, start: Annotated[StreamStart, Depends(stream_start)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream the events of a job from its first one, or from the one after `Last-Event-ID`.

    Events are `state` (data: the job as it was then) and `log` (a line of its log), each with an
    id, and `progress` without one. The stream ends after the last `state`. It also ends after a
    while; reconnect with `Last-Event-ID` then. If no event follows, the status is 204.
    """
    async for event in job_events(streams, start):
        yield event


async def job_events(streams: JobStreams, start: StreamStart) -> AsyncIterator[ServerSentEvent]:
    """Yield the events of a job of any kind."""
    if start.snapshot is None:
        return
    yield ServerSentEvent(retry=RECONNECT_AFTER_MS)
    async for event in streams.follow(start.job_id, start.number, start.snapshot):
        if isinstance(event, StoredEvent):
            yield ServerSentEvent(raw_data=event.data, event=event.kind, id=str(event.number))
        else:
            yield ServerSentEvent(raw_data=event.model_dump_json(), event="progress")


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses=LIMIT_PROBLEMS,
)
async def live(lists: Lists, caller: StreamCaller) -> AsyncIterator[ServerSentEvent]:
    """Stream the changes of all jobs of the caller.

    Events are `open` (no change is missed from then on: fetch the list of jobs now), then `job`
    (data: the present state of a job that was queued, changed its state or made progress) and
    `gone` (data: the id of a deleted job). They have no ids: the stream ends after a while, and
    after reconnecting the list has to be fetched again.
    """
    yield ServerSentEvent(retry=RECONNECT_AFTER_MS)
    async for event in lists.follow(caller.owner):
        yield ServerSentEvent(raw_data=event.data, event=event.kind)


@router.get("/jobs/{job_id}/log", responses=JOB_PROBLEMS)
def log(
    job_id: str,
    events: Events,
    caller: Reader,
    after: Annotated[
        int,
        Query(**NUMBER_BOUNDS, description="`next_after` of the previous page; 0 for the first."),
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of lines.")] = 100,
) -> LogPage:
    """Return lines of a job's log, oldest first."""
    events.check_owner(caller.owner, job_id)
    return events.lines(job_id, after, limit)
