"""The body of an answer that is JSON already, and may have megabytes."""

from collections.abc import AsyncIterator, Iterator, Mapping

from fastapi import Request
from fastapi.responses import StreamingResponse

from app.body import JSON

PIECE_BYTES = 256 << 10
"""Sent at once; to encode or copy as much holds the server up for a tenth of a millisecond."""


def address(request: Request, path: str) -> str:
    """A path of this server as a client reaches it, below the path that a proxy serves it at."""
    return f"{request.scope.get('root_path', '')}{path}"


def json_answer(
    *parts: str | bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """JSON that these make together, in pieces, so that other requests are served meanwhile."""
    length = sum(_size_bytes(part) for part in parts)
    sent = {"Content-Length": str(length), **(headers or {})}
    return StreamingResponse(_pieces(*parts), status, sent, JSON)


def _size_bytes(part: str | bytes) -> int:
    if isinstance(part, bytes) or part.isascii():
        return len(part)
    return sum(len(piece) for piece in _encoded(part))


async def _pieces(*parts: str | bytes) -> AsyncIterator[bytes]:
    for part in parts:
        for piece in _encoded(part):
            yield piece


def _encoded(part: str | bytes) -> Iterator[bytes]:
    for start in range(0, len(part), PIECE_BYTES):
        piece = part[start : start + PIECE_BYTES]
        yield piece.encode() if isinstance(piece, str) else piece
