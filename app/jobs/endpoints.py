"""HTTP endpoints of jobs and plans."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from palettery.app.checkpoints.safetensors import NAME_CHARACTERS
from palettery.app.dashboard.report_page import POLICY
from palettery.app.http.downloads import download_response
from palettery.app.http.idempotency import REPLAYED, IdempotencyKey
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup, Store
from palettery.app.http.streamed_json import external_path, json_response, stored_json
from palettery.app.jobs.openapi import BODIES
from palettery.app.jobs.service import JobService
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.storage.spooled_content import pieces
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.jobs import Job, JobPage, JobState
from palettery.schemas.report import Report
from palettery.schemas.statistics import TensorStatistics
from palettery.schemas.targets import PlannedJob
from palettery.schemas.uploads import Digest

router = APIRouter(prefix="/v1", responses=problems(default="another error"))

REFUSED = problems(
    _404="no such model or config",
    _413="a limit is exceeded",
    _415="a file or a body of a kind that is not accepted",
    _422="the request, the config or the model is not valid",
    _503="the store is unavailable",
    _507="the store is full",
)
OVER_QUOTA = "the owner has reached its limit of jobs or bytes"
UNKNOWN = problems(_404="no such job")
UNFINISHED = problems(_404="no such job", _409="the job has not succeeded")


Service = Annotated[JobService, Depends(ServiceLookup(JobService))]


@router.post(
    "/plans",
    openapi_extra=BODIES,
    response_model=PlannedJob,
    responses=REFUSED
    | problems(_429=OVER_QUOTA)
    | {
        202: {
            "model": Job,
            "description": "the model has no scores for this target yet; the job computes them: "
            "send the request again once it has succeeded",
        }
    },
)
async def dry_run(request: Request, jobs: Service, caller: Writer) -> Response:
    """Return what a job would do with every tensor; nothing is palettized.

    With a target, the plan has what was chosen, and the least expected error at some 200 sizes. The
    first target of a model starts a job that computes the scores of its tensors.
    """
    planned = await jobs.plan(request, caller)
    if not isinstance(planned, Job):
        return json_response(planned)
    location = external_path(request, f"/v1/jobs/{planned.id}")
    headers = {"Location": location, "Retry-After": "1"}
    return json_response(planned.model_dump_json(), status=202, headers=headers)


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra=BODIES,
    responses=REFUSED
    | problems(_409="the Idempotency-Key was used with another request", _429=OVER_QUOTA),
)
async def submit(
    request: Request,
    response: Response,
    jobs: Service,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a job; its address is in the Location header."""
    submitted = await jobs.submit(request, caller, idempotency_key)
    response.headers["Location"] = external_path(request, f"/v1/jobs/{submitted.job.id}")
    response.headers["Retry-After"] = "1"
    if submitted.is_replayed:
        response.headers.update(REPLAYED)
    return submitted.job


