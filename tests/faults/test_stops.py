"""Processes that are asked to stop while a job runs."""

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.faults.invariants import check_result, job_ids, watched
from tests.faults.rows import rows_held
from tests.integration.service import DEADLINE_S, measured

pytestmark = pytest.mark.heavy


def by_sigterm(service):
    """As a supervisor does it, one role after the other."""
    assert set(service.stop().values()) == {0}


def by_ctrl_c(service):
    """As a terminal does it: every process gets the signal, all at once."""
    for program in service.programs.values():
        program.send(signal.SIGINT)
    for program in service.programs.values():
        program.process.wait(timeout=DEADLINE_S)


@pytest.mark.parametrize("kind", ["embedded", "scaled"])
@pytest.mark.parametrize("stop", [by_sigterm, by_ctrl_c])
def test_stopped_service_goes_on_later(service_of, slow, stop, kind):
    """Every role ends soon, says nothing, leaves no process; the job goes on with its parts."""
    service = service_of(kind)
    with watched(service) as watch:
        said = {name: len(program.complaints()) for name, program in service.programs.items()}
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        stop(service)
        service.wait_until(lambda: not service.processes(), "every process has ended")
        before = measured(service, job_id)
        for name, program in service.programs.items():
            assert program.complaints()[said[name] :] == []
        service.start()
        check_result(service, job_id, slow.sha256, before)


def test_request_that_is_given_up_while_its_job_is_queued(service_of, new):
    """A server that stops gives the request up, but not the job that it may have queued."""
    service = service_of("scaled")
    with watched(service) as watch:
        api, before = service.programs["api"], set(service.store.list("jobs"))
        known = job_ids(service)
        with ThreadPoolExecutor(1) as sender:
            with rows_held(service.database_url):
                request = sender.submit(service.submit, new.body, config=new.config)
                service.wait_until(
                    lambda: set(service.store.list("jobs")) - before, "the job's files are there"
                )
                api.process.send_signal(signal.SIGTERM)
                error = request.exception()
            assert isinstance(error, AssertionError | httpx.TransportError)
        assert api.process.wait(timeout=DEADLINE_S) == 0
        service.start()
        (job_id,) = job_ids(service) - known
        watch.seen[job_id] = []
        check_result(service, job_id, new.sha256)
