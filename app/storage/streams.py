"""Streams of bytes: batched into larger pieces, hashed, chained or cancelled."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from palettery.app.errors import Unavailable
from palettery.app.storage.file_digest import FileDigest

Pieces = Iterable[bytes | memoryview]
AsyncPieces = AsyncIterator[bytes | memoryview]
PIECE_BYTES = 2 << 20
"""Minimum size of pieces that are passed to another thread."""


class HashingStream:
    """A stream that computes its digest and size while it is read."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self.digest = data, FileDigest()
        self.size_bytes = 0

    async def pieces(self) -> AsyncPieces:
        """Yield the stream; each piece is hashed while the next one is received."""
        loop = asyncio.get_running_loop()
        pending_update: asyncio.Future[None] | None = None
        async for piece in self._data:
            self.size_bytes += len(piece)
            if pending_update is not None:
                await pending_update
            pending_update = loop.run_in_executor(None, self.digest.update, piece)
            yield piece
        if pending_update is not None:
            await pending_update

    def hexdigest(self) -> str:
        """Return the SHA-256 of the bytes read so far."""
        return self.digest.hexdigest()


class CancellableStream:
    """An async stream that fails once `cancel` is called."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self._is_cancelled = data, False
        self._reading_task: asyncio.Task[object] | None = None

    def __aiter__(self) -> "CancellableStream":
        return self

    async def __anext__(self) -> bytes | memoryview:
        """Return the next piece."""
        if self._is_cancelled:
            raise Unavailable("the write was cancelled")
        self._reading_task = asyncio.current_task()
        try:
            return await anext(self._data)
        except asyncio.CancelledError:
            raise Unavailable("the write was cancelled") from None
        finally:
            self._reading_task = None

    def cancel(self) -> None:
        """Make the stream fail: at once if a piece is being read, otherwise at the next one."""
        self._is_cancelled = True
        if self._reading_task is not None:
            self._reading_task.cancel()


async def coalesce(data: AsyncPieces) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of at least `PIECE_BYTES`, except the last."""
    async for pieces in batches(data, PIECE_BYTES):
        yield b"".join(pieces)


async def batches(data: AsyncPieces, min_bytes: int) -> AsyncIterator[Sequence[bytes | memoryview]]:
    """Yield the pieces in batches of at least `min_bytes`, except the last."""
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


async def as_async(pieces: Pieces) -> AsyncIterator[bytes | memoryview]:
    """Yield the pieces of an iterable, as an async iterator."""
    for piece in pieces:
        yield piece


async def chain_pieces(first: Pieces, rest: AsyncPieces) -> AsyncIterator[bytes | memoryview]:
    """Yield the pieces of two streams, one after the other."""
    for piece in first:
        yield piece
    async for piece in rest:
        yield piece
