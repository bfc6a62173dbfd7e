"""Streams in batches, hashed, and prefetched."""

import asyncio
import hashlib

import pytest

from palettery.app.storage import streams
from palettery.app.storage.prefetch import prefetch
from palettery.app.storage.streams import HashingStream, batches, coalesce

PIECES = [b"abc", b"", b"de", b"f", b"ghij", b"k"]


async def stream():
    for piece in PIECES:
        yield piece


def collected(iterator):
    async def run():
        return [each async for each in iterator]

    return asyncio.run(run())


def test_batches_have_at_least_so_many_bytes_except_the_last():
    assert collected(batches(stream(), 4)) == [[b"abc", b"", b"de"], [b"f", b"ghij"], [b"k"]]


def test_small_pieces_are_joined(monkeypatch):
    monkeypatch.setattr(streams, "PIECE_BYTES", 6)
    assert collected(coalesce(stream())) == [b"abcdef", b"ghijk"]


def test_a_stream_is_hashed_while_it_is_read():
    hashing = HashingStream(stream())
    assert collected(hashing.pieces()) == PIECES
    assert hashing.size_bytes == 11
    assert hashing.hexdigest() == hashlib.sha256(b"".join(PIECES)).hexdigest()


@pytest.mark.parametrize("piece_bytes", [1, 3, 100])
def test_a_range_is_prefetched_in_pieces(folder, piece_bytes):
    folder.write("a", b"0123456789")
    pieces = collected(prefetch(folder, "a", 2, 9, piece_bytes))
    assert b"".join(pieces) == b"2345678"
    assert {len(piece) for piece in pieces[:-1]} <= {piece_bytes}
