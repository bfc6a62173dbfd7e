"""Responses whose body is serialized JSON, possibly of many megabytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from fastapi import Request
from fastapi.responses import StreamingResponse

from palettery.app.http.request_body import JSON
from palettery.app.storage.spooled_content import PIECE_BYTES, Content, SpooledContent


def external_path(request: Request, path: str) -> str:
    """Return a path of this server with the prefix under which a proxy serves it."""
    return f"{request.scope.get('root_path', '')}{path}"


def json_response(
    *parts: str | Content,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    first: int = 0,
) -> StreamingResponse:
    """Return a response of concatenated JSON, streamed in pieces to not block the event loop.

    The first `first` bytes of each part that is not a `str` are skipped.
    """
    length = sum(_size_bytes(part, first) for part in parts)
    sent = {"Content-Length": str(length), **(headers or {})}
    return StreamingResponse(_pieces(parts, first), status, sent, JSON)


def _size_bytes(part: str | Content, first: int) -> int:
    if not isinstance(part, str):
        return len(part) - first
    return len(part) if part.isascii() else sum(len(piece) for piece in _encoded(part))


async def _pieces(parts: Sequence[str | Content], first: int) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, SpooledContent):
            for start in range(first, len(part), PIECE_BYTES):
                yield await asyncio.to_thread(part.read, start, PIECE_BYTES)
        else:
            for piece in _encoded(part if isinstance(part, str) else part[first:]):
                yield piece


def _encoded(part: str | bytes) -> Iterator[bytes]:
    for start in range(0, len(part), PIECE_BYTES):
        piece = part[start : start + PIECE_BYTES]
        yield piece.encode() if isinstance(piece, str) else piece
