"""HTTP endpoints of the evaluations of a job's artifact."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from palettery.app.evaluations.service import EvaluationService
from palettery.app.http.problems import problems
from palettery.app.http.request_body import JSON, inline_schema, read_json
from palettery.app.http.services import Documents, ServiceLookup, Store
from palettery.app.http.streamed_json import external_path, stored_json
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.schemas.evaluation import (
    EvaluationOptions,
    EvaluationSamples,
    JobEvaluation,
    JobEvaluations,
)

router = APIRouter(prefix="/v1", responses=problems(default="another error"))

REQUEST_BYTES = 64 << 10
"""Maximum size of a request; one is a few hundred bytes."""
REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": inline_schema(EvaluationOptions)}},
    }
}
Service = Annotated[EvaluationService, Depends(ServiceLookup(EvaluationService))]


@router.post(
    "/jobs/{job_id}/evaluations",
    status_code=202,
    openapi_extra=REQUEST,
    responses=problems(
        _404="no such job or inputs",
        _409="the job has no artifact",
        _413="a limit is exceeded",
        _415="the body is no JSON, or the model cannot be run",
        _422="the request is not valid, or the inputs are not those of the model",
        _429="the job has too many evaluations, or the owner too many bytes",
    ),
)
async def evaluate(
    job_id: str,
    request: Request,
    response: Response,
    evaluations: Service,
    documents: Documents,
    caller: Writer,
) -> JobEvaluation:
    """Run a job's model before and after on inputs, and compare the outputs."""
    options = await read_json(request, documents, caller.owner, EvaluationOptions, REQUEST_BYTES)
    client = DocumentClient(caller.owner, request)
    evaluation = await evaluations.submit(client, caller, job_id, options)
    response.headers["Location"] = external_path(request, evaluation.links["self"])
    response.headers["Retry-After"] = "1"
    return evaluation


@router.get("/jobs/{job_id}/evaluations", responses=problems(_404="no such job"))
def page(job_id: str, evaluations: Service, caller: Reader) -> JobEvaluations:
    """List the evaluations of a job, newest first, that which it asked for included."""
    return evaluations.page(caller.owner, job_id)


@router.get(
    "/jobs/{job_id}/evaluations/{evaluation_id}",
    responses=problems(_404="no such job or evaluation"),
)
def get(job_id: str, evaluation_id: str, evaluations: Service, caller: Reader) -> JobEvaluation:
    """Return an evaluation with its progress or its result."""
    return evaluations.get(caller.owner, job_id, evaluation_id)


@router.get(
    "/jobs/{job_id}/evaluations/{evaluation_id}/samples",
    response_model=EvaluationSamples,
    responses=problems(
        _404="no such job or evaluation, or it has too many samples",
        _409="the evaluation has not succeeded",
    ),
)
def samples(
    job_id: str, evaluation_id: str, evaluations: Service, store: Store, caller: Reader
) -> StreamingResponse:
    """Return the comparison of each sample, for all outputs."""
    return stored_json(store, evaluations.samples(caller.owner, job_id, evaluation_id))
