"""Responses whose body is serialized JSON, possibly of many megabytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from fastapi import Request
from fastapi.responses import StreamingResponse

from palettery.app.http.request_body import JSON
from palettery.app.storage.base import Storage
from palettery.app.storage.prefetch import prefetch
from palettery.app.storage.spooled_content import PIECE_BYTES, Content, SpooledContent


def external_path(request: Request, path: str) -> str:
    """Return a path of this server with the prefix under which a proxy serves it."""
    return f"{request.scope.get('root_path', '')}{path}"


def json_response(
    *parts: str | Content,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    skipped_bytes: int = 0,
) -> StreamingResponse:
    """Return a response of concatenated JSON, streamed in pieces to not block the event loop.

    `skipped_bytes` are left out at the beginning of each part that is not a `str`.
    """
    length = sum(_size_bytes(part, skipped_bytes) for part in parts)
    all_headers = {"Content-Length": str(length), **(headers or {})}
    return StreamingResponse(_pieces(parts, skipped_bytes), status, all_headers, JSON)


def stored_json(store: Storage, path: str) -> StreamingResponse:
    """Return a response of JSON from the store."""
    size_bytes = store.size_bytes(path)
    length = {"Content-Length": str(size_bytes)}
    return StreamingResponse(prefetch(store, path, 0, size_bytes), 200, length, JSON)


def _size_bytes(part: str | Content, skipped_bytes: int) -> int:
    if not isinstance(part, str):
        return len(part) - skipped_bytes
    return len(part) if part.isascii() else sum(len(piece) for piece in _encode_pieces(part))


async def _pieces(parts: Sequence[str | Content], skipped_bytes: int) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, SpooledContent):
            for start in range(skipped_bytes, len(part), PIECE_BYTES):
                yield await asyncio.to_thread(part.read, start, PIECE_BYTES)
        else:
            for piece in _encode_pieces(part if isinstance(part, str) else part[skipped_bytes:]):
                yield piece


def _encode_pieces(part: str | bytes) -> Iterator[bytes]:
    for start in range(0, len(part), PIECE_BYTES):
        piece = part[start : start + PIECE_BYTES]
        yield piece.encode() if isinstance(piece, str) else piece
