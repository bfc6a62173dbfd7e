"""JSON in pieces: the parts one after the other, with their length."""

import asyncio

import pytest
from starlette.requests import Request

from palettery.app.http.streamed_json import external_path, json_response
from palettery.app.storage.spooled_content import PIECE_BYTES


async def body_of(response):
    return [piece async for piece in response.body_iterator]


@pytest.mark.parametrize("text", ["ä" * 10, "a" * (2 * PIECE_BYTES + 3), "ü" * PIECE_BYTES])
def test_parts_are_sent_in_pieces_with_their_length(text):
    response = json_response('{"a": "', text, b'--"}', skipped_bytes=2, headers={"ETag": "x"})
    pieces = asyncio.run(body_of(response))
    assert b"".join(pieces).decode() == f'{{"a": "{text}"}}'
    assert int(response.headers["content-length"]) == sum(map(len, pieces))
    assert max(map(len, pieces)) <= 2 * PIECE_BYTES
    assert response.headers["content-type"] == "application/json"
    assert response.headers["etag"] == "x"


def test_path_has_the_prefix_of_a_proxy():
    assert external_path(Request({"type": "http", "root_path": "/pal"}), "/v1") == "/pal/v1"
    assert external_path(Request({"type": "http"}), "/v1") == "/v1"
