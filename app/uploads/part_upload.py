"""One part of an upload: streamed into the store, and noted once it is there and right."""

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
from palettery.app.storage.checked_reads import store_digests
from palettery.app.storage.streams import AsyncPieces, HashingStream, coalesce
from palettery.app.uploads.parts import Part, count_parts, part_path, parts_of
from palettery.app.uploads.repository import UploadRepository, UploadSession, completed


async def receive(
    sessions: UploadRepository,
    store: Storage,
    session: UploadSession,
    number: int,
    headers: Headers,
    body: AsyncIterator[bytes],
    count: Callable[[], None],
) -> None:
    """Take in a part that counts as stored; one that is here already is not read again.

    Raises:
        NotFound: the upload has no such part, or was removed meanwhile.
        Conflict: the upload is complete.
        UnsupportedContentEncoding: it is compressed.
        InvalidUpload: no digest, another one than announced, too few bytes.
        TooLarge: more bytes than the part has.
        OverQuota: see `count`.
    """
    if session.model_id is not None:
        raise completed()
    part = _part(session, number)
    sha256 = announced_sha256(headers)
    _check(session, part, sha256, headers)
    path = part_path(session.id, number)
    is_known = await asyncio.to_thread(sessions.digest_of, session.id, number) == sha256
    if is_known and await asyncio.to_thread(store.exists, path):
        return
    await asyncio.to_thread(count)
    try:
        hashed = HashingStream(coalesce(_limited(body, part)))
        await store.write_stream(path, _checked(hashed, part, sha256))
        if part.size_bytes == session.files[part.file].size_bytes:
            await asyncio.to_thread(store_digests, store, hashed.digest)
        await asyncio.to_thread(sessions.receive, session.id, number, sha256)
        await asyncio.to_thread(count)  # the owner may have lost or got files meanwhile
    except OverQuota:
        await asyncio.to_thread(sessions.drop, session.id, [number])
        await asyncio.to_thread(store.delete, path)
        raise
    except ObjectMissing:  # the folder went while we wrote
        now = await asyncio.to_thread(sessions.get, session.owner, session.id)
        if now.model_id is None:
            raise
        raise completed() from None
    except (NotFound, Conflict):
        await asyncio.to_thread(store.delete, path)
        raise


def _part(session: UploadSession, number: int) -> Part:
    for part in parts_of(session.files, session.part_size_bytes):
        if part.number == number:
            return part
    total = count_parts(session.files, session.part_size_bytes)
    raise NotFound(f"the upload has no part {number:,}; its parts are 1 to {total:,}")


def _check(session: UploadSession, part: Part, sha256: str, headers: Headers) -> None:
    """Check that what is announced fits, before any of it is read."""
    check_encoding(headers)
    file = session.files[part.file]
    if part.size_bytes == file.size_bytes and sha256 != file.sha256:
        raise InvalidUpload(
            f"part {part.number:,} is all of {file.name}, and its digest is not the file's; send "
            "the bytes that the upload announced, or start another upload"
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > part.size_bytes:
        raise _too_large(part)
    if length.isdecimal() and int(length) < part.size_bytes:
        raise _too_small(part, int(length))


async def _checked(hashed: HashingStream, part: Part, sha256: str) -> AsyncPieces:
    """The body, which fails before its end if it is not the part."""
    async for piece in hashed.pieces():
        yield piece
    if hashed.size_bytes < part.size_bytes:
        raise _too_small(part, hashed.size_bytes)
    if hashed.hexdigest() != sha256:
        raise InvalidUpload(
            f"the bytes of part {part.number:,} have the SHA-256 {hashed.hexdigest()}, and "
            f"{sha256} was announced; send the part again"
        )


async def _limited(body: AsyncIterator[bytes], part: Part) -> AsyncIterator[bytes]:
    size_bytes = 0
    try:
        async for piece in body:
            size_bytes += len(piece)
            if size_bytes > part.size_bytes:
                raise _too_large(part)
            yield piece
    except ClientDisconnect as error:
        raise InvalidUpload("the connection broke off within the part; send it again") from error


def _too_large(part: Part) -> TooLarge:
    return TooLarge(
        f"the body is larger than part {part.number:,}, which has {part.size_bytes:,} bytes, from "
        f"byte {part.offset:,} of its file on; GET the upload for its parts, and send those alone"
    )


def _too_small(part: Part, size_bytes: int) -> InvalidUpload:
    return InvalidUpload(
        f"the body has {size_bytes:,} bytes, and part {part.number:,} has {part.size_bytes:,}; "
        "send all of it"
    )
