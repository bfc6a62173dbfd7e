"""Prefetching of stored bytes for a download."""

import asyncio
from collections.abc import AsyncIterator

from palettery.app.storage.base import ObjectReader

PIECE_BYTES = 4 << 20
"""Bytes per read; a slow client occupies the memory of a few pieces."""


async def prefetch(
    store: ObjectReader, path: str, first: int, end: int, piece_bytes: int = PIECE_BYTES
) -> AsyncIterator[memoryview]:
    """Yield a range of an object; each piece is fetched while the previous one is sent."""

    def fetch(start: int) -> asyncio.Task[memoryview]:
        size_bytes = min(piece_bytes, end - start)
        return asyncio.create_task(asyncio.to_thread(store.read, path, start, size_bytes))

    pending = fetch(first)
    try:
        for start in range(first + piece_bytes, end, piece_bytes):
            piece = await pending
            pending = fetch(start)
            yield piece
        yield await pending
    finally:
        pending.cancel()
