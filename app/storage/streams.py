"""Streams of bytes: gathered into larger pieces, hashed while they pass."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from palettery.app.storage.file_digest import FileDigest

Pieces = Iterable[bytes | memoryview]
AsyncPieces = AsyncIterator[bytes | memoryview]
PIECE_BYTES = 2 << 20
"""Bytes that are worth a change of threads."""


class HashedStream:
    """A stream whose digest and size are known once it has passed."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self.digest = data, FileDigest()
        self.size_bytes = 0

    async def pieces(self) -> AsyncPieces:
        """The stream; each piece is hashed while it is used and the next one comes in."""
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
        """Of what has passed."""
        return self.digest.hexdigest()


async def larger(data: AsyncPieces) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES` at least, but for the last."""
    async for pieces in gathered(data, PIECE_BYTES):
        yield b"".join(pieces)


async def gathered(
    data: AsyncPieces, least_bytes: int
) -> AsyncIterator[Sequence[bytes | memoryview]]:
    """The pieces in groups of at least so many bytes, but for the last."""
    held: list[bytes | memoryview] = []
    size_bytes = 0
    async for piece in data:
        held.append(piece)
        size_bytes += len(piece)
        if size_bytes >= least_bytes:
            yield held
            held, size_bytes = [], 0
    if held:
        yield held
