"""Models over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup, Store
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.models.response import model_response
from palettery.app.models.service import ModelService
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.schemas.models import Model, ModelPage

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))
NOT_FOUND_PROBLEMS = problems(_404="no such model")


Service = Annotated[ModelService, Depends(ServiceLookup(ModelService))]


@router.get("/models", responses=problems(_422="limit or cursor is not valid"))
def page(
    models: Service,
    caller: Reader,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> ModelPage:
    """List models, newest first, without their files."""
    return models.page(caller.owner, limit, cursor)


@router.get(
    "/models/{model_id}",
    response_model=Model,
    responses=NOT_FOUND_PROBLEMS | problems(_503="the store is unavailable"),
)
async def get(
    request: Request, model_id: str, models: Service, store: Store, caller: Reader
) -> Response:
    """Return one model with its module tree and its tensors."""
    model = await models.get(DocumentClient(caller.owner, request), model_id)
    return model_response(store, model)


@router.delete("/models/{model_id}", status_code=204, responses=NOT_FOUND_PROBLEMS)
def delete(model_id: str, models: Service, caller: Writer) -> None:
    """Delete a model, and its files unless a job or another model uses them."""
    models.delete(caller.owner, model_id)