@router.get("/jobs", responses=problems(_422="a parameter is not valid"))
def page(
    jobs: Service,
    caller: Reader,
    state: Annotated[
        list[JobState] | None, Query(max_length=5, description="Only jobs in one of these states.")
    ] = None,
    model_id: Annotated[Digest | None, Query(description="Only jobs of this model.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JobPage:
    """List jobs, newest first."""
    return jobs.page(caller.owner, limit, cursor, state or (), model_id)


@router.get("/jobs/{job_id}", responses=UNKNOWN)
async def get(job_id: str, jobs: Service, caller: Reader) -> Job:
    """Return a job in its current state."""
    return await jobs.look_up(caller.owner, job_id)


@router.post(
    "/jobs/{job_id}/cancel", responses=problems(_404="no such job", _409="the job has ended")
)
async def cancel(job_id: str, jobs: Service, caller: Writer) -> Job:
    """Cancel a queued or running job."""
    return await jobs.cancel(caller.owner, job_id)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    responses=problems(
        _404="no such job", _409="the job has neither failed nor been cancelled", _429=OVER_QUOTA
    ),
)
async def retry(
    job_id: str, request: Request, response: Response, jobs: Service, caller: Writer
) -> Job:
    """Queue a failed or cancelled job again; finished parts are not computed again."""
    job = await jobs.retry(caller, job_id)
    response.headers["Location"] = external_path(request, f"/v1/jobs/{job.id}")
    response.headers["Retry-After"] = "1"
    return job


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    responses=problems(_404="no such job", _409="the job has not ended"),
)
def delete(job_id: str, jobs: Service, caller: Writer) -> None:
    """Delete an ended job with its artifact, and uploaded files that no other job needs."""
    jobs.delete(caller.owner, job_id)


@router.get(
    "/jobs/{job_id}/config",
    response_model=KMeansPalettizerConfig,
    responses=problems(_404="no such job, or its config was not stored"),
)
def config(job_id: str, jobs: Service, store: Store, caller: Reader) -> StreamingResponse:
    """Return the config of a job with all defaults; it can be the config of another job."""
    return stored_json(store, jobs.config_path(caller.owner, job_id))


@router.get("/jobs/{job_id}/report", response_model=Report, responses=UNFINISHED)
def report(job_id: str, jobs: Service, store: Store, caller: Reader) -> StreamingResponse:
    """Return what the job did with every tensor."""
    return stored_json(store, jobs.report_path(caller.owner, job_id))


@router.get(
    "/jobs/{job_id}/report.csv",
    response_class=Response,
    responses={
        200: {
            "description": "one row per tensor; text that begins with = + - or @ has an apostrophe "
            "in front, so that no spreadsheet runs it as a formula",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **UNFINISHED,
    },
)
async def report_as_csv(
    request: Request, job_id: str, jobs: Service, caller: Reader
) -> StreamingResponse:
    """Return the report as a table."""
    rows = await jobs.report_csv(DocumentClient(caller.owner, request), job_id)
    name = {"Content-Disposition": f'attachment; filename="{job_id}.csv"'}
    return StreamingResponse(pieces(rows), 200, name, "text/csv; charset=utf-8")


@router.get(
    "/jobs/{job_id}/report.html",
    response_class=Response,
    responses={
        200: {
            "description": "a self-contained page with charts and tables of every tensor",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **UNFINISHED,
    },
)
def report_as_page(job_id: str, jobs: Service, caller: Reader) -> StreamingResponse:
    """Return the report as a page."""
    page = jobs.report_html(caller.owner, job_id)
    headers = {
        "Content-Disposition": f'inline; filename="{job_id}.html"',
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(page, 200, headers, "text/html; charset=utf-8")


@router.get(
    "/jobs/{job_id}/statistics",
    responses=problems(
        _404="no such job, or no statistics of this tensor",
        _409="the job has not succeeded",
        _422="the parameter `tensor` is missing",
    ),
)
def statistics(
    job_id: str,
    jobs: Service,
    caller: Reader,
    tensor: Annotated[
        str, Query(max_length=NAME_CHARACTERS, description="Name of the tensor in the report.")
    ],
) -> TensorStatistics:
    """Return the statistics of one tensor: histograms of weights, palette and errors."""
    return jobs.statistics(caller.owner, job_id, tensor)


DOWNLOAD: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "the file", "content": {"application/octet-stream": {}}},
        206: {"description": "the requested range of the file"},
        304: {"description": "the file with this ETag has not changed"},
        **UNFINISHED,
        **problems(
            _412="the file has another ETag than If-Match",
            _416="the range is beyond the end of the file",
        ),
    },
}


@router.get("/jobs/{job_id}/artifact", **DOWNLOAD)
async def artifact(
    job_id: str, request: Request, jobs: Service, store: Store, caller: Reader
) -> Response:
    """Download the artifact: its file, or the index of several."""
    file = await jobs.artifact(DocumentClient(caller.owner, request), job_id, None)
    return await run_in_threadpool(download_response, request, store, file)


@router.get("/jobs/{job_id}/artifact/{name}", **DOWNLOAD)
async def artifact_file(
    job_id: str, name: str, request: Request, jobs: Service, store: Store, caller: Reader
) -> Response:
    """Download one file of the artifact."""
    file = await jobs.artifact(DocumentClient(caller.owner, request), job_id, name)
    return await run_in_threadpool(download_response, request, store, file)


@router.get("/jobs/{job_id}/exports/{format}", **DOWNLOAD)
async def export(
    job_id: str,
    format: str,  # noqa: A002
    request: Request,
    jobs: Service,
    store: Store,
    caller: Reader,
) -> Response:
    """Download the artifact in one of the formats that the job exported."""
    file = await jobs.export(DocumentClient(caller.owner, request), job_id, format)
    return await run_in_threadpool(download_response, request, store, file)
