"""What owners have, and that they never get more than they may."""

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

_QUEUED = select(func.count()).where(
    JobRow.owner == bindparam("owner"), JobRow.state.in_(ACTIVE_STATES)
)


@contextmanager
def within_limits(session: Session, owner: str, limits: OwnerLimits) -> Iterator[None]:
    """Add jobs and uploads of an owner in the block; it raises if there are too many then.

    Until the transaction ends nobody else adds any for the same owner, so that of many at once no
    more get through than may. It belongs before everything else that the transaction locks.

    Raises:
        OverQuota: says what there is and what may be; roll back.
    """
    if limits.queued_jobs is None and limits.stored_bytes is None:
        yield
        return
    made = insert(session, OwnerRow)
    mine = made.on_conflict_do_update(
        index_elements=[OwnerRow.name], set_={"name": made.excluded.name}
    )
    session.connection().execute(mine, {"name": owner})  # which locks its row
    yield
    session.flush()
    _check(session, owner, limits, room=0)


def check_room(session: Session | Connection, owner: str, limits: OwnerLimits) -> None:
    """See that an owner may add anything at all, before its bytes are taken in.

    Raises:
        OverQuota: says what there is and what may be.
    """
    _check(session, owner, limits, room=1)


def usage(session: Session, owner: str) -> Usage:
    """What an owner has."""
    return Usage(
        queued_jobs=_queued_jobs(session, owner), stored_bytes=_stored_bytes(session, owner)
    )


def _check(session: Session | Connection, owner: str, limits: OwnerLimits, room: int) -> None:
    """What there is and `room` more may be."""
    for allowed, count, unit, remedy in (
        (limits.queued_jobs, _queued_jobs, "jobs that have not ended", "wait for some, or cancel"),
        (limits.stored_bytes, _stored_bytes, "stored bytes", "delete models, uploads or jobs"),
    ):
        if allowed is not None and (used := count(session, owner) + room) > allowed:
            raise OverQuota(
                f"{owner} would have {used:,} {unit}; {allowed:,} are allowed: {remedy}"
            )


def _queued_jobs(session: Session | Connection, owner: str) -> int:
    return session.scalar(_QUEUED, {"owner": owner}) or 0


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
    return sum(int(session.scalar(each) or 0) for each in sums)
