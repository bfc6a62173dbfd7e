"""Rows of uploads and of their received parts."""

import re
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from palettery.app.database.engine import Clock, Database, chunks, insert, utc_now
from palettery.app.database.tables import UploadPartRow, UploadRow
from palettery.app.errors import Conflict, NotFound, OverQuota, UploadExpired
from palettery.app.http.caller import Caller
from palettery.app.http.idempotency import KeyedRequest
from palettery.app.keys.quota import within_limits
from palettery.app.settings import Limits
from palettery.app.uploads.stored_upload import StoredUpload, UploadMetadata, files_json
from palettery.schemas.uploads import NewUpload

ID = re.compile(r"[0-9a-f-]{36}")
"""Pattern of upload ids. Other texts are not looked up: some databases fail on them."""
WITHOUT_FILES = defer(UploadRow.files, raiseload=True)
"""Query option that omits the lists of files; those of a page may have many megabytes."""


class UploadRepository:
    """Reads and writes of upload rows, each in its own transaction."""

    def __init__(
        self,
        database: Database,
        open_for: timedelta,
        now: Clock = utc_now,
        limits: Limits | None = None,
    ) -> None:
        self._database, self._open_for, self._now = database, open_for, now
        self._limits = limits or Limits()

    def add(
        self,
        caller: Caller,
        new: NewUpload,
        missing_bytes: int,
        keyed: KeyedRequest | None = None,
    ) -> tuple[StoredUpload, bool]:
        """Add an upload, unless there is one of the same idempotency key.

        Returns the upload and whether it is new.

        Raises:
            IdempotencyConflict: the key belongs to another request.
            OverQuota: the owner would have more bytes, uploads or announced files than it may.
        """
        owner = caller.owner
        now = self._now()
        row = UploadRow(
            id=str(uuid.uuid4()),
            owner=owner,
            files=files_json(new.files),
            file_count=len(new.files),
            name=new.files[0].name,
            size_bytes=sum(file.size_bytes for file in new.files),
            missing_bytes=missing_bytes,
            part_size_bytes=new.part_size_bytes,
            label=new.label,
            created_at=now,
            expires_at=now + self._open_for,
            idempotency_key=keyed and keyed.key,
            idempotency_sha256=keyed and keyed.sha256,
        )
        try:
            with (
                self._database.transaction() as session,
                within_limits(session, owner, caller.limits),
            ):
                if keyed is not None:
                    session.execute(
                        delete(UploadRow).where(_has_key(owner, keyed), self._is_expired())
                    )
                session.add(row)
                session.flush()
                self._check_limits(session, owner)
        except IntegrityError:
            if keyed is None:
                raise
            existing = self._with_key(owner, keyed)
            return (existing, False) if existing else self.add(caller, new, missing_bytes, keyed)
        return StoredUpload.from_row(row), True

    def raise_counted_bytes(self, caller: Caller, upload_id: str, missing_bytes: int) -> None:
        """Increase the bytes of an upload that count toward the owner's quota; never decrease them.

        Raises:
            OverQuota: the owner would have more bytes than it may.
        """
        statement = update(UploadRow).where(
            UploadRow.id == upload_id, UploadRow.missing_bytes < missing_bytes
        )
        with (
            self._database.transaction() as session,
            within_limits(session, caller.owner, caller.limits),
        ):
            session.execute(statement.values(missing_bytes=missing_bytes))

    def get(self, owner: str, upload_id: str) -> StoredUpload:
        """Return one upload of an owner.

        Raises:
            NotFound: there is no such upload.
            UploadExpired: it was not completed in time.
        """
        with self._database.transaction() as session:
            row = session.get(UploadRow, upload_id) if ID.fullmatch(upload_id) else None
        if row is None or row.owner != owner:
            raise _not_found(upload_id)
        if row.expires_at < self._now():
            raise UploadExpired(
                f"the upload expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC, and what was sent "
                "of it is removed; POST /v1/uploads starts another"
            )
        return StoredUpload.from_row(row)

    def page(
        self, owner: str, limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[UploadMetadata]:
        """Return an owner's unexpired uploads, newest first, older than this time and id."""
        query = (
            select(UploadRow)
            .options(WITHOUT_FILES)
            .where(UploadRow.owner == owner, ~self._is_expired())
        )
        if before is not None:
            at, id_ = before
            older = UploadRow.created_at < at
            query = query.where(or_(older, and_(UploadRow.created_at == at, UploadRow.id < id_)))
        newest_first = query.order_by(UploadRow.created_at.desc(), UploadRow.id.desc())
        with self._database.transaction() as session:
            return [
                UploadMetadata.from_row(row) for row in session.scalars(newest_first.limit(limit))
            ]

    def part_digests(self, upload_id: str) -> dict[int, str]:
        """Return the received parts: number -> SHA-256."""
        query = select(UploadPartRow.number, UploadPartRow.sha256)
        with self._database.transaction() as session:
            rows = session.execute(query.where(UploadPartRow.upload_id == upload_id))
            return dict(rows.all())

    def part_digest(self, upload_id: str, number: int) -> str | None:
        """Return the SHA-256 of a received part; None if it was not received."""
        with self._database.transaction() as session:
            row = session.get(UploadPartRow, (upload_id, number))
        return None if row is None else row.sha256

    def add_part(self, upload_id: str, number: int, sha256: str) -> None:
        """Add a part that is in the store, and postpone the upload's expiry.

        Raises:
            NotFound: the upload was deleted meanwhile.
            Conflict: the upload was completed meanwhile.
        """
        postpone = (
            update(UploadRow)
            .where(UploadRow.id == upload_id, UploadRow.model_id.is_(None))
            .values(expires_at=self._now() + self._open_for)
        )
        with self._database.transaction() as session:
            if session.connection().execute(postpone).rowcount == 0:
                row = session.get(UploadRow, upload_id)
                raise _not_found(upload_id) if row is None else already_complete_error()
            added = insert(session, UploadPartRow).on_conflict_do_update(
                index_elements=["upload_id", "number"], set_={"sha256": sha256}
            )
            values = {"upload_id": upload_id, "number": number, "sha256": sha256}
            session.connection().execute(added, values)

    def delete_parts(self, upload_id: str, numbers: Sequence[int]) -> None:
        """Delete the rows of parts, so that they must be sent again."""
        change = delete(UploadPartRow).where(
            UploadPartRow.upload_id == upload_id, UploadPartRow.number.in_(numbers)
        )
        with self._database.transaction() as session:
            session.execute(change)

    def delete(self, upload_id: str) -> None:
        """Delete an upload's row."""
        with self._database.transaction() as session:
            session.execute(delete(UploadRow).where(UploadRow.id == upload_id))

    def delete_expired(self) -> Sequence[str]:
        """Delete the rows of expired uploads and return their ids."""
        change = delete(UploadRow).where(self._is_expired()).returning(UploadRow.id)
        with self._database.transaction() as session:
            return session.connection().execute(change).scalars().all()

    def open_ids(self, ids: Collection[str]) -> set[str]:
        """Return the ids among these that belong to open uploads."""
        open_ids: set[str] = set()
        query = select(UploadRow.id).where(UploadRow.model_id.is_(None))
        with self._database.transaction() as session:
            for chunk in chunks([id_ for id_ in ids if ID.fullmatch(id_)]):
                open_ids.update(session.scalars(query.where(UploadRow.id.in_(chunk))))
        return open_ids

    def _with_key(self, owner: str, keyed: KeyedRequest) -> StoredUpload | None:
        with self._database.transaction() as session:
            row = session.scalars(select(UploadRow).where(_has_key(owner, keyed))).one_or_none()
        if row is None:
            return None  # deleted meanwhile
        keyed.check(row.idempotency_sha256)
        return StoredUpload.from_row(row)

    def _check_limits(self, session: Session, owner: str) -> None:
        """Check the limits of open uploads and announced files of an owner."""
        conditions = (UploadRow.owner == owner, ~self._is_expired())
        is_open = UploadRow.model_id.is_(None)
        for count, allowed, unit, setting in (
            (
                select(func.count()).where(*conditions, is_open),
                self._limits.open_uploads,
                "uploads that are not complete",
                "OPEN_UPLOADS",
            ),
            (
                select(func.sum(UploadRow.file_count)).where(*conditions),
                self._limits.announced_files,
                "files in uploads that have not expired",
                "ANNOUNCED_FILES",
            ),
        ):
            if (total := int(session.scalar(count) or 0)) > allowed:
                raise OverQuota(
                    f"{owner} would have {total:,} {unit}; {allowed:,} are allowed: complete or "
                    "delete some (GET /v1/uploads lists them), or ask the operator to raise "
                    f"PALETTERY_LIMIT_{setting}"
                )

    def _is_expired(self) -> ColumnElement[bool]:
        return UploadRow.expires_at < self._now()


def set_model(session: Session, upload_id: str, model_id: str) -> None:
    """Store which model an upload has become, within the transaction that adds the model.

    Raises:
        NotFound: the upload was deleted meanwhile.
    """
    is_open = or_(UploadRow.model_id.is_(None), UploadRow.model_id == model_id)
    change = update(UploadRow).where(UploadRow.id == upload_id, is_open)
    if session.connection().execute(change.values(model_id=model_id)).rowcount == 0:
        raise _not_found(upload_id)
    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))


def already_complete_error() -> Conflict:
    """Return the error for a part that is sent to a complete upload."""
    return Conflict("the upload is complete, and takes no more parts")


def _has_key(owner: str, keyed: KeyedRequest) -> ColumnElement[bool]:
    return and_(UploadRow.owner == owner, UploadRow.idempotency_key == keyed.key)


def _not_found(upload_id: str) -> NotFound:
    return NotFound(f"there is no upload {upload_id[:64]!r}; see the list of your uploads")
