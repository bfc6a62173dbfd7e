"""Rows of models: each belongs to an owner, and needs files that others may need too."""

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
from palettery.app.files.repository import FileLocation, hold
from palettery.schemas.checkpoint import ModelFormat, StoredFile
from palettery.schemas.models import ModelDetails, ModelFile, ModelSummary

ID = re.compile(r"[0-9a-f]{64}")
"""Anything else is no model's id, and some databases choke on it."""
Settle = Callable[[Session], None]
"""What is to happen within the same transaction, or not at all."""


@dataclass(frozen=True)
class NewModel:
    """A model that was read and found sound."""

    id: str
    name: str
    """Of the first file that holds tensors."""
    format: ModelFormat
    tensors: int
    files: Sequence[StoredFile]
    """With digests, in the order of their names."""
    label: str | None = None
    """None keeps the one that the model has already."""


class ModelRepository:
    """Reads and writes of model rows, each in its own transaction."""

    def __init__(self, database: Database, retain: timedelta, now: Clock = utc_now) -> None:
        self._database, self._retain, self._now = database, retain, now

    def add(
        self, owner: str, model: NewModel, files: Sequence[FileLocation], settle: Settle
    ) -> ModelDetails:
        """A model of an owner's, or the one of this id that it has already.

        Raises:
            FileGone: a file does not lie where the caller says. Ask `FileRecords.find` again.
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
        changed = {"expires_at": values["expires_at"]}
        if model.label is not None:
            changed["label"] = model.label
        needs = [
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
            added = insert(session, ModelRow).on_conflict_do_update(
                index_elements=["owner", "id"], set_=changed
            )
            session.connection().execute(added, values)
            hold(session, files, now)
            used = insert(session, ModelFileRow).on_conflict_do_nothing()
            session.connection().execute(used, needs)
            settle(session)
        return self.get(owner, model.id)

    def get(self, owner: str, model_id: str) -> ModelDetails:
        """One model of an owner's.

        Raises:
            NotFound: there is no such model.
        """
        files = self.files(owner, model_id)
        with self._database.transaction() as session:
            row = session.get(ModelRow, (owner, model_id))
        if row is None:
            raise _unknown(model_id)
        shown = tuple(
            ModelFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256 or "")
            for file in files
        )
        return ModelDetails(**_summary(row, len(files)), files=shown)

    def files(self, owner: str, model_id: str) -> list[StoredFile]:
        """The files of a model where they are kept now, in the order of their names.

        Raises:
            NotFound: there is no such model.
        """
        query = (
            select(ModelFileRow.name, FileRow.path, FileRow.size_bytes, FileRow.sha256)
            .join(FileRow, FileRow.sha256 == ModelFileRow.sha256)
            .where(ModelFileRow.owner == owner, ModelFileRow.model_id == _checked(model_id))
            .order_by(ModelFileRow.position)
        )
        with self._database.transaction() as session:
            rows = session.execute(query).all()
        if not rows:
            raise _unknown(model_id)
        return [StoredFile.model_validate(row._mapping) for row in rows]

    def page(
        self, owner: str, limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[ModelSummary]:
        """An owner's models, newest first, older than the one of this time and id."""
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
                own = count.where(ModelFileRow.owner == owner, ModelFileRow.model_id.in_(chunk))
                counts.update(session.execute(own).all())
        return [ModelSummary(**_summary(row, counts[row.id])) for row in rows]

    def owned(self, owner: str, digests: Collection[str]) -> dict[str, FileLocation]:
        """Those of these files that a model or a job of the owner's needs."""
        of_a_model = exists().where(
            ModelFileRow.sha256 == FileRow.sha256, ModelFileRow.owner == owner
        )
        of_a_job = exists().where(
            JobFileRow.sha256 == FileRow.sha256,
            JobFileRow.job_id == JobRow.id,
            JobRow.owner == owner,
        )
        query = select(FileRow).where(or_(of_a_model, of_a_job))
        found: dict[str, FileLocation] = {}
        with self._database.transaction() as session:
            for chunk in chunks(digests):
                for row in session.scalars(query.where(FileRow.sha256.in_(chunk))):
                    found[row.sha256] = FileLocation(row.sha256, row.path, row.size_bytes, True)
        return found

    def touch(self, owner: str, model_id: str) -> None:
        """Note that a model is used, so that it is kept for longer."""
        later = update(ModelRow).where(_is(owner, model_id))
        with self._database.transaction() as session:
            session.execute(later.values(expires_at=self._now() + self._retain))

    def delete(self, owner: str, model_id: str) -> None:
        """Remove a model's row, with its need of files.

        Raises:
            NotFound: there is no such model.
        """
        change = delete(ModelRow).where(_is(owner, model_id))
        with self._database.transaction() as session:
            if session.connection().execute(change).rowcount == 0:
                raise _unknown(model_id)

    def delete_expired(self) -> list[str]:
        """Remove the rows of models that are kept no longer; their ids."""
        change = delete(ModelRow).where(ModelRow.expires_at < self._now()).returning(ModelRow.id)
        with self._database.transaction() as session:
            return list(session.connection().execute(change).scalars())

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of these models that any owner has."""
        found: set[str] = set()
        with self._database.transaction() as session:
            for chunk in chunks([id_ for id_ in ids if ID.fullmatch(id_)]):
                found.update(session.scalars(select(ModelRow.id).where(ModelRow.id.in_(chunk))))
        return found


def _is(owner: str, model_id: str) -> ColumnElement[bool]:
    return and_(ModelRow.owner == owner, ModelRow.id == _checked(model_id))


def _checked(model_id: str) -> str:
    if not ID.fullmatch(model_id):
        raise _unknown(model_id)
    return model_id


def _unknown(model_id: str) -> NotFound:
    return NotFound(f"there is no model {model_id[:64]!r}; see the list of your models")


def _summary(row: ModelRow, file_count: int) -> dict[str, Any]:
    """The fields of a `ModelSummary`."""
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
