"""Receiving parts of uploads."""

import pytest
from starlette.datastructures import Headers

from palettery.app.errors import (
    InvalidUpload,
    NotFound,
    TooLarge,
    UnsupportedContentEncoding,
)
from palettery.app.http.caller import Caller
from palettery.app.uploads.parts import part_path
from palettery.schemas.uploads import MIN_PART_BYTES
from tests.app.uploads.conftest import digest_header, run, streamed


@pytest.mark.parametrize(
    ("body", "headers", "kind", "message"),
    [
        (b"123", {}, InvalidUpload, "the body has 3 bytes, and part 2 has 8,388,608"),
        (b"1" * 9_000_000, {}, TooLarge, "larger than part 2, which has 8,388,608 bytes"),
        (b"", {"content-length": "9000000"}, TooLarge, "larger than part 2"),
        (b"", {"content-length": "7"}, InvalidUpload, "the body has 7 bytes"),
        (b"1" * MIN_PART_BYTES, digest_header(b"2"), InvalidUpload, "bytes of part 2 have the"),
        (
            b"1" * MIN_PART_BYTES,
            {"content-encoding": "gzip"},
            UnsupportedContentEncoding,
            "Content-Encoding 'gzip'",
        ),
    ],
)
def test_a_wrong_part_leaves_nothing(world, large, body, headers, kind, message):
    upload = world.start(m=large)
    with pytest.raises(kind, match=message):
        run(world.put(upload, 2, body, **headers))
    assert world.left() == set()
    assert world.upload_repository.part_digests(upload.id) == {}


def test_a_body_that_goes_on_is_not_read(world, large):
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1 << 20
            yield bytes(1 << 20)

    upload = world.start(m=large)
    with pytest.raises(TooLarge):
        run(
            world.uploads.receive_part(
                Caller("a"), upload.id, 1, Headers(digest_header(b"")), endless()
            )
        )
    assert read == MIN_PART_BYTES + (1 << 20)
    assert world.left() == set()


def test_a_part_that_is_all_of_a_file_has_its_digest(world, small):
    upload = world.start(m=small)
    with pytest.raises(InvalidUpload, match="part 1 is all of m, and its digest is not the file's"):
        run(world.put(upload, 1, b"?" * len(small)))


@pytest.mark.parametrize("number", [0, 5, 10_000])
def test_a_part_out_of_range(world, large, number):
    upload = world.start(m=large)
    with pytest.raises(NotFound, match=f"no part {number:,}; its parts are 1 to 4"):
        run(world.put(upload, number, b""))


def test_the_same_part_is_not_read_again(world, large):
    upload = world.start(m=large)
    run(world.send(upload, large, {1}))

    async def unread():
        raise AssertionError("it was read")
        yield b""

    headers = Headers(digest_header(large[:MIN_PART_BYTES]))
    run(world.uploads.receive_part(Caller("a"), upload.id, 1, headers, unread()))
    world.store.delete(part_path(upload.id, 1))
    run(
        world.uploads.receive_part(
            Caller("a"), upload.id, 1, headers, streamed(large[:MIN_PART_BYTES])
        )
    )
    assert world.left() == {part_path(upload.id, 1)}


def test_an_upload_that_is_deleted_while_a_part_comes_in(world, large):
    upload = world.start(m=large)

    async def body():
        yield large[: MIN_PART_BYTES - 1]
        world.uploads.delete("a", upload.id)
        yield large[MIN_PART_BYTES - 1 : MIN_PART_BYTES]

    headers = Headers(digest_header(large[:MIN_PART_BYTES]))
    with pytest.raises(NotFound):
        run(world.uploads.receive_part(Caller("a"), upload.id, 1, headers, body()))
    assert world.left() == set()
