"""Processes that die at once, or stand still, while a job runs."""

import os
import signal

import pytest

from tests.faults.invariants import check_result, outlast, watched
from tests.integration.service import cpu_ticks, measured, workers

pytestmark = pytest.mark.heavy

STOPPED_S, START_S = 6, 16
"""Dask by itself gives up a worker whose restart takes 15 s."""


def busiest(service):
    """The process that palettizes the most."""
    return max(workers(service), key=cpu_ticks)


def a_worker(service):
    os.kill(busiest(service), signal.SIGKILL)


def all_at_once(service):
    service.kill_all()


def group_of(name):
    """A program and all that it started."""

    def kill(service):
        service.programs[name].kill()

    return kill


def alone(name):
    """A program whose children are left to themselves."""

    def kill(service):
        service.programs[name].kill_leader()

    return kill


KILLS = {
    "embedded-worker": a_worker,
    "embedded-all": all_at_once,
    "embedded-server": alone("serve"),
    "scaled-worker": a_worker,
    "scaled-nanny": alone("worker"),
    "scaled-workers": group_of("worker"),
    "scaled-controller": group_of("controller"),
    "scaled-scheduler": group_of("scheduler"),
    "scaled-api": group_of("api"),
    "scaled-all": all_at_once,
}


@pytest.mark.parametrize("what", KILLS)
def test_killed_process_costs_no_finished_part(service_of, slow, what):
    """kill -9, then a supervisor's restart: the job succeeds with the same bytes, no part redone.

    The job's state never goes back; no process outlives its service; nothing is left lying about.
    """
    kind, _ = what.split("-")
    service = service_of(kind)
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        KILLS[what](service)
        service.start()
        check_result(service, job_id, slow.sha256, before)


def test_workers_that_start_slowly_are_waited_for(service_of, slow):
    """All workers die, and those in their place stand still for 16 s: then the job goes on."""
    service = service_of("scaled")
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        dead = workers(service)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        service.wait_until(lambda: len(workers(service) - dead) == len(dead), "others start")
        started = workers(service) - dead
        for pid in started:
            os.kill(pid, signal.SIGSTOP)
        outlast(START_S)
        for pid in started:
            os.kill(pid, signal.SIGCONT)
        check_result(service, job_id, slow.sha256, before)


def test_worker_that_stands_still_is_waited_for(service_of, slow):
    """SIGSTOP of a worker for 6 s: the job goes on without it, or with it once it goes on."""
    service = service_of("scaled")
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        stopped = busiest(service)
        os.kill(stopped, signal.SIGSTOP)
        outlast(STOPPED_S)
        os.kill(stopped, signal.SIGCONT)
        check_result(service, job_id, slow.sha256, before)
