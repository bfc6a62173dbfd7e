"""HTTP endpoints of API keys and of the caller."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from palettery.app.http.problems import problems
from palettery.app.http.request_body import JSON, read_json
from palettery.app.http.services import Documents
from palettery.app.keys.authentication import Admin, Keys, Reader
from palettery.schemas.keys import CreatedKey, KeyPage, Me, NewKey

KEY_BYTES = 64 << 10
"""Maximum size of a request for a key."""
BODY_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": NewKey.model_json_schema()}}}
}
CREATE_PROBLEMS = problems(
    _413="the body is too large", _415="the body is not JSON", _422="the request is not valid"
)

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))


@router.get("/me")
def me(keys: Keys, caller: Reader) -> Me:
    """Return the caller with its scopes, limits and usage."""
    return keys.me(caller)


@router.post("/keys", status_code=201, openapi_extra=BODY_OPENAPI, responses=CREATE_PROBLEMS)
async def create(request: Request, keys: Keys, documents: Documents, caller: Admin) -> CreatedKey:
    """Create a key. Once there is a key, every request needs one."""
    new = await read_json(request, documents, caller.owner, NewKey, KEY_BYTES)
    return await run_in_threadpool(keys.create, new)


@router.get("/keys", responses=problems(_422="limit or cursor is not valid"))
def page(
    keys: Keys,
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
) -> KeyPage:
    """List the keys of all owners, newest first, including revoked ones."""
    return keys.page(limit, cursor)


@router.delete("/keys/{key_id}", status_code=204, responses=problems(_404="no such key"))
def revoke(key_id: str, keys: Keys, _: Admin) -> None:
    """Revoke a key; it is rejected from then on."""
    keys.revoke(key_id)
