"""Which jobs a page of an owner's list holds."""

from collections.abc import Collection
from typing import Any, get_args

from sqlalchemy import CompoundSelect, Select, select, union_all

from palettery.app.database.tables import JobRow
from palettery.schemas.jobs import JobState

ROW = JobRow.__table__


def newest(
    owner: str,
    limit: int,
    before: str | None,
    states: Collection[JobState] = (),
    model_id: str | None = None,
) -> Select[Any]:
    """An owner's jobs in these states, if any are named, made of that model, if one is named.

    Newest first, older than the one with the id `before`; ids go by time. Each state is asked for
    alone, since an index holds its jobs in this order: however many there are, none is sorted.
    """
    own = select(ROW.c.id).where(ROW.c.owner == owner).order_by(ROW.c.id.desc()).limit(limit)
    if before is not None:
        own = own.where(ROW.c.id < before)
    if model_id is not None:
        own = own.where(ROW.c.model_id == model_id)
    ids: Select[Any] | CompoundSelect[Any] = own
    if states or model_id is not None:
        asked = dict.fromkeys(states or get_args(JobState))
        each = [own.where(ROW.c.state == state).subquery() for state in asked]
        ids = union_all(*(select(one.c.id) for one in each))
    return select(ROW).where(ROW.c.id.in_(ids)).order_by(ROW.c.id.desc()).limit(limit)
