"""Events and logs of jobs over HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from palettery.app.events.live_lists import LiveLists
from palettery.app.events.repository import EventRepository, Standing, StoredEvent
from palettery.app.events.stream_limits import StreamLimits
from palettery.app.events.streams import EventStreams
from palettery.app.http.caller import Caller
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup
from palettery.app.keys.authentication import Reader
from palettery.schemas.events import LogPage

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

RECONNECT_AFTER_MS = 1_000
LARGEST = 2**31 - 1
NUMBER = {"ge": 0, "le": LARGEST}
UNKNOWN = problems(_404="no such job", _422="not the number of an event")
FULL = problems(_429="the owner has as many event streams open as it may, or all owners together")


Events = Annotated[EventRepository, Depends(ServiceLookup(EventRepository))]
Streams = Annotated[EventStreams, Depends(ServiceLookup(EventStreams))]
Lists = Annotated[LiveLists, Depends(ServiceLookup(LiveLists))]
Limits = Annotated[StreamLimits, Depends(ServiceLookup(StreamLimits))]


@dataclass(frozen=True)
class Position:
    """Where a reader of a job's events is."""

    job_id: str
    number: int
    """Of the last event that it has seen."""
    standing: Standing | None
    """Of the job; None if there is nothing left to tell."""


async def follower(limits: Limits, caller: Reader) -> AsyncIterator[Caller]:
    """Who asks for a stream; it has a place until its answer or its connection has ended."""
    with limits.taken(caller.owner):
        yield caller


Follower = Annotated[Caller, Depends(follower)]


def position_of(
    job_id: str,
    events: Events,
    response: Response,
    caller: Follower,
    after: Annotated[
        int | None, Query(**NUMBER, description="Number of the last event that was seen.")
    ] = None,
    last_event_id: Annotated[
        int | None, Header(**NUMBER, description="The same; browsers send it. It wins.")
    ] = None,
) -> Position:
    """Where to go on; the answer is 204 where nothing will follow, which ends reconnecting."""
    events.check_owner(caller.owner, job_id)
    number = next(seen for seen in (last_event_id, after, 0) if seen is not None)
    standing = events.standings([job_id]).get(job_id)
    if standing is None or (standing.has_ended and number >= standing.newest):
        response.status_code = 204
        standing = None
    return Position(job_id, number, standing)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={204: {"description": "the job has ended, and all was told"}, **UNKNOWN, **FULL},
)
async def stream(
    streams: Streams, position: Annotated[Position, Depends(position_of)]
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, from its first event on, or from the one after `Last-Event-ID`.

    Events are `state` (data: the job as it was then) and `log` (a line of its log), each with an
    id, and `progress` without one. The stream ends behind the last `state`; after a while, too, to
    be asked for anew with `Last-Event-ID`. Where nothing will follow, the answer is 204.
    """
    if position.standing is None:
        return
    yield ServerSentEvent(retry=RECONNECT_AFTER_MS)
    async for told in streams.follow(position.job_id, position.number, position.standing):
        if isinstance(told, StoredEvent):
            yield ServerSentEvent(raw_data=told.data, event=told.kind, id=str(told.number))
        else:
            yield ServerSentEvent(raw_data=told.model_dump_json(), event="progress")


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses=FULL,
)
async def live(lists: Lists, caller: Follower) -> AsyncIterator[ServerSentEvent]:
    """What becomes of all jobs of the caller's.

    Events are `open` (nothing is missed from then on: fetch the list of jobs now), then `job`
    (data: a job as it stands, whenever one was queued, changed its state or made progress) and
    `gone` (data: the id of one that was deleted). They have no ids: whoever comes back, as it has
    to when the stream ends after a while, fetches the list again.
    """
    yield ServerSentEvent(retry=RECONNECT_AFTER_MS)
    async for told in lists.follow(caller.owner):
        yield ServerSentEvent(raw_data=told.data, event=told.kind)


@router.get("/jobs/{job_id}/log", responses=UNKNOWN)
def log(
    job_id: str,
    events: Events,
    caller: Reader,
    after: Annotated[
        int, Query(**NUMBER, description="`next_after` of the page before; 0 for the first.")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most lines of the page.")] = 100,
) -> LogPage:
    """Lines of a job's log, oldest first."""
    events.check_owner(caller.owner, job_id)
    return events.lines(job_id, after, limit)
