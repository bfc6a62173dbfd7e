"""The database dies or is away, and what is promised beside it."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from palettery.schemas.problem import Problem
from tests.faults.invariants import check_result, job_ids, watched
from tests.integration.service import DEADLINE_S, PALETTERY, measured, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.heavy


def kill(postgres):
    """Kill -9 of the database server and of all that it started."""
    leader = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(leader)], capture_output=True, text=True, check=True
    )
    os.kill(leader, signal.SIGSTOP)  # or it would end them in its own way
    for pid in [*map(int, children.stdout.split()), leader]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{leader}").exists(), "Postgres is dead")


def test_killed_database_costs_no_finished_part(service_of, postgres, slow):
    """kill -9 of Postgres, then its restart: the job goes on, no part is done again."""
    service = service_of("scaled")
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        kill(postgres)
        try:
            away = service.http.get(f"/v1/jobs/{job_id}")
            assert (away.status_code, away.json()["code"]) == (503, "database_failed")
            ready = service.http.get("/readyz")
            assert ready.status_code == 503
            assert "/database" in [field["pointer"] for field in ready.json()["errors"]]
            assert service.http.get("/livez").is_success
        finally:
            postgres.start()
        check_result(service, job_id, slow.sha256, before)
        for program in service.programs.values():
            program.check_running()


def test_submit_without_a_database_is_refused_or_kept(service_of, postgres, new):
    """A job that comes in while Postgres dies is refused as a problem, or runs; never half."""
    service = service_of("scaled")
    with watched(service) as watch:
        answers, before, known = [], set(service.store.list("uploads")), job_ids(service)

        def submit():
            files, data = {"model": ("big.safetensors", new.body)}, {"config": new.config}
            with httpx.Client(base_url=service.http.base_url, timeout=DEADLINE_S) as http:
                answers.append(http.post("/v1/jobs", files=files, data=data))

        submitting = threading.Thread(target=submit)
        submitting.start()
        service.wait_until(
            lambda: set(service.store.list("uploads")) - before, "the upload has come in"
        )
        kill(postgres)
        try:
            submit()
            submitting.join()
        finally:
            postgres.start()
        service.wait_until(lambda: service.http.get("/readyz").is_success, "it is ready again")
        listed = job_ids(service) - known
        for answer in answers:
            if answer.status_code == 202:
                assert answer.json()["id"] in listed
            else:
                outcome = Problem.model_validate_json(answer.content)
                assert (answer.status_code, outcome.code) == (503, "database_failed")
        assert len(answers) == 2
        assert any(answer.status_code == 503 for answer in answers)
        for job_id in listed:
            watch.seen[job_id] = []
            check_result(service, job_id, new.sha256)


def test_second_controller_of_one_name_refuses_to_start(service_of, little):
    """Two controllers with one executor id: the second ends with 2 and one line, the first works.

    Once the first was killed, its lock is free for the next.
    """
    service = service_of("scaled")
    with watched(service) as watch:
        first = service.programs["controller"]
        second = subprocess.run(
            [PALETTERY, "serve", "--role", "controller", "--port", str(free_port())],
            env=first.all_environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert second.returncode == 2, second
        (line,) = second.stderr.strip().splitlines()
        assert "another process runs jobs as 'controller-0'" in line
        check_result(service, watch.submit(little.body, config=little.config), little.sha256)
        first.kill()
        service.start()
