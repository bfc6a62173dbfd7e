"""Rows of uploads: what was announced, and which of its parts have come in."""

import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
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
from palettery.schemas.uploads import FileToSend, NewUpload

ID = re.compile(r"[0-9a-f-]{36}")
"""Anything else is no upload's id, and some databases choke on it."""
WITHOUT_FILES = defer(UploadRow.files, raiseload=True)
"""A page of them may have many megabytes."""
_FILES = TypeAdapter(tuple[FileToSend, ...])


@dataclass(frozen=True)
class UploadRecord:
    """An upload, without its files."""

    id: str
    owner: str
    file_count: int
    name: str
    """Of the first file."""
    size_bytes: int
    """Of all files together."""
    counted_bytes: int
    """Of its files, as far as they count as stored by their owner."""
    part_size_bytes: int
    created_at: datetime
    expires_at: datetime
    model_id: str | None
    """What it has become; None while it is open."""
    label: str | None
    """Of the model that it will be."""


@dataclass(frozen=True)
class UploadSession(UploadRecord):
    """An upload as it was announced."""

    files: tuple[FileToSend, ...]


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
    ) -> tuple[UploadSession, bool]:
        """A new upload, or the one that this key stands for; whether it is new.

        Raises:
            IdempotencyConflict: the key stands for another request.
            OverQuota: the owner would have more bytes, uploads or files of them than it may.
        """
        owner = caller.owner
        now = self._now()
        row = UploadRow(
            id=str(uuid.uuid4()),
            owner=owner,
            files=_FILES.dump_json(new.files).decode(),
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
                    session.execute(delete(UploadRow).where(_has_key(owner, keyed), self._past()))
                session.add(row)
                session.flush()
                self._check_announced(session, owner)
        except IntegrityError:
            if keyed is None:
                raise
            known = self._of_key(owner, keyed)
            return (known, False) if known else self.add(caller, new, missing_bytes, keyed)
        return _session(row), True

    def count(self, caller: Caller, upload_id: str, missing_bytes: int) -> None:
        """Count more bytes of an upload as stored, if fewer were counted.

        Raises:
            OverQuota: the owner would have more bytes than it may.
        """
        more = update(UploadRow).where(
            UploadRow.id == upload_id, UploadRow.missing_bytes < missing_bytes
        )
        with (
            self._database.transaction() as session,
            within_limits(session, caller.owner, caller.limits),
        ):
            session.execute(more.values(missing_bytes=missing_bytes))

    def get(self, owner: str, upload_id: str) -> UploadSession:
        """One upload of an owner's.

        Raises:
            NotFound: there is no such upload.
            UploadExpired: it was not completed in time.
        """
        with self._database.transaction() as session:
            row = session.get(UploadRow, upload_id) if ID.fullmatch(upload_id) else None
        if row is None or row.owner != owner:
            raise _unknown(upload_id)
        if row.expires_at < self._now():
            raise UploadExpired(
                f"the upload expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC, and what was sent "
                "of it is removed; POST /v1/uploads starts another"
            )
        return _session(row)

    def page(
        self, owner: str, limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[UploadRecord]:
        """An owner's uploads that have not expired, newest first, older than this time and id."""
        query = (
            select(UploadRow).options(WITHOUT_FILES).where(UploadRow.owner == owner, ~self._past())
        )
        if before is not None:
            at, id_ = before
            older = UploadRow.created_at < at
            query = query.where(or_(older, and_(UploadRow.created_at == at, UploadRow.id < id_)))
        newest_first = query.order_by(UploadRow.created_at.desc(), UploadRow.id.desc())
        with self._database.transaction() as session:
            return [
                UploadRecord(**_record(row)) for row in session.scalars(newest_first.limit(limit))
            ]

    def received(self, upload_id: str) -> dict[int, str]:
        """The parts that have come in: number -> SHA-256."""
        query = select(UploadPartRow.number, UploadPartRow.sha256)
        with self._database.transaction() as session:
            found = session.execute(query.where(UploadPartRow.upload_id == upload_id))
            return dict(found.all())

    def digest_of(self, upload_id: str, number: int) -> str | None:
        """The SHA-256 of a part that has come in; None if it has not."""
        with self._database.transaction() as session:
            row = session.get(UploadPartRow, (upload_id, number))
        return None if row is None else row.sha256

    def receive(self, upload_id: str, number: int, sha256: str) -> None:
        """Note that a part lies in the store, whole; the upload stays open for longer.

        Raises:
            NotFound: the upload was removed meanwhile.
            Conflict: it was completed meanwhile.
        """
        longer = (
            update(UploadRow)
            .where(UploadRow.id == upload_id, UploadRow.model_id.is_(None))
            .values(expires_at=self._now() + self._open_for)
        )
        with self._database.transaction() as session:
            if session.connection().execute(longer).rowcount == 0:
                row = session.get(UploadRow, upload_id)
                raise _unknown(upload_id) if row is None else completed()
            noted = insert(session, UploadPartRow).on_conflict_do_update(
                index_elements=["upload_id", "number"], set_={"sha256": sha256}
            )
            values = {"upload_id": upload_id, "number": number, "sha256": sha256}
            session.connection().execute(noted, values)

    def drop(self, upload_id: str, numbers: Sequence[int]) -> None:
        """Note that parts must be sent again."""
        change = delete(UploadPartRow).where(
            UploadPartRow.upload_id == upload_id, UploadPartRow.number.in_(numbers)
        )
        with self._database.transaction() as session:
            session.execute(change)

    def delete(self, upload_id: str) -> None:
        """Remove an upload's row."""
        with self._database.transaction() as session:
            session.execute(delete(UploadRow).where(UploadRow.id == upload_id))

    def delete_expired(self) -> Sequence[str]:
        """Remove the rows of uploads whose time is up; their ids."""
        change = delete(UploadRow).where(self._past()).returning(UploadRow.id)
        with self._database.transaction() as session:
            return session.connection().execute(change).scalars().all()

    def open(self, ids: Collection[str]) -> set[str]:
        """Those of these uploads that parts may still be sent for."""
        found: set[str] = set()
        query = select(UploadRow.id).where(UploadRow.model_id.is_(None))
        with self._database.transaction() as session:
            for chunk in chunks([id_ for id_ in ids if ID.fullmatch(id_)]):
                found.update(session.scalars(query.where(UploadRow.id.in_(chunk))))
        return found

    def _of_key(self, owner: str, keyed: KeyedRequest) -> UploadSession | None:
        with self._database.transaction() as session:
            row = session.scalars(select(UploadRow).where(_has_key(owner, keyed))).one_or_none()
        if row is None:
            return None  # removed meanwhile
        keyed.check(row.idempotency_sha256)
        return _session(row)

    def _check_announced(self, session: Session, owner: str) -> None:
        """See that an owner has no more uploads and files of uploads than it may."""
        mine = (UploadRow.owner == owner, ~self._past())
        is_open = UploadRow.model_id.is_(None)
        for count, allowed, unit, setting in (
            (
                select(func.count()).where(*mine, is_open),
                self._limits.open_uploads,
                "uploads that are not complete",
                "OPEN_UPLOADS",
            ),
            (
                select(func.sum(UploadRow.file_count)).where(*mine),
                self._limits.announced_files,
                "files in uploads that have not expired",
                "ANNOUNCED_FILES",
            ),
        ):
            if (found := int(session.scalar(count) or 0)) > allowed:
                raise OverQuota(
                    f"{owner} would have {found:,} {unit}; {allowed:,} are allowed: complete or "
                    "delete some (GET /v1/uploads lists them), or have the operator raise "
                    f"PALETTERY_LIMIT_{setting}"
                )

    def _past(self) -> ColumnElement[bool]:
        return UploadRow.expires_at < self._now()


def settle(session: Session, upload_id: str, model_id: str) -> None:
    """Note what an upload has become, within the transaction that adds the model.

    Raises:
        NotFound: the upload was removed meanwhile.
    """
    is_open = or_(UploadRow.model_id.is_(None), UploadRow.model_id == model_id)
    change = update(UploadRow).where(UploadRow.id == upload_id, is_open)
    if session.connection().execute(change.values(model_id=model_id)).rowcount == 0:
        raise _unknown(upload_id)
    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))


def completed() -> Conflict:
    """That an upload takes no parts any more."""
    return Conflict("the upload is complete, and takes no more parts")


def _has_key(owner: str, keyed: KeyedRequest) -> ColumnElement[bool]:
    return and_(UploadRow.owner == owner, UploadRow.idempotency_key == keyed.key)


def _unknown(upload_id: str) -> NotFound:
    return NotFound(f"there is no upload {upload_id[:64]!r}; see the list of your uploads")


def _session(row: UploadRow) -> UploadSession:
    return UploadSession(**_record(row), files=_FILES.validate_json(row.files))


def _record(row: UploadRow) -> dict[str, Any]:
    """The fields of an `UploadRecord`."""
    return {
        "id": row.id,
        "owner": row.owner,
        "file_count": row.file_count,
        "name": row.name,
        "size_bytes": row.size_bytes,
        "counted_bytes": row.missing_bytes,
        "part_size_bytes": row.part_size_bytes,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "model_id": row.model_id,
        "label": row.label,
    }
