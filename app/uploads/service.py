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
from palettery.app.uploads.part_upload import receive
from palettery.app.uploads.parts import Part, count_parts, part_path, parts_folder, parts_of
from palettery.app.uploads.received_files import (
    check_sizes,
    held_bytes,
    owned_files,
    received_parts,
)
from palettery.app.uploads.repository import UploadRecord, UploadRepository, UploadSession
from palettery.schemas.uploads import (
    MOST_PARTS,
    NewUpload,
    Upload,
    UploadFile,
    UploadPage,
    UploadPart,
    UploadSummary,
)

SIGNED_FOR = timedelta(hours=1)
"""How long a presigned address takes a part."""


class UploadService:
    """Uploads of one service."""

    def __init__(
        self,
        limits: Limits,
        sessions: UploadRepository,
        models: ModelRepository,
        store: Storage,
        completion: UploadCompletion,
    ) -> None:
        self._limits, self._sessions, self._models = limits, sessions, models
        self._store, self._completion = store, completion

    def start(
        self, caller: Caller, new: NewUpload, keyed: KeyedRequest | None, *, presign: bool
    ) -> tuple[Upload, bool]:
        """Announce an upload; whether it is new.

        Raises:
            TooLarge: over a limit, which it names.
            BadInput: too many parts.
            InvalidUpload: a file that the owner has is of another size.
            OverQuota, IdempotencyConflict: see `UploadRepository.add`.
        """
        _check(new, caller.limits.upload_bytes, self._limits)
        owned = self._owned(caller.owner, new)
        check_sizes(new.files, owned)
        missing_bytes = sum(file.size_bytes for file in new.files if file.sha256 not in owned)
        session, is_new = self._sessions.add(caller, new, missing_bytes, keyed)
        return self._shown(caller, session, presign=presign), is_new

    def get(self, caller: Caller, upload_id: str, *, presign: bool) -> Upload:
        """One upload, with what is missing of it.

        Raises:
            OverQuota: what addresses are asked for would be more bytes than the owner may have.
        """
        session = self._sessions.get(caller.owner, upload_id)
        return self._shown(caller, session, presign=presign)

    def page(self, owner: str, limit: int, cursor: str | None) -> UploadPage:
        """An owner's uploads, newest first."""
        found = self._sessions.page(
            owner, limit + 1, None if cursor is None else decode_cursor(cursor)
        )
        shown = found[:limit]
        following = encode_cursor(shown[-1].created_at, shown[-1].id) if found[limit:] else None
        items = tuple(UploadSummary(**_summary(upload)) for upload in shown)
        return UploadPage(items=items, next_cursor=following)

    async def receive(
        self,
        caller: Caller,
        upload_id: str,
        number: int,
        headers: Headers,
        body: AsyncIterator[bytes],
    ) -> None:
        """Take in a part; see `receive`."""
        session = await asyncio.to_thread(self._sessions.get, caller.owner, upload_id)
        count = partial(self._count, caller, session, {number})
        await receive(self._sessions, self._store, session, number, headers, body, count)

    async def complete(self, owner: str, upload_id: str) -> tuple[str, bool]:
        """Make an upload a model; its id, and whether that is new."""
        session = await asyncio.to_thread(self._sessions.get, owner, upload_id)
        if session.model_id is not None:
            return session.model_id, False
        return await self._completion.of(session), True

    def delete(self, owner: str, upload_id: str) -> None:
        """Give an upload up, and remove what was sent of it."""
        session = self._sessions.get(owner, upload_id)
        self._sessions.delete(session.id)
        self._store.delete_folder(parts_folder(session.id))

    def _owned(self, owner: str, *sent: NewUpload | UploadSession) -> Mapping[str, FileLocation]:
        digests = [file.sha256 for one in sent for file in one.files]
        return owned_files(self._models, self._store, owner, digests)

    def _count(self, caller: Caller, session: UploadSession, coming: Collection[int]) -> None:
        """See that all that is stored of an upload counts, and what comes in now.

        What the owner had when it was announced may be gone, and does not count elsewhere then.

        Raises:
            OverQuota: the owner would have more bytes than it may.
        """
        if session.counted_bytes == sum(file.size_bytes for file in session.files):
            return
        owned = self._models.owned(caller.owner, [file.sha256 for file in session.files])
        received = {*received_parts(self._sessions, self._store, session), *coming}
        missing_bytes = held_bytes(session, owned, received)
        if missing_bytes > session.counted_bytes:
            self._sessions.count(caller, session.id, missing_bytes)

    def _shown(self, caller: Caller, session: UploadSession, *, presign: bool) -> Upload:
        owned = self._owned(session.owner, session)
        if session.model_id is not None:
            return Upload(**_summary(session), files=_files(session, owned), parts=())
        if presign:  # what is signed may be written, and we are not asked then
            self._count(caller, session, ())
        received = received_parts(self._sessions, self._store, session)
        parts = [
            part
            for part in parts_of(session.files, session.part_size_bytes)
            if session.files[part.file].sha256 not in owned
        ]
        urls = self._urls(session, [p for p in parts if p.number not in received], presign)
        return Upload(
            **_summary(session),
            files=_files(session, owned),
            parts=tuple(
                UploadPart(
                    number=part.number,
                    file=part.file,
                    offset=part.offset,
                    size_bytes=part.size_bytes,
                    is_received=part.number in received,
                    url=urls.get(part.number, _url(session, part)),
                )
                for part in parts
            ),
        )

    def _urls(
        self, session: UploadSession, missing: Collection[Part], presign: bool
    ) -> dict[int, str]:
        """Presigned addresses of parts, if they are asked for."""
        if not presign:
            return {}
        valid_for = min(SIGNED_FOR, session.expires_at - datetime.now(UTC))
        paths = [part_path(session.id, part.number) for part in missing]
        signed = self._store.presigned_put_urls(paths, max(valid_for, timedelta(seconds=1)))
        return {part.number: url for part, url in zip(missing, signed, strict=True)}


def _check(new: NewUpload, most_bytes: int | None, limits: Limits) -> None:
    size_bytes = sum(file.size_bytes for file in new.files)
    if len(new.files) > limits.upload_files:
        raise TooLarge(f"over {limits.upload_files:,} files; send fewer, larger shards")
    if most_bytes is not None and size_bytes > most_bytes:
        raise TooLarge(f"the files have {size_bytes:,} bytes; {most_bytes:,} are allowed")
    count = count_parts(new.files, new.part_size_bytes)
    if count > MOST_PARTS:
        raise BadInput(
            f"the files have {count:,} parts of {new.part_size_bytes:,} bytes, and "
            f"{MOST_PARTS:,} are allowed; choose a larger part_size_bytes"
        )


def _summary(upload: UploadRecord) -> dict[str, Any]:
    """The fields of an `UploadSummary`."""
    here, is_complete = f"/v1/uploads/{upload.id}", upload.model_id is not None
    following = (
        {"model": f"/v1/models/{upload.model_id}"}
        if is_complete
        else {"complete": f"{here}/complete"}
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
        "links": {"self": here} | following,
    }


def _files(session: UploadSession, owned: Collection[str]) -> tuple[UploadFile, ...]:
    """Files as they were announced, and whether they are here."""
    return tuple(
        UploadFile(**dict(file), is_present=file.sha256 in owned) for file in session.files
    )


def _url(session: UploadSession, part: Part) -> str:
    return f"/v1/uploads/{session.id}/parts/{part.number}"
