"""Jobs in every state, for tests of their rows."""

import itertools
from datetime import UTC, datetime, timedelta

from palettery.app.errors import StorageFull, problem
from palettery.app.jobs.job_rows import NewJob
from palettery.schemas.jobs import Progress

numbers = itertools.count()
NOW = datetime(2026, 5, 6, 7, 8, 9, 101112, UTC)
HOUR = timedelta(hours=1)
WORK = Progress(tensors_total=3, bytes_total=1 << 40)
WHY = problem(StorageFull("the store is full"))
ENDS = {
    "succeeded": lambda records, job_id, until=None: records.succeed(job_id, 7, until),
    "failed": lambda records, job_id, until=None: records.fail(job_id, WHY, until),
    "cancelled": lambda records, job_id, until=None: records.cancel(job_id, until),
}


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


def add(records, files=(), enqueue=None, **chosen):
    new = NewJob(new_id(), "m.safetensors", 1 << 40, WORK, **chosen)
    return records.add(new, files, enqueue).id


def ended(records, state, expires_at=None, **chosen):
    job_id = add(records, **chosen)
    if state != "cancelled":
        assert records.start(job_id)
    assert ENDS[state](records, job_id, expires_at)
    return job_id
