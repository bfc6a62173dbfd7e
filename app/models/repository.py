"""Rows of models; each belongs to an owner, and several models may use the same files."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from palettery.app.database.engine import Clock, Database, chunks, insert, utc_now
from palettery.app.database.tables import FileRow, JobFileRow, JobRow, ModelFileRow, ModelRow
from palettery.app.errors import NotFound
from palettery.app.files.repository import FileLocation, lock_files
from palettery.schemas.checkpoint import ModelFormat, StoredFile
from palettery.schemas.models import ModelDetails, ModelFile, ModelSummary

ID = re.compile(r"[0-9a-f]{64}")
"""Pattern of model ids. Other texts are not looked up: some databases fail on them."""
InTransaction = Callable[[Session], None]
"""A change to make within the same transaction."""


@dataclass(frozen=True)
class NewModel:
    """A parsed model."""

    id: str
    name: str
    """Name of the first file that has tensors."""
    format: ModelFormat
    tensors: int
    files: Sequence[StoredFile]
    """Files with digests, in the order of their names."""
    label: str | None = None
    """None leaves the label of an existing model as it is."""


class ModelRepository:
    """Reads and writes of model rows, each in its own transaction."""

    def __init__(self, database: Database, retain: timedelta, now: Clock = utc_now) -> None:
        self._database, self._retain, self._now = database, retain, now

    def add(
        self,
        owner: str,
        model: NewModel,
        files: Sequence[FileLocation],
        in_transaction: InTransaction,
    ) -> ModelDetails:
        """Add a model of an owner, or renew the one of this id that the owner has already.

        Raises:
            FileGone: a file is no longer stored at its path; call `FileRepository.find` again.
        """
        now = self._now()
        values = {
            "owner": owner,
            "id": model.id,
            "name": model.name,
            "label": model.label,
            "format": model.format,
            "tensors": model.tensors,
            "size_bytes": sum(file.size_bytes for file in model.files),
            "created_at": now,
            "expires_at": now + self._retain,
        }
        updates = {"expires_at": values["expires_at"]}
        if model.label is not None:
            updates["label"] = model.label
        model_files = [
            {
                "owner": owner,
                "model_id": model.id,
                "position": position,
                "name": file.name,
                "sha256": file.sha256,
            }
            for position, file in enumerate(model.files)
        ]
        with self._database.transaction() as session:
            upsert = insert(session, ModelRow).on_conflict_do_update(
                index_elements=["owner", "id"], set_=updates
            )
            session.connection().execute(upsert, values)
            lock_files(session, files, now)
            insert_files = insert(session, ModelFileRow).on_conflict_do_nothing()
            session.connection().execute(insert_files, model_files)
            in_transaction(session)
        return self.get(owner, model.id)

    def get(self, owner: str, model_id: str) -> ModelDetails:
        """Return one model of an owner.

        Raises:
            NotFound: there is no such model.
        """
        files = self.files(owner, model_id)
        with self._database.transaction() as session:
            row = session.get(ModelRow, (owner, model_id))
        if row is None:
            raise _not_found(model_id)
        model_files = tuple(
            ModelFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256 or "")
            for file in files
        )
        return ModelDetails(**_summary_fields(row, len(files)), files=model_files)

    def files(self, owner: str, model_id: str) -> list[StoredFile]:
        """Return the files of a model with their current paths, in the order of their names.

        Raises:
            NotFound: there is no such model.
        """
        query = (
            select(ModelFileRow.name, FileRow.path, FileRow.size_bytes, FileRow.sha256)
            .join(FileRow, FileRow.sha256 == ModelFileRow.sha256)
            .where(ModelFileRow.owner == owner, ModelFileRow.model_id == _check_id(model_id))
            .order_by(ModelFileRow.position)
        )
        with self._database.transaction() as session:
            rows = session.execute(query).all()
        if not rows:
            raise _not_found(model_id)
        return [StoredFile.model_validate(row._mapping) for row in rows]

    def page(
        self, owner: str, limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[ModelSummary]:
        """Return an owner's models, newest first, that are older than this time and id."""
        query = select(ModelRow).where(ModelRow.owner == owner)
        if before is not None:
            at, id_ = before
            older = ModelRow.created_at < at
            query = query.where(or_(older, and_(ModelRow.created_at == at, ModelRow.id < id_)))
        newest_first = query.order_by(ModelRow.created_at.desc(), ModelRow.id.desc())
        with self._database.transaction() as session:
            rows = session.scalars(newest_first.limit(limit)).all()
            count = select(ModelFileRow.model_id, func.count()).group_by(ModelFileRow.model_id)
            counts: dict[str, int] = {}
            for chunk in chunks([row.id for row in rows]):
                chunk_query = count.where(
                    ModelFileRow.owner == owner, ModelFileRow.model_id.in_(chunk)
                )
                counts.update(session.execute(chunk_query).all())
        return [ModelSummary(**_summary_fields(row, counts[row.id])) for row in rows]

    def owned_files(self, owner: str, digests: Collection[str]) -> dict[str, FileLocation]:
        """Return digest -> location of the given files that a model or job of the owner uses."""
        of_a_model = exists().where(
            ModelFileRow.sha256 == FileRow.sha256, ModelFileRow.owner == owner
        )
        of_a_job = exists().where(
            JobFileRow.sha256 == FileRow.sha256,
            JobFileRow.job_id == JobRow.id,
            JobRow.owner == owner,
        )
        query = select(FileRow).where(or_(of_a_model, of_a_job))
        files: dict[str, FileLocation] = {}
        with self._database.transaction() as session:
            for chunk in chunks(digests):
                for row in session.scalars(query.where(FileRow.sha256.in_(chunk))):
                    files[row.sha256] = FileLocation(row.sha256, row.path, row.size_bytes, True)
        return files

    def touch(self, owner: str, model_id: str) -> None:
        """Postpone the expiry of a model."""
        statement = update(ModelRow).where(_matches(owner, model_id))
        with self._database.transaction() as session:
            session.execute(statement.values(expires_at=self._now() + self._retain))

    def delete(self, owner: str, model_id: str) -> None:
        """Delete a model's row, and with it its references to files.

        Raises:
            NotFound: there is no such model.
        """
        change = delete(ModelRow).where(_matches(owner, model_id))
        with self._database.transaction() as session:
            if session.connection().execute(change).rowcount == 0:
                raise _not_found(model_id)

    def delete_expired(self) -> list[str]:
        """Delete the rows of expired models and return their ids."""
        change = delete(ModelRow).where(ModelRow.expires_at < self._now()).returning(ModelRow.id)
        with self._database.transaction() as session:
            return list(session.connection().execute(change).scalars())

    def existing_ids(self, ids: Iterable[str]) -> set[str]:
        """Return the ids among these for which any owner has a model."""
        existing: set[str] = set()
        with self._database.transaction() as session:
            for chunk in chunks([id_ for id_ in ids if ID.fullmatch(id_)]):
                existing.update(session.scalars(select(ModelRow.id).where(ModelRow.id.in_(chunk))))
        return existing


def _matches(owner: str, model_id: str) -> ColumnElement[bool]:
    return and_(ModelRow.owner == owner, ModelRow.id == _check_id(model_id))


def _check_id(model_id: str) -> str:
    if not ID.fullmatch(model_id):
        raise _not_found(model_id)
    return model_id


def _not_found(model_id: str) -> NotFound:
    return NotFound(f"there is no model {model_id[:64]!r}; see the list of your models")


def _summary_fields(row: ModelRow, file_count: int) -> dict[str, Any]:
    """Return the fields of a `ModelSummary`."""
    return {
        "id": row.id,
        "name": row.name,
        "label": row.label,
        "format": row.format,
        "size_bytes": row.size_bytes,
        "tensors_total": row.tensors,
        "file_count": file_count,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "links": {"self": f"/v1/models/{row.id}"},
    }
