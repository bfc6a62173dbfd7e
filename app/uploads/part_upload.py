"""Upload of one part: its body is streamed into the store, verified, and recorded."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from palettery.app.errors import (
    Conflict,
    InvalidUpload,
    NotFound,
    ObjectMissing,
    OverQuota,
    TooLarge,
)
from palettery.app.http.digest_headers import announced_sha256
from palettery.app.http.request_body import check_encoding
from palettery.app.storage.base import Storage
from palettery.app.storage.streams import AsyncPieces, HashingStream, coalesce
from palettery.app.storage.verified_reader import store_digests
from palettery.app.uploads.parts import Part, count_parts, part_path, parts_of
from palettery.app.uploads.repository import UploadRepository, already_complete_error
from palettery.app.uploads.stored_upload import StoredUpload


async def receive_part(
    uploads: UploadRepository,
    store: Storage,
    upload: StoredUpload,
    number: int,
    headers: Headers,
    body: AsyncIterator[bytes],
    check_quota: Callable[[], None],
) -> None:
    """Receive a part; the body of a part that is stored already is not read.

    Raises:
        NotFound: the upload has no such part, or was deleted meanwhile.
        Conflict: the upload is complete.
        UnsupportedContentEncoding: the body is compressed.
        InvalidUpload: the digest is missing or wrong, or the body is too small.
        TooLarge: the body is larger than the part.
        OverQuota: `check_quota` raises it; then the part is deleted.
    """
    if upload.model_id is not None:
        raise already_complete_error()
    part = _find_part(upload, number)
    sha256 = announced_sha256(headers)
    _check_headers(upload, part, sha256, headers)
    path = part_path(upload.id, number)
    is_received = await asyncio.to_thread(uploads.part_digest, upload.id, number) == sha256
    if is_received and await asyncio.to_thread(store.exists, path):
        return
    await asyncio.to_thread(check_quota)
    try:
        stream = HashingStream(coalesce(_limit_size(body, part)))
        await store.write_stream(path, _verify_body(stream, part, sha256))
        if part.size_bytes == upload.files[part.file].size_bytes:
            await asyncio.to_thread(store_digests, store, stream.digest)
        await asyncio.to_thread(uploads.add_part, upload.id, number, sha256)
        await asyncio.to_thread(check_quota)  # the owner's files may have changed meanwhile
    except OverQuota:
        await asyncio.to_thread(uploads.delete_parts, upload.id, [number])
        await asyncio.to_thread(store.delete, path)
        raise
    except ObjectMissing:  # the folder was deleted meanwhile
        current = await asyncio.to_thread(uploads.get, upload.owner, upload.id)
        if current.model_id is None:
            raise
        raise already_complete_error() from None
    except (NotFound, Conflict):
        await asyncio.to_thread(store.delete, path)
        raise


def _find_part(upload: StoredUpload, number: int) -> Part:
    for part in parts_of(upload.files, upload.part_size_bytes):
        if part.number == number:
            return part
    total = count_parts(upload.files, upload.part_size_bytes)
    raise NotFound(f"the upload has no part {number:,}; its parts are 1 to {total:,}")


def _check_headers(upload: StoredUpload, part: Part, sha256: str, headers: Headers) -> None:
    """Check the digest and size that the headers announce, before the body is read."""
    check_encoding(headers)
    file = upload.files[part.file]
    if part.size_bytes == file.size_bytes and sha256 != file.sha256:
        raise InvalidUpload(
            f"part {part.number:,} is all of {file.name}, and its digest is not the file's; send "
            "the bytes that the upload announced, or start another upload"
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > part.size_bytes:
        raise _too_large_error(part)
    if length.isdecimal() and int(length) < part.size_bytes:
        raise _too_small_error(part, int(length))


async def _verify_body(stream: HashingStream, part: Part, sha256: str) -> AsyncPieces:
    """Yield the body; raise at its end if its size or digest is wrong, so that it is not stored."""
    async for piece in stream.pieces():
        yield piece
    if stream.size_bytes < part.size_bytes:
        raise _too_small_error(part, stream.size_bytes)
    if stream.hexdigest() != sha256:
        raise InvalidUpload(
            f"the bytes of part {part.number:,} have the SHA-256 {stream.hexdigest()}, and "
            f"{sha256} was announced; send the part again"
        )


async def _limit_size(body: AsyncIterator[bytes], part: Part) -> AsyncIterator[bytes]:
    """Yield the body; raise as soon as it is larger than the part."""
    size_bytes = 0
    try:
        async for piece in body:
            size_bytes += len(piece)
            if size_bytes > part.size_bytes:
                raise _too_large_error(part)
            yield piece
    except ClientDisconnect as error:
        raise InvalidUpload("the connection was closed within the part; send it again") from error


def _too_large_error(part: Part) -> TooLarge:
    return TooLarge(
        f"the body is larger than part {part.number:,}, which has {part.size_bytes:,} bytes, from "
        f"byte {part.offset:,} of its file on; GET the upload for its parts, and send those alone"
    )


def _too_small_error(part: Part, size_bytes: int) -> InvalidUpload:
    return InvalidUpload(
        f"the body has {size_bytes:,} bytes, and part {part.number:,} has {part.size_bytes:,}; "
        "send all of it"
    )
