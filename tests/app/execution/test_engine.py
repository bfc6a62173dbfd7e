"""Workflows beside rows: both or neither, on every supported database."""

import asyncio
import itertools

import pytest

from palettery.app.errors import Conflict, DeadlineExceeded, problem
from palettery.app.execution.engine import FIRST_PRIORITY, QUEUE, VERSION, WORKFLOW, workflow_id
from palettery.app.jobs.job_rows import NewJob
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import Progress
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

numbers = itertools.count()
WHY = problem(DeadlineExceeded("too late"))


def new_id():
    return f"01890a5d-ac96-774b-bcce-{next(numbers):012x}"


def add(jobs, enqueue, **chosen):
    return jobs.add(NewJob(new_id(), "m", 1, Progress(), **chosen), enqueue=enqueue).id


def states(engine, job_id):
    return engine.workflow_states([(job_id, attempt) for attempt in range(3)])


def refusing(engine):
    """Has the engine start an attempt, then fails within the same transaction."""

    def enqueue(session, *arguments):
        engine.enqueue(session, *arguments)
        raise LookupError

    return enqueue


def test_job_and_its_workflow_come_to_be_together(engine, jobs):
    job_id = add(jobs, engine.enqueue, options=JobOptions(priority=9))
    assert states(engine, job_id) == ["alive", "none", "none"]
    (workflow,) = engine._client.list_workflows()
    assert (workflow.workflow_id, workflow.name, workflow.queue_name) == (
        f"{job_id}-0",
        WORKFLOW,
        QUEUE,
    )
    assert (workflow.app_version, workflow.status) == (VERSION, "ENQUEUED")
    assert list(workflow.input["args"]) == [job_id, 0]
    assert workflow.priority == FIRST_PRIORITY


def test_rollback_leaves_neither_row_nor_workflow(engine, jobs):
    with pytest.raises(LookupError):
        add(jobs, refusing(engine))
    assert jobs.counts() == {}
    assert engine._client.list_workflows() == []


def test_rollback_of_a_retry_leaves_the_job_as_it_was(engine, jobs):
    job_id = add(jobs, engine.enqueue)
    jobs.fail(job_id, WHY)
    before = jobs.get(job_id)
    with pytest.raises(LookupError):
        jobs.retry(job_id, refusing(engine))
    assert jobs.get(job_id) == before
    assert states(engine, job_id) == ["alive", "none", "none"]


def test_each_retry_is_a_workflow_of_its_own(engine, jobs):
    job_id = add(jobs, engine.enqueue)
    for attempt in (0, 1):
        asyncio.run(engine.cancel(job_id, attempt))
        jobs.fail(job_id, WHY)
        assert jobs.retry(job_id, engine.enqueue) == attempt + 1
    assert states(engine, job_id) == ["ended", "ended", "alive"]
    named = {workflow.workflow_id for workflow in engine._client.list_workflows()}
    assert named == {f"{job_id}-0", f"{job_id}-1", f"{job_id}-2"}
    assert workflow_id(job_id, 1) in named
    with pytest.raises(Conflict):
        jobs.retry(job_id, engine.enqueue)


def test_lives_come_in_the_order_asked_for(engine, jobs):
    first, second, third = (add(jobs, engine.enqueue) for _ in range(3))
    asyncio.run(engine.cancel(second, 0))
    attempts = [(third, 0), (second, 0), (new_id(), 0), (first, 0), (first, 1)]
    assert engine.workflow_states(attempts) == ["alive", "ended", "none", "alive", "none"]
    assert engine.workflow_states([]) == []


def test_forget_deletes_the_workflows_of_all_attempts(engine, jobs):
    other, job_id = (add(jobs, engine.enqueue) for _ in range(2))
    asyncio.run(engine.cancel(job_id, 0))
    jobs.fail(job_id, WHY)
    jobs.retry(job_id, engine.enqueue)
    engine.delete_workflows(job_id, 1)
    assert states(engine, job_id) == ["none"] * 3
    assert states(engine, other) == ["alive", "none", "none"]
    engine.delete_workflows(job_id, 1)


def test_enqueue_again_of_a_workflow_that_was_lost(engine, jobs):
    job_id = add(jobs, engine.enqueue)
    jobs.enqueue_again(job_id, engine.enqueue)
    engine.delete_workflows(job_id, 0)
    assert states(engine, job_id) == ["none"] * 3
    jobs.enqueue_again(job_id, engine.enqueue)
    assert states(engine, job_id) == ["alive", "none", "none"]
