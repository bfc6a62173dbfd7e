"""Uploads in parts: announced, sent in any order, completed to a model."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from starlette.datastructures import Headers

from palettery.app.errors import BadInput, TooLarge
from palettery.app.files.repository import FileLocation
from palettery.app.http.caller import Caller
from palettery.app.http.idempotency import KeyedRequest
from palettery.app.http.pagination import decode_cursor, encode_cursor
from palettery.app.models.repository import ModelRepository
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.uploads.completion import UploadCompletion
from palettery.app.uploads.part_upload import receive_part
from palettery.app.uploads.parts import Part, count_parts, part_path, parts_folder, parts_of
from palettery.app.uploads.received_files import (
    check_sizes,
    counted_bytes,
    owned_files,
    received_parts,
)
from palettery.app.uploads.repository import UploadRepository
from palettery.app.uploads.stored_upload import StoredUpload, UploadMetadata
from palettery.schemas.uploads import (
    MAX_PARTS,
    NewUpload,
    Upload,
    UploadFile,
    UploadPage,
    UploadPart,
    UploadSummary,
)

PRESIGNED_URL_LIFETIME = timedelta(hours=1)
"""Maximum lifetime of a presigned URL."""


class UploadService:
    """Uploads of one service."""

    def __init__(
        self,
        limits: Limits,
        uploads: UploadRepository,
        models: ModelRepository,
        store: Storage,
        completion: UploadCompletion,
    ) -> None:
        self._limits, self._uploads, self._models = limits, uploads, models
        self._store, self._completion = store, completion

    def start(
        self, caller: Caller, new: NewUpload, keyed: KeyedRequest | None, *, presign: bool
    ) -> tuple[Upload, bool]:
        """Announce an upload; return it and whether it is new.

        Raises:
            TooLarge: the announcement is over a limit; the message names it.
            BadInput: there are too many parts.
            InvalidUpload: a file that the owner has is announced with another size.
            OverQuota, IdempotencyConflict: see `UploadRepository.add`.
        """
        _check_announcement(new, caller.limits.upload_bytes, self._limits)
        owned = self._owned_files(caller.owner, new)
        check_sizes(new.files, owned)
        missing_bytes = sum(file.size_bytes for file in new.files if file.sha256 not in owned)
        upload, is_new = self._uploads.add(caller, new, missing_bytes, keyed)
        return self._response(caller, upload, presign=presign), is_new

    def get(self, caller: Caller, upload_id: str, *, presign: bool) -> Upload:
        """Return one upload with its missing parts.

        Raises:
            OverQuota: with the parts of the presigned URLs, the owner would have too many bytes.
        """
        upload = self._uploads.get(caller.owner, upload_id)
        return self._response(caller, upload, presign=presign)

    def page(self, owner: str, limit: int, cursor: str | None) -> UploadPage:
        """Return a page of an owner's uploads, newest first."""
        rows = self._uploads.page(
            owner, limit + 1, None if cursor is None else decode_cursor(cursor)
        )
        uploads = rows[:limit]
        next_cursor = (
            encode_cursor(uploads[-1].created_at, uploads[-1].id) if rows[limit:] else None
        )
        items = tuple(UploadSummary(**_summary(upload)) for upload in uploads)
        return UploadPage(items=items, next_cursor=next_cursor)

    async def receive_part(
        self,
        caller: Caller,
        upload_id: str,
        number: int,
        headers: Headers,
        body: AsyncIterator[bytes],
    ) -> None:
        """Receive a part; see `part_upload.receive_part`."""
        upload = await asyncio.to_thread(self._uploads.get, caller.owner, upload_id)
        check_quota = partial(self._check_quota, caller, upload, {number})
        await receive_part(self._uploads, self._store, upload, number, headers, body, check_quota)

    async def complete(self, owner: str, upload_id: str) -> tuple[str, bool]:
        """Make an upload a model; return its id and whether it is new."""
        upload = await asyncio.to_thread(self._uploads.get, owner, upload_id)
        if upload.model_id is not None:
            return upload.model_id, False
        return await self._completion.complete(upload), True

    def delete(self, owner: str, upload_id: str) -> None:
        """Delete an upload and its parts."""
        upload = self._uploads.get(owner, upload_id)
        self._uploads.delete(upload.id)
        self._store.delete_folder(parts_folder(upload.id))

    def _owned_files(
        self, owner: str, upload: NewUpload | StoredUpload
    ) -> Mapping[str, FileLocation]:
        digests = [file.sha256 for file in upload.files]
        return owned_files(self._models, self._store, owner, digests)

    def _check_quota(
        self, caller: Caller, upload: StoredUpload, next_parts: Collection[int]
    ) -> None:
        """Count the stored bytes of an upload and its next parts toward the owner's quota.

        They may have grown: files that the owner had at the announcement may be deleted by now.

        Raises:
            OverQuota: the owner would have more bytes than it may.
        """
        if upload.counted_bytes == sum(file.size_bytes for file in upload.files):
            return
        owned = self._models.owned_files(caller.owner, [file.sha256 for file in upload.files])
        received = {*received_parts(self._uploads, self._store, upload), *next_parts}
        missing_bytes = counted_bytes(upload, owned, received)
        if missing_bytes > upload.counted_bytes:
            self._uploads.raise_counted_bytes(caller, upload.id, missing_bytes)

    def _response(self, caller: Caller, upload: StoredUpload, *, presign: bool) -> Upload:
        owned = self._owned_files(upload.owner, upload)
        if upload.model_id is not None:
            return Upload(**_summary(upload), files=_files(upload, owned), parts=())
        if presign:  # parts at presigned URLs are written without another check
            self._check_quota(caller, upload, ())
        received = received_parts(self._uploads, self._store, upload)
        parts = [
            part
            for part in parts_of(upload.files, upload.part_size_bytes)
            if upload.files[part.file].sha256 not in owned
        ]
        urls = self._presigned_urls(upload, [p for p in parts if p.number not in received], presign)
        return Upload(
            **_summary(upload),
            files=_files(upload, owned),
            parts=tuple(
                UploadPart(
                    number=part.number,
                    file=part.file,
                    offset=part.offset,
                    size_bytes=part.size_bytes,
                    is_received=part.number in received,
                    url=urls.get(part.number, _part_url(upload, part)),
                )
                for part in parts
            ),
        )

    def _presigned_urls(
        self, upload: StoredUpload, missing: Collection[Part], presign: bool
    ) -> dict[int, str]:
        """Return number -> presigned URL of these parts; empty unless `presign`."""
        if not presign:
            return {}
        valid_for = min(PRESIGNED_URL_LIFETIME, upload.expires_at - datetime.now(UTC))
        paths = [part_path(upload.id, part.number) for part in missing]
        signed = self._store.presigned_put_urls(paths, max(valid_for, timedelta(seconds=1)))
        return {part.number: url for part, url in zip(missing, signed, strict=True)}


