"""Rows of stored files: one per digest, as long as a job or a model uses it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, bindparam, delete, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks, insert
from palettery.app.database.tables import FileRow, JobFileRow, ModelFileRow
from palettery.app.errors import FileGone

PAGE_ROWS = 1_000
"""Number of rows per transaction when all are read."""
_PATHS = select(FileRow.sha256, FileRow.path).where(
    FileRow.sha256.in_(bindparam("digests", expanding=True))
)
_LOCKED_PATHS = _PATHS.order_by(FileRow.sha256).with_for_update(read=True, key_share=True)
"""The same, with the rows locked against deletion. Both are built once: that takes longer than
running them."""


@dataclass(frozen=True)
class FileLocation:
    """Digest, size and path of a stored file."""

    sha256: str
    path: str
    size_bytes: int
    has_row: bool = False
    """Whether the path comes from a file row; otherwise the caller has just written the file."""


class FileRepository:
    """Reads and writes of file rows, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, digests: Collection[str]) -> dict[str, str]:
        """Return digest -> path of those of these files that are stored."""
        paths: dict[str, str] = {}
        with self._database.reading() as connection:
            for chunk in chunks(digests):
                paths.update(connection.execute(_PATHS, {"digests": chunk}).all())
        return paths

    def relocate(self, sha256: str, path: str) -> None:
        """Store a new path of a file."""
        change = update(FileRow).where(FileRow.sha256 == sha256).values(path=path)
        with self._database.transaction() as session:
            session.execute(change)

    def unused(self, created_before: datetime) -> Iterator[FileLocation]:
        """Yield the files that no job or model uses, of those created before this time."""
        return self._all_files(FileRow.created_at < created_before, ~_is_used())

    def paths(self) -> Iterator[str]:
        """Yield the path of every file."""
        return (file.path for file in self._all_files())

    def delete_if_unused(self, sha256: str) -> bool:
        """Delete the row of an unused file; return whether it did, so that the file can go, too."""
        change = delete(FileRow).where(FileRow.sha256 == sha256, ~_is_used())
        try:
            with self._database.transaction() as session:
                return session.connection().execute(change).rowcount == 1
        except IntegrityError:  # another transaction began to use it meanwhile
            return False

    def _all_files(self, *conditions: ColumnElement[bool]) -> Iterator[FileLocation]:
        """Yield files in order of digest; each page is read in a transaction of its own."""
        query = select(FileRow).where(*conditions).order_by(FileRow.sha256).limit(PAGE_ROWS)
        last = ""
        while True:
            with self._database.transaction() as session:
                rows = session.scalars(query.where(FileRow.sha256 > last)).all()
            yield from (FileLocation(row.sha256, row.path, row.size_bytes) for row in rows)
            if len(rows) < PAGE_ROWS:
                return
            last = rows[-1].sha256


def add_job_files(
    session: Session, job_id: str, files: Sequence[FileLocation], created_at: datetime
) -> None:
    """Store which files a job uses, within the transaction that adds them.

    Raises:
        FileGone: a file is no longer stored at its path.
    """
    lock_files(session, files, created_at)
    rows_of_job = [
        {"job_id": job_id, "sha256": sha256} for sha256 in sorted({file.sha256 for file in files})
    ]
    if rows_of_job:
        statement = insert(session, JobFileRow).on_conflict_do_nothing()
        session.connection().execute(statement, rows_of_job)


def lock_files(session: Session, files: Sequence[FileLocation], created_at: datetime) -> None:
    """Add missing rows of files and lock all of them until the transaction ends.

    Raises:
        FileGone: a file is no longer stored at its path.
    """
    by_digest = {file.sha256: file for file in files}
    sorted_files = [by_digest[digest] for digest in sorted(by_digest)]  # prevents deadlocks
    new = [_values(file, created_at) for file in sorted_files if not file.has_row]
    if new:
        session.connection().execute(insert(session, FileRow).on_conflict_do_nothing(), new)
    paths: dict[str, str] = {}
    for chunk in chunks(list(by_digest)):
        paths.update(session.connection().execute(_LOCKED_PATHS, {"digests": chunk}).all())
    for file in files:
        if paths.get(file.sha256) != file.path:
            raise FileGone(f"the stored file {file.sha256} was removed or replaced; send it again")


def _values(file: FileLocation, created_at: datetime) -> dict[str, object]:
    return {
        "sha256": file.sha256,
        "path": file.path,
        "size_bytes": file.size_bytes,
        "created_at": created_at,
    }


def _is_used() -> ColumnElement[bool]:
    return or_(
        exists().where(JobFileRow.sha256 == FileRow.sha256),
        exists().where(ModelFileRow.sha256 == FileRow.sha256),
    )
