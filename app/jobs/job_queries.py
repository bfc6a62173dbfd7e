"""SQL statements on job rows; constant ones are built once: building takes longer than running."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import (
    CompoundSelect,
    Select,
    bindparam,
    func,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute, aliased

from palettery.app.database.tables import JobRow
from palettery.schemas.jobs import ACTIVE_STATES, LISTED_KINDS, RETRYABLE_STATES, JobState, Progress

ROW = JobRow.__table__
_THIS_JOB = aliased(JobRow)

TWIN = (
    select(JobRow.id)
    .join(_THIS_JOB, JobRow.request_sha256 == _THIS_JOB.request_sha256)
    .where(_THIS_JOB.id == bindparam("own"), JobRow.owner == _THIS_JOB.owner)
    .where(JobRow.state == "succeeded", JobRow.id != bindparam("own"))
    .order_by(JobRow.id.desc())
    .limit(1)
)
"""The newest other job of the owner that has succeeded with the same request."""
QUEUED_BEFORE = select(func.count()).where(
    JobRow.state == "queued", JobRow.turn <= bindparam("last"), JobRow.id != bindparam("own")
)
"""Number of queued jobs that run before a job."""
ACTIVE_SCORES_JOB = (
    select(ROW)
    .where(ROW.c.request_sha256 == bindparam("digest"), ROW.c.owner == bindparam("by"))
    .where(ROW.c.kind == "scores", ROW.c.state.in_(ACTIVE_STATES))
    .limit(1)
)
"""An active job of the owner that computes the same scores."""
_NO_PROGRESS = Progress().model_dump(exclude={"tensors_total", "bytes_total"})
RETRY = (
    update(JobRow)
    .where(JobRow.id == bindparam("own"), JobRow.state.in_(RETRYABLE_STATES))
    .values(
        state="queued",
        attempt=JobRow.attempt + 1,
        error=null(),
        size_after_bytes=null(),
        **_NO_PROGRESS,
    )
    .values(turn=bindparam("new_turn"))
    .values(started_at=None, ended_at=None, deadline_at=None, expires_at=None)
    .returning(ROW)
)


def page_query(
    owner: str,
    limit: int,
    before: str | None,
    states: Collection[JobState] = (),
    model_id: str | None = None,
) -> Select[Any]:
    """Return the query of an owner's jobs, newest first, older than the one with the id `before`.

    `states` and `model_id` filter them. Ids are ordered by time. Each state has a subquery of its
    own, which an index answers in this order: however many jobs there are, none is sorted.
    """
    own = select(ROW.c.id).where(ROW.c.owner == owner, ROW.c.kind.in_(LISTED_KINDS))
    own = own.order_by(ROW.c.id.desc()).limit(limit)
    if before is not None:
        own = own.where(ROW.c.id < before)
    if model_id is not None:
        own = own.where(ROW.c.model_id == model_id)
    ids: Select[Any] | CompoundSelect[Any] = own
    if states or model_id is not None:
        each = [
            own.where(ROW.c.state == state).subquery()
            for state in dict.fromkeys(states or get_args(JobState))
        ]
        ids = union_all(*(select(one.c.id) for one in each))
    return select(ROW).where(ROW.c.id.in_(ids)).order_by(ROW.c.id.desc()).limit(limit)


def past_query(
    time: InstrumentedAttribute[datetime | None], states: Collection[JobState], now: datetime
) -> Select[str]:
    """Return the query of the ids of jobs in these states for which a time has passed."""
    return select(JobRow.id).where(time < now, JobRow.state.in_(states)).order_by(JobRow.id)