def _check_announcement(new: NewUpload, max_bytes: int | None, limits: Limits) -> None:
    size_bytes = sum(file.size_bytes for file in new.files)
    if len(new.files) > limits.upload_files:
        raise TooLarge(f"over {limits.upload_files:,} files; send fewer, larger shards")
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLarge(f"the files have {size_bytes:,} bytes; {max_bytes:,} are allowed")
    count = count_parts(new.files, new.part_size_bytes)
    if count > MAX_PARTS:
        raise BadInput(
            f"the files have {count:,} parts of {new.part_size_bytes:,} bytes, and "
            f"{MAX_PARTS:,} are allowed; choose a larger part_size_bytes"
        )


def _summary(upload: UploadMetadata) -> dict[str, Any]:
    """Return the fields of an `UploadSummary`."""
    self_link, is_complete = f"/v1/uploads/{upload.id}", upload.model_id is not None
    next_link = (
        {"model": f"/v1/models/{upload.model_id}"}
        if is_complete
        else {"complete": f"{self_link}/complete"}
    )
    return {
        "id": upload.id,
        "state": "complete" if is_complete else "open",
        "name": upload.name,
        "file_count": upload.file_count,
        "size_bytes": upload.size_bytes,
        "part_size_bytes": upload.part_size_bytes,
        "model_id": upload.model_id,
        "label": upload.label,
        "created_at": upload.created_at,
        "expires_at": upload.expires_at,
        "links": {"self": self_link} | next_link,
    }


def _files(upload: StoredUpload, owned: Collection[str]) -> tuple[UploadFile, ...]:
    """Return the announced files and whether each is present."""
    return tuple(UploadFile(**dict(file), is_present=file.sha256 in owned) for file in upload.files)


def _part_url(upload: StoredUpload, part: Part) -> str:
    return f"/v1/uploads/{upload.id}/parts/{part.number}"
