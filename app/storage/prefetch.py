"""Stored bytes for a reader who may be slow."""

import asyncio
from collections.abc import AsyncIterator

from palettery.app.storage.base import Reads

PIECE_BYTES = 4 << 20
"""Bytes fetched at once; a slow reader has a few pieces of memory held for it."""


async def prefetched(
    store: Reads, path: str, first: int, end: int, piece_bytes: int = PIECE_BYTES
) -> AsyncIterator[memoryview]:
    """A range of an object; each piece is fetched while the one before it is sent."""

    def fetch(start: int) -> asyncio.Task[memoryview]:
        size_bytes = min(piece_bytes, end - start)
        return asyncio.create_task(asyncio.to_thread(store.read, path, start, size_bytes))

    coming = fetch(first)
    try:
        for start in range(first + piece_bytes, end, piece_bytes):
            piece = await coming
            coming = fetch(start)
            yield piece
        yield await coming
    finally:
        coming.cancel()
