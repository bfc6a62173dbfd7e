"""Uploads in parts over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from palettery.app.http.idempotency import REPLAYED, IdempotencyKey, keyed_request
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.request_body import JSON, inlined_schema, read_json
from palettery.app.http.services import Documents, ServiceLookup, Store
from palettery.app.http.streamed_json import external_path
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.models.endpoints import Service as ModelService
from palettery.app.models.response import respond
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.app.uploads.service import UploadService
from palettery.schemas.models import Model
from palettery.schemas.uploads import MOST_PARTS, NewUpload, Upload, UploadPage

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

ANNOUNCEMENT_BYTES = 2 << 20
"""Of an announcement; a thousand files with names as long as can be have fewer."""
ANNOUNCEMENT: dict[str, Any] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": inlined_schema(NewUpload)}}}
}
PART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the part, as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "in": "header",
            "name": "Content-Digest",
            "required": True,
            "description": "SHA-256 of the body (RFC 9530); `Repr-Digest` is taken too.",
            "schema": {"type": "string"},
            "example": "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        }
    ],
}
UNKNOWN = problems(_404="no such upload", _410="the upload has expired")
STORE = problems(_503="the store or the database is away", _507="the store is full")


Service = Annotated[UploadService, Depends(ServiceLookup(UploadService))]
Presign = Annotated[
    bool,
    Query(description="Give missing parts addresses in the store itself; with S3 alone."),
]


@router.post(
    "/uploads",
    status_code=201,
    openapi_extra=ANNOUNCEMENT,
    responses=problems(
        _409="the Idempotency-Key stands for another request",
        _413="over a limit",
        _415="the body is no JSON",
        _422="the announcement is not as it must be, or the store signs nothing",
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
    """Announce the files of a model; what is here of them already need not be sent."""
    new = await read_json(request, documents, caller.owner, NewUpload, ANNOUNCEMENT_BYTES)
    asked = keyed_request(key, "POST /v1/uploads", new.model_dump(mode="json", exclude_none=True))
    upload, is_new = await run_in_threadpool(uploads.start, caller, new, asked, presign=presign)
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
    """Uploads that have not expired, newest first, without their files."""
    return uploads.page(caller.owner, limit, cursor)


@router.get(
    "/uploads/{upload_id}",
    responses=UNKNOWN
    | STORE
    | problems(
        _422="the store signs nothing",
        _429="the owner would have more bytes than it may, were the addresses used",
    ),
)
def get(upload_id: str, uploads: Service, caller: Reader, presign: Presign = False) -> Upload:
    """One upload, with the parts that are missing still."""
    return uploads.get(caller, upload_id, presign=presign)


@router.put(
    "/uploads/{upload_id}/parts/{number}",
    status_code=204,
    openapi_extra=PART,
    responses=UNKNOWN
    | STORE
    | problems(
        _404="no such upload, or it has no such part",
        _408="the body came in too slowly",
        _409="the upload is complete",
        _413="the body is larger than the part",
        _415="the body has a Content-Encoding",
        _422="the digest is missing or another, or the body is too small",
        _429="what the owner had of it is gone, and with it there would be too many bytes",
    ),
)
async def put(
    upload_id: str,
    number: Annotated[int, Path(ge=1, le=MOST_PARTS)],
    request: Request,
    uploads: Service,
    caller: Writer,
) -> None:
    """Send a part, in any order, beside others, and again if need be."""
    await uploads.receive(caller, upload_id, number, request.headers, request.stream())


@router.post(
    "/uploads/{upload_id}/complete",
    status_code=201,
    response_model=Model,
    responses={200: {"model": Model, "description": "It was complete already."}}
    | UNKNOWN
    | STORE
    | problems(
        _409="parts are missing; `errors` names them",
        _413="the model is over a limit",
        _415="a file of a kind that is not accepted",
        _422="a file is not what was announced, and must be sent again; or no model that we read",
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
    """Make an upload a model, once all its parts are here; asking again does no harm."""
    model_id, is_new = await uploads.complete(caller.owner, upload_id)
    model = await models.get(DocumentClient(caller.owner, request), model_id)
    where = {"Location": external_path(request, f"/v1/models/{model_id}")}
    return respond(store, model, 201 if is_new else 200, where)


@router.delete("/uploads/{upload_id}", status_code=204, responses=UNKNOWN)
def delete(upload_id: str, uploads: Service, caller: Writer) -> None:
    """Give an upload up; a model that it has become stays."""
    uploads.delete(caller.owner, upload_id)
