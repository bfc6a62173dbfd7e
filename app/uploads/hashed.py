"""Streams that are hashed while they pass."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from app.storage.base import AsyncPieces, gathered

PIECE_BYTES = 2 << 20
"""Bytes gathered before they are hashed and go on to the store."""


class Hashed:
    """A stream whose digest and size are known once it has passed."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self._digest = data, hashlib.sha256()
        self.size_bytes = 0

    async def pieces(self) -> AsyncPieces:
        """The stream; each piece is hashed while it is used and the next one comes in."""
        loop = asyncio.get_running_loop()
        hashing: asyncio.Future[None] | None = None
        async for piece in self._data:
            self.size_bytes += len(piece)
            if hashing is not None:
                await hashing
            hashing = loop.run_in_executor(None, self._digest.update, piece)
            yield piece
        if hashing is not None:
            await hashing

    def hexdigest(self) -> str:
        """Of what has passed."""
        return self._digest.hexdigest()


async def larger(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth a change of threads each."""
    async for pieces in gathered(data, PIECE_BYTES):
        yield b"".join(pieces)
