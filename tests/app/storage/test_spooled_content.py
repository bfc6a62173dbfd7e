"""Content in memory or in a file."""

import asyncio
import pickle

import pytest

from palettery.app.storage.spooled_content import (
    IN_MEMORY_BYTES,
    PIECE_BYTES,
    SpooledContent,
    collect,
    pieces,
)

DATA = bytes(range(256)) * (PIECE_BYTES // 100)


async def stream(data, size_bytes=100_000):
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]


def test_bytes_are_appended_and_read_from_any_offset():
    content = SpooledContent(DATA[:1_000])
    content.append(bytearray(DATA[1_000:]))
    assert len(content) == len(DATA) > PIECE_BYTES
    assert content.read(999, 3) == DATA[999:1_002]
    assert b"".join(content.pieces(start=7)) == DATA[7:]
    assert pickle.loads(pickle.dumps(content)) == DATA  # noqa: S301 - our own


@pytest.mark.parametrize("size_bytes", [0, 5, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, len(DATA)])
def test_large_content_is_spooled(size_bytes):
    content = asyncio.run(collect(stream(DATA[:size_bytes]), size_bytes))
    assert isinstance(content, SpooledContent) == (size_bytes > IN_MEMORY_BYTES)
    assert b"".join(pieces(content)) == DATA[:size_bytes]


@pytest.mark.parametrize("size_bytes", [1, IN_MEMORY_BYTES + 1, len(DATA)])
def test_more_than_the_limit_is_not_collected(size_bytes):
    assert asyncio.run(collect(stream(DATA[:size_bytes]), size_bytes - 1)) is None
