"""Rows of stored upload files: the bytes of one digest are kept once, while anything needs them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, bindparam, delete, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from palettery.app.database.engine import Database, chunks, insert
from palettery.app.database.tables import FileRow, JobFileRow, ModelFileRow
from palettery.app.errors import FileGone

PAGE = 1_000
"""Rows read at once when all are gone through."""
_PATHS = select(FileRow.sha256, FileRow.path).where(
    FileRow.sha256.in_(bindparam("digests", expanding=True))
)
_HELD = _PATHS.order_by(FileRow.sha256).with_for_update(read=True, key_share=True)
"""Made once: to put them together takes longer than to run them."""


@dataclass(frozen=True)
class FileLocation:
    """One upload file where it is kept."""

    sha256: str
    path: str
    size_bytes: int
    is_known: bool = False
    """That `find` gave the path; else the caller has brought the bytes there itself."""


class FileRepository:
    """Reads and writes of file rows, each in its own transaction; jobs and models add them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, digests: Collection[str]) -> dict[str, str]:
        """Path of each of these that is kept already."""
        found: dict[str, str] = {}
        with self._database.reading() as connection:
            for chunk in chunks(digests):
                found.update(connection.execute(_PATHS, {"digests": chunk}).all())
        return found

    def relocate(self, sha256: str, path: str) -> None:
        """Note that the bytes of a digest lie elsewhere now."""
        change = update(FileRow).where(FileRow.sha256 == sha256).values(path=path)
        with self._database.transaction() as session:
            session.execute(change)

    def unused(self, created_before: datetime) -> Iterator[FileLocation]:
        """Files that nothing needs, of those kept since before this time."""
        return self._all(FileRow.created_at < created_before, ~_is_needed())

    def paths(self) -> Iterator[str]:
        """Where every file lies."""
        return (file.path for file in self._all())

    def forget(self, sha256: str) -> bool:
        """Delete a file's row unless something needs it; whether so, and its bytes may go."""
        change = delete(FileRow).where(FileRow.sha256 == sha256, ~_is_needed())
        try:
            with self._database.transaction() as session:
                return session.connection().execute(change).rowcount == 1
        except IntegrityError:  # it was taken while we waited for that transaction
            return False

    def _all(self, *conditions: ColumnElement[bool]) -> Iterator[FileLocation]:
        """In order of digest, page by page, so that no transaction outlives one."""
        query = select(FileRow).where(*conditions).order_by(FileRow.sha256).limit(PAGE)
        last = ""
        while True:
            with self._database.transaction() as session:
                rows = session.scalars(query.where(FileRow.sha256 > last)).all()
            yield from (FileLocation(row.sha256, row.path, row.size_bytes) for row in rows)
            if len(rows) < PAGE:
                return
            last = rows[-1].sha256


def keep(
    session: Session, job_id: str, files: Sequence[FileLocation], created_at: datetime
) -> None:
    """Have a job need files, within the transaction that adds it.

    Raises:
        FileGone: a file does not lie where the caller says.
    """
    hold(session, files, created_at)
    uses = [{"job_id": job_id, "sha256": sha256} for sha256 in sorted({f.sha256 for f in files})]
    if uses:
        session.connection().execute(insert(session, JobFileRow), uses)


def hold(session: Session, files: Sequence[FileLocation], created_at: datetime) -> None:
    """See that files have rows, and that these stay until the transaction ends.

    Raises:
        FileGone: a file does not lie where the caller says.
    """
    by_digest = {file.sha256: file for file in files}
    in_order = [by_digest[digest] for digest in sorted(by_digest)]  # so that nobody deadlocks
    brought = [_values(file, created_at) for file in in_order if not file.is_known]
    if brought:
        session.connection().execute(insert(session, FileRow).on_conflict_do_nothing(), brought)
    paths: dict[str, str] = {}
    for chunk in chunks(list(by_digest)):
        paths.update(session.connection().execute(_HELD, {"digests": chunk}).all())
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


def _is_needed() -> ColumnElement[bool]:
    return or_(
        exists().where(JobFileRow.sha256 == FileRow.sha256),
        exists().where(ModelFileRow.sha256 == FileRow.sha256),
    )
