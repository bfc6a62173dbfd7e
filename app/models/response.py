"""A model as a response: its row, then what is in it as it lies in the store."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from fastapi.responses import StreamingResponse

from palettery.app.http.request_body import JSON
from palettery.app.storage.base import Storage
from palettery.app.storage.prefetch import prefetched
from palettery.schemas.models import ModelDetails

PIECE_BYTES = 1 << 20
"""Bytes fetched at once; a slow reader has a few pieces of memory held for it."""


@dataclass(frozen=True)
class StoredModel:
    """A model whose contents lie in the store as JSON of `ModelContents`."""

    details: ModelDetails
    path: str
    """Where the contents lie."""
    size_bytes: int
    """Of the contents."""


def model_response(
    store: Storage, model: StoredModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """JSON of `Model`, without more than a few pieces of it in memory."""
    head = model.details.model_dump_json().encode().removesuffix(b"}") + b","
    length = len(head) + model.size_bytes - 1  # the contents go without their opening brace
    sent = {"Content-Length": str(length), **(headers or {})}
    return StreamingResponse(_body(store, model, head), status, sent, JSON)


async def _body(
    store: Storage, model: StoredModel, head: bytes
) -> AsyncIterator[bytes | memoryview]:
    yield head
    async for piece in prefetched(store, model.path, 1, model.size_bytes, PIECE_BYTES):
        yield piece
