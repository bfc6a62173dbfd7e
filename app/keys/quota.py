"""Quotas of owners: current usage and limits."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, bindparam, func, select, union
from sqlalchemy.orm import Session

from palettery.app.database.engine import insert
from palettery.app.database.tables import (
    ConfigRow,
    FileRow,
    JobFileRow,
    JobRow,
    ModelFileRow,
    OwnerRow,
    UploadRow,
)
from palettery.app.errors import OverQuota
from palettery.schemas.jobs import ACTIVE_STATES
from palettery.schemas.keys import OwnerLimits, Usage

_COUNT_QUEUED_JOBS = select(func.count()).where(
    JobRow.owner == bindparam("owner"), JobRow.state.in_(ACTIVE_STATES)
)


@contextmanager
def within_limits(session: Session, owner: str, limits: OwnerLimits) -> Iterator[None]:
    """Check an owner's limits after the block, which adds jobs or uploads.

    The owner's row is locked until the transaction ends, so that concurrent requests cannot exceed
    the limits together. Lock it before everything else in the transaction.

    Raises:
        OverQuota: a limit is exceeded; roll back.
    """
    if limits.queued_jobs is None and limits.stored_bytes is None:
        yield
        return
    statement = insert(session, OwnerRow)
    upsert = statement.on_conflict_do_update(
        index_elements=[OwnerRow.name], set_={"name": statement.excluded.name}
    )
    session.connection().execute(upsert, {"name": owner})  # locks the row
    yield
    session.flush()
    _check_usage(session, owner, limits, additional=0)


def check_room(session: Session | Connection, owner: str, limits: OwnerLimits) -> None:
    """Check that an owner has not reached a limit, before more bytes are received.

    Raises:
        OverQuota: a limit is reached.
    """
    _check_usage(session, owner, limits, additional=1)


def usage(session: Session, owner: str) -> Usage:
    """Return an owner's usage."""
    return Usage(
        queued_jobs=_queued_jobs(session, owner), stored_bytes=_stored_bytes(session, owner)
    )


def _check_usage(
    session: Session | Connection, owner: str, limits: OwnerLimits, additional: int
) -> None:
    """Check that the usage plus `additional` jobs or bytes is within the limits."""
    for allowed, count, unit, remedy in (
        (limits.queued_jobs, _queued_jobs, "jobs that have not ended", "wait, or cancel some"),
        (limits.stored_bytes, _stored_bytes, "stored bytes", "delete models, uploads or jobs"),
    ):
        if allowed is not None and (used := count(session, owner) + additional) > allowed:
            raise OverQuota(
                f"{owner} would have {used:,} {unit}; {allowed:,} are allowed: {remedy}"
            )


def _queued_jobs(session: Session | Connection, owner: str) -> int:
    return session.scalar(_COUNT_QUEUED_JOBS, {"owner": owner}) or 0


def _stored_bytes(session: Session | Connection, owner: str) -> int:
    files = union(
        select(JobFileRow.sha256).join(JobRow).where(JobRow.owner == owner),
        select(ModelFileRow.sha256).where(ModelFileRow.owner == owner),
    )
    sums = (
        select(func.sum(FileRow.size_bytes)).where(FileRow.sha256.in_(files)),
        select(func.sum(JobRow.stored_bytes)).where(JobRow.owner == owner),
        select(func.sum(ConfigRow.size_bytes)).where(ConfigRow.owner == owner),
        select(func.sum(UploadRow.missing_bytes)).where(
            UploadRow.owner == owner, UploadRow.model_id.is_(None)
        ),
    )
    return sum(int(session.scalar(query) or 0) for query in sums)
