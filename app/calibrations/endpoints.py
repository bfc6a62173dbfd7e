"""HTTP endpoints of calibrations."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from palettery.app.calibrations.repository import in_state, progress_of
from palettery.app.calibrations.service import CalibrationService
from palettery.app.events.endpoints import (
    LIMIT_PROBLEMS,
    After,
    Events,
    LastEventId,
    StreamCaller,
    Streams,
    StreamStart,
    find_start,
    job_events,
)
from palettery.app.http.downloads import download_response
from palettery.app.http.idempotency import REPLAYED, IdempotencyKey
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.request_body import inline_schema
from palettery.app.http.services import ServiceLookup, Store
from palettery.app.http.streamed_json import external_path
from palettery.app.keys.authentication import Reader, Writer
from palettery.schemas.calibration_jobs import CalibrationJob, CalibrationPage, NewCalibration
from palettery.schemas.jobs import Job, Progress

router = APIRouter(prefix="/v1", responses=problems(default="another error"))

OVER_QUOTA = "the owner has reached its limit of jobs or bytes"
UNKNOWN = problems(_404="no such calibration")
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": inline_schema(NewCalibration)}},
    }
}

Service = Annotated[CalibrationService, Depends(ServiceLookup(CalibrationService))]


@router.post(
    "/calibrations",
    status_code=202,
    openapi_extra=BODY,
    responses=problems(
        _404="no such model or inputs",
        _409="the Idempotency-Key was used with another request",
        _413="a limit is exceeded",
        _415="a body of a kind that is not accepted",
        _422="the request is not valid, the model cannot be run, or the inputs do not fit it",
        _429=OVER_QUOTA,
        _503="the store is unavailable",
        _507="the store is full",
    ),
)
async def submit(
    request: Request,
    response: Response,
    calibrations: Service,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> CalibrationJob:
    """Measure how much each weight of a model matters on some inputs.

    The same model, inputs and options again are answered with the calibration that is there.
    """
    submitted = await calibrations.submit(request, caller, idempotency_key)
    path = f"/v1/calibrations/{submitted.calibration.id}"
    response.headers["Location"] = external_path(request, path)
    response.headers["Retry-After"] = "1"
    if submitted.is_replayed:
        response.headers.update(REPLAYED)
    return submitted.calibration


@router.get("/calibrations", responses=problems(_422="a parameter is not valid"))
def page(
    calibrations: Service, caller: Reader, limit: Limit = 100, cursor: Cursor = None
) -> CalibrationPage:
    """List calibrations, newest first."""
    return calibrations.page(caller.owner, limit, cursor)


@router.get("/calibrations/{calibration_id}", responses=UNKNOWN)
def get(calibration_id: str, calibrations: Service, caller: Reader) -> CalibrationJob:
    """Return a calibration in its current state."""
    return calibrations.get(caller.owner, calibration_id)


@router.post(
    "/calibrations/{calibration_id}/cancel",
    responses=problems(_404="no such calibration", _409="the calibration has ended"),
)
async def cancel(calibration_id: str, calibrations: Service, caller: Writer) -> CalibrationJob:
    """Cancel a queued or running calibration."""
    return await calibrations.cancel(caller.owner, calibration_id)


@router.post(
    "/calibrations/{calibration_id}/retry",
    status_code=202,
    responses=problems(
        _404="no such calibration",
        _409="the calibration has neither failed nor been cancelled",
        _429=OVER_QUOTA,
    ),
)
async def retry(calibration_id: str, calibrations: Service, caller: Writer) -> CalibrationJob:
    """Queue a failed or cancelled calibration again; it goes on from its last saved batch."""
    return await calibrations.retry(caller, calibration_id)


@router.delete(
    "/calibrations/{calibration_id}",
    status_code=204,
    responses=problems(_404="no such calibration", _409="the calibration has not ended"),
)
def delete(calibration_id: str, calibrations: Service, caller: Writer) -> None:
    """Delete an ended calibration with its files; jobs that used it are not affected."""
    calibrations.delete(caller.owner, calibration_id)


def stream_start(
    calibration_id: str,
    events: Events,
    response: Response,
    caller: StreamCaller,
    after: After = None,
    last_event_id: LastEventId = None,
) -> StreamStart:
    """Return where the stream starts; sets status 204 if no event follows, so no reconnection."""
    events.check_owner(caller.owner, calibration_id, "calibration")
    return find_start(events, response, calibration_id, after, last_event_id)


@router.get(
    "/calibrations/{calibration_id}/events",
    response_class=EventSourceResponse,
    responses={
        204: {"description": "the calibration has ended, and no event follows"},
        **problems(_404="no such calibration", _422="not the number of an event"),
        **LIMIT_PROBLEMS,
    },
)
async def stream(
    calibrations: Service,
    streams: Streams,
    start: Annotated[StreamStart, Depends(stream_start)],
) -> AsyncIterator[ServerSentEvent]:
    """Stream the events of a calibration, as those of a job.

    Events are `state` (data: the calibration as it was then), `log` (a line of its log) and
    `progress` (after batches).
    """
    calibration: CalibrationJob | None = None
    async for event in job_events(streams, start):
        if event.event == "progress" and event.raw_data is not None:
            progress = progress_of(Progress.model_validate_json(event.raw_data))
            yield ServerSentEvent(raw_data=progress.model_dump_json(), event="progress")
        elif event.event == "state" and event.raw_data is not None:
            job = Job.model_validate_json(event.raw_data)
            if calibration is None or job.state == "succeeded":
                calibration = await run_in_threadpool(calibrations.get, job.owner, job.id)
            then = in_state(calibration, job).model_dump_json()
            yield ServerSentEvent(raw_data=then, event="state", id=event.id)
        else:
            yield event


FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the file",
        "content": {"application/octet-stream": {}, "application/json": {}},
    },
    206: {"description": "the requested range of the file"},
    304: {"description": "the file with this ETag has not changed"},
    **problems(
        _404="no such calibration",
        _409="the calibration has not succeeded",
        _412="the file has another ETag than If-Match",
        _416="the range is beyond the end of the file",
    ),
}


def _add_download(file: str, content: str) -> None:
    """Add the endpoint of one file; a path for any file would include `cancel` and `retry`."""

    @router.get(
        f"/calibrations/{{calibration_id}}/{file}",
        response_class=Response,
        responses=FILE_RESPONSES,
        summary=f"Download {content}",
    )
    async def download(
        calibration_id: str, request: Request, calibrations: Service, store: Store, caller: Reader
    ) -> Response:
        stored = await run_in_threadpool(calibrations.download, caller.owner, calibration_id, file)
        return await run_in_threadpool(download_response, request, store, stored)


_add_download("sensitivities", "the sensitivities of a calibration as safetensors")
_add_download("second_moments", "the second moments of a calibration as safetensors")
_add_download("report", "the report of a calibration as JSON")
