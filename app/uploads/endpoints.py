"""Uploads in parts over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from palettery.app.http.idempotency import REPLAYED, IdempotencyKey, keyed_request
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.request_body import JSON, inline_schema, read_json
from palettery.app.http.services import Documents, ServiceLookup, Store
from palettery.app.http.streamed_json import external_path
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.models.endpoints import Service as ModelService
from palettery.app.models.response import model_response
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.uploads.service import UploadService
from palettery.schemas.models import Model
from palettery.schemas.uploads import MAX_PARTS, NewUpload, Upload, UploadPage

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

ANNOUNCEMENT_BYTES = 2 << 20
"""Maximum size of an announcement; a thousand files with the longest names have fewer bytes."""
ANNOUNCEMENT_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": inline_schema(NewUpload)}}}
}
PART_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the part.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "in": "header",
            "name": "Content-Digest",
            "required": True,
            "description": "SHA-256 of the body (RFC 9530); `Repr-Digest` is accepted too.",
            "schema": {"type": "string"},
            "example": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        }
    ],
}
UPLOAD_PROBLEMS = problems(_404="no such upload", _410="the upload has expired")
STORE_PROBLEMS = problems(_503="the store or the database is unavailable", _507="the store is full")


Service = Annotated[UploadService, Depends(ServiceLookup(UploadService))]
Presign = Annotated[
    bool,
    Query(description="Return presigned URLs of missing parts in the store; S3 only."),
]


@router.post(
    "/uploads",
    status_code=201,
    openapi_extra=ANNOUNCEMENT_OPENAPI,
    responses=problems(
        _409="the Idempotency-Key belongs to another request",
        _413="over a limit",
        _415="the body is no JSON",
        _422="the announcement is invalid, or the store has no presigned URLs",
        _429="the owner would have more bytes, open uploads or announced files than it may",
    ),
)
async def start(
    request: Request,
    response: Response,
    uploads: Service,
    documents: Documents,
    caller: Writer,
    key: IdempotencyKey = None,
    presign: Presign = False,
) -> Upload:
    """Announce the files of a model; files that are stored already need not be sent."""
    new = await read_json(request, documents, caller.owner, NewUpload, ANNOUNCEMENT_BYTES)
    keyed = keyed_request(key, "POST /v1/uploads", new.model_dump(mode="json", exclude_none=True))
    upload, is_new = await run_in_threadpool(uploads.start, caller, new, keyed, presign=presign)
    response.headers["Location"] = external_path(request, f"/v1/uploads/{upload.id}")
    if not is_new:
        response.headers.update(REPLAYED)
    return upload


@router.get("/uploads", responses=problems(_422="limit or cursor is not valid"))
def page(
    uploads: Service,
    caller: Reader,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> UploadPage:
    """List uploads that have not expired, newest first, without their files."""
    return uploads.page(caller.owner, limit, cursor)


@router.get(
    "/uploads/{upload_id}",
    responses=UPLOAD_PROBLEMS
    | STORE_PROBLEMS
    | problems(
        _422="the store has no presigned URLs",
        _429="with the parts of the presigned URLs, the owner would have more bytes than it may",
    ),
)
def get(upload_id: str, uploads: Service, caller: Reader, presign: Presign = False) -> Upload:
    """Return one upload with its missing parts."""
    return uploads.get(caller, upload_id, presign=presign)


@router.put(
    "/uploads/{upload_id}/parts/{number}",
    status_code=204,
    openapi_extra=PART_OPENAPI,
    responses=UPLOAD_PROBLEMS
    | STORE_PROBLEMS
    | problems(
        _404="no such upload, or it has no such part",
        _408="the body came in too slowly",
        _409="the upload is complete",
        _413="the body is larger than the part",
        _415="the body has a Content-Encoding",
        _422="the digest is missing or wrong, or the body is too small",
        _429="with this part, the owner would have more bytes than it may",
    ),
)
async def put(
    upload_id: str,
    number: Annotated[int, Path(ge=1, le=MAX_PARTS)],
    request: Request,
    uploads: Service,
    caller: Writer,
) -> None:
    """Send a part; parts may be sent in any order, in parallel and repeatedly."""
    await uploads.receive_part(caller, upload_id, number, request.headers, request.stream())


@router.post(
    "/uploads/{upload_id}/complete",
    status_code=201,
    response_model=Model,
    responses={200: {"model": Model, "description": "The upload was complete already."}}
    | UPLOAD_PROBLEMS
    | STORE_PROBLEMS
    | problems(
        _409="parts are missing; `errors` names them",
        _413="the model is over a limit",
        _415="a file has an unsupported format",
        _422="a file is not what was announced and must be sent again, or the model is invalid",
    ),
)
async def complete(
    request: Request,
    upload_id: str,
    uploads: Service,
    models: ModelService,
    store: Store,
    caller: Writer,
) -> Response:
    """Make an upload a model once all its parts are received; repeating the request is safe."""
    model_id, is_new = await uploads.complete(caller.owner, upload_id)
    model = await models.get(DocumentClient(caller.owner, request), model_id)
    location = {"Location": external_path(request, f"/v1/models/{model_id}")}
    return model_response(store, model, 201 if is_new else 200, location)


@router.delete("/uploads/{upload_id}", status_code=204, responses=UPLOAD_PROBLEMS)
def delete(upload_id: str, uploads: Service, caller: Writer) -> None:
    """Delete an upload; a model that it has become stays."""
    uploads.delete(caller.owner, upload_id)
