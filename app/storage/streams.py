"""Streams of bytes: batched into larger pieces, and hashed."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from palettery.app.storage.file_digest import FileDigest

Pieces = Iterable[bytes | memoryview]
AsyncPieces = AsyncIterator[bytes | memoryview]
PIECE_BYTES = 2 << 20
"""Smallest piece worth passing to another thread."""


class HashingStream:
    """A stream that computes its digest and size while it is read."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self.digest = data, FileDigest()
        self.size_bytes = 0

    async def pieces(self) -> AsyncPieces:
        """Yield the stream; each piece is hashed while the next one is received."""
        loop = asyncio.get_running_loop()
        hashing: asyncio.Future[None] | None = None
        async for piece in self._data:
            self.size_bytes += len(piece)
            if hashing is not None:
                await hashing
            hashing = loop.run_in_executor(None, self.digest.update, piece)
            yield piece
        if hashing is not None:
            await hashing

    def hexdigest(self) -> str:
        """Return the SHA-256 of the bytes read so far."""
        return self.digest.hexdigest()


async def coalesce(data: AsyncPieces) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of at least `PIECE_BYTES`, except the last."""
    async for pieces in batches(data, PIECE_BYTES):
        yield b"".join(pieces)


async def batches(data: AsyncPieces, min_bytes: int) -> AsyncIterator[Sequence[bytes | memoryview]]:
    """Yield the pieces in batches of at least so many bytes, except the last."""
    batch: list[bytes | memoryview] = []
    size_bytes = 0
    async for piece in data:
        batch.append(piece)
        size_bytes += len(piece)
        if size_bytes >= min_bytes:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
