"""Ranges of an object in pieces."""

import asyncio

import pytest

from palettery.app.storage.open import open_storage
from palettery.app.storage.prefetch import prefetch

DATA = bytes(range(100))


@pytest.mark.parametrize(("first", "end"), [(0, 100), (3, 97), (10, 11), (90, 100)])
@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_pieces_make_the_range(tmp_path, first, end, piece_bytes):
    store = open_storage(tmp_path.as_uri())
    store.write("a", DATA)

    async def read():
        return [bytes(piece) async for piece in prefetch(store, "a", first, end, piece_bytes)]

    pieces = asyncio.run(read())
    assert b"".join(pieces) == DATA[first:end]
    assert {len(piece) for piece in pieces[:-1]} <= {piece_bytes}


def test_reader_that_stops_leaves_no_task(tmp_path):
    store = open_storage(tmp_path.as_uri())
    store.write("a", DATA)

    async def read_one():
        pieces = prefetch(store, "a", 0, 100, 10)
        first = await anext(pieces)
        await pieces.aclose()
        await asyncio.sleep(0)
        return bytes(first), asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(read_one()) == (DATA[:10], set())
