"""Jobs and plans over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from palettery.app.checkpoints.safetensors import NAME_CHARACTERS
from palettery.app.dashboard.report_page import POLICY
from palettery.app.http.downloads import respond
from palettery.app.http.idempotency import REPLAYED, IdempotencyKey
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.request_body import JSON
from palettery.app.http.streamed_json import address, json_answer
from palettery.app.jobs.openapi import BODIES
from palettery.app.jobs.service import JobService
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.storage.base import Storage
from palettery.app.storage.prefetch import prefetch
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.jobs import Job, JobPage, JobState
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.statistics import TensorStatistics
from palettery.schemas.uploads import Digest

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

REFUSED = problems(
    _404="no such model or config",
    _413="over a limit",
    _415="a file or a body of a kind that is not accepted",
    _422="the request, the config or the model is not valid",
    _503="the store is away",
    _507="the store is full",
)
OVER_QUOTA = "the owner has as many jobs or bytes as it may"
UNKNOWN = problems(_404="no such job")
UNFINISHED = problems(_404="no such job", _409="the job has not succeeded")


async def jobs_of(request: Request) -> JobService:
    """The service's jobs."""
    found: JobService = request.state.jobs
    return found


Service = Annotated[JobService, Depends(jobs_of)]


@router.post("/plans", openapi_extra=BODIES, response_model=Plan, responses=REFUSED)
async def dry_run(request: Request, jobs: Service, caller: Writer) -> Response:
    """What a job would do with every tensor; nothing runs, nothing is kept."""
    return json_answer(await jobs.plan(request, caller))


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra=BODIES,
    responses=REFUSED
    | problems(_409="the Idempotency-Key stands for another request", _429=OVER_QUOTA),
)
async def submit(
    request: Request,
    response: Response,
    jobs: Service,
    caller: Writer,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a job; its address is in the Location header."""
    accepted = await jobs.submit(request, caller, idempotency_key)
    response.headers["Location"] = address(request, f"/v1/jobs/{accepted.job.id}")
    response.headers["Retry-After"] = "1"
    if accepted.is_replayed:
        response.headers.update(REPLAYED)
    return accepted.job


@router.get("/jobs", responses=problems(_422="a parameter is not valid"))
def page(
    jobs: Service,
    caller: Reader,
    state: Annotated[
        list[JobState] | None, Query(max_length=5, description="Only jobs in one of these.")
    ] = None,
    model_id: Annotated[
        Digest | None, Query(description="Only jobs that were made of this model.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> JobPage:
    """Jobs, newest first."""
    return jobs.page(caller.owner, limit, cursor, state or (), model_id)


@router.get("/jobs/{job_id}", responses=UNKNOWN)
async def get(job_id: str, jobs: Service, caller: Reader) -> Job:
    """One job as it stands."""
    return await jobs.look_up(caller.owner, job_id)


@router.post("/jobs/{job_id}/cancel", responses=problems(_404="no such job", _409="it has ended"))
async def cancel(job_id: str, jobs: Service, caller: Writer) -> Job:
    """Stop a queued or running job."""
    return await jobs.cancel(caller.owner, job_id)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    responses=problems(
        _404="no such job", _409="it has neither failed nor been cancelled", _429=OVER_QUOTA
    ),
)
async def retry(
    job_id: str, request: Request, response: Response, jobs: Service, caller: Writer
) -> Job:
    """Have a failed or cancelled job go on; what it had finished is not done again."""
    job = await jobs.retry(caller, job_id)
    response.headers["Location"] = address(request, f"/v1/jobs/{job.id}")
    response.headers["Retry-After"] = "1"
    return job


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    responses=problems(_404="no such job", _409="it has not ended"),
)
def delete(job_id: str, jobs: Service, caller: Writer) -> None:
    """Remove an ended job, its artifact, and its upload unless another job needs that."""
    jobs.delete(caller.owner, job_id)


@router.get(
    "/jobs/{job_id}/config",
    response_model=KMeansPalettizerConfig,
    responses=problems(_404="no such job, or one from before configs were kept"),
)
def config(request: Request, job_id: str, jobs: Service, caller: Reader) -> StreamingResponse:
    """The config that a job was given, every default filled in; another job may be given it."""
    return _document(request.state.store, jobs.config(caller.owner, job_id))


@router.get("/jobs/{job_id}/report", response_model=Report, responses=UNFINISHED)
def report(request: Request, job_id: str, jobs: Service, caller: Reader) -> StreamingResponse:
    """What happened to every tensor."""
    return _document(request.state.store, jobs.report(caller.owner, job_id))


def _document(store: Storage, path: str) -> StreamingResponse:
    """JSON that lies in the store."""
    size_bytes = store.size_bytes(path)
    length = {"Content-Length": str(size_bytes)}
    return StreamingResponse(prefetch(store, path, 0, size_bytes), 200, length, JSON)


@router.get(
    "/jobs/{job_id}/report.csv",
    response_class=Response,
    responses={
        200: {
            "description": "a row per tensor; a text that begins with = + - or @ has an apostrophe "
            "in front, so that no spreadsheet runs it",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **UNFINISHED,
    },
)
def report_as_csv(job_id: str, jobs: Service, caller: Reader) -> StreamingResponse:
    """What happened to every tensor, as a table."""
    rows = jobs.report_csv(caller.owner, job_id)
    name = {"Content-Disposition": f'attachment; filename="{job_id}.csv"'}
    return StreamingResponse(rows, 200, name, "text/csv; charset=utf-8")


@router.get(
    "/jobs/{job_id}/report.html",
    response_class=Response,
    responses={
        200: {
            "description": "one page that needs nothing else: charts, tables, every tensor",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **UNFINISHED,
    },
)
def report_as_page(job_id: str, jobs: Service, caller: Reader) -> StreamingResponse:
    """What happened to every tensor, to look at."""
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
        _404="no such job, or no statistics of such a tensor",
        _409="the job has not succeeded",
        _422="no tensor was named",
    ),
)
def statistics(
    job_id: str,
    jobs: Service,
    caller: Reader,
    tensor: Annotated[
        str, Query(max_length=NAME_CHARACTERS, description="Its name, as the report has it.")
    ],
) -> TensorStatistics:
    """What palettizing did inside one tensor: its weights, its palette and its error as charts."""
    return jobs.statistics(caller.owner, job_id, tensor)


DOWNLOAD: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "the file", "content": {"application/octet-stream": {}}},
        206: {"description": "the range of it that was asked for"},
        304: {"description": "the copy with this ETag is still right"},
        **UNFINISHED,
        **problems(
            _412="the file has another ETag than If-Match names",
            _416="the range lies behind the file's end",
        ),
    },
}


@router.get("/jobs/{job_id}/artifact", **DOWNLOAD)
async def artifact(job_id: str, request: Request, jobs: Service, caller: Reader) -> Response:
    """The packed model: its file, or its index when it has several."""
    file = await jobs.artifact(DocumentClient(caller.owner, request), job_id, None)
    return await run_in_threadpool(respond, request, request.state.store, file)


@router.get("/jobs/{job_id}/artifact/{name}", **DOWNLOAD)
async def artifact_file(
    job_id: str, name: str, request: Request, jobs: Service, caller: Reader
) -> Response:
    """One file of the packed model."""
    file = await jobs.artifact(DocumentClient(caller.owner, request), job_id, name)
    return await run_in_threadpool(respond, request, request.state.store, file)


@router.get("/jobs/{job_id}/exports/{format}", **DOWNLOAD)
async def export(
    job_id: str,
    format: str,  # noqa: A002
    request: Request,
    jobs: Service,
    caller: Reader,
) -> Response:
    """Another form of the packed model, one of those that the job was asked for."""
    file = await jobs.export(DocumentClient(caller.owner, request), job_id, format)
    return await run_in_threadpool(respond, request, request.state.store, file)
