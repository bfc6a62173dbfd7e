"""A crash between the artifact's publication and the row's update."""

import pytest

from tests.fault_proxy import Refuse
from tests.faults.invariants import check_result, watched
from tests.faults.rows import rows_held

pytestmark = pytest.mark.heavy


def begun(service, job_id):
    """Wait until the job runs: one so small writes nothing to its row before it is through."""
    service.wait_until(lambda: service.job(job_id)["state"] != "queued", "the job runs")


def artifacts(service, job_id):
    """Path, size and time of what was published."""
    folder = f"jobs/{job_id}"
    return {
        (result.path, result.size_bytes, result.modified_at)
        for result in service.store.list_objects(folder)
        if result.path.startswith((f"{folder}/artifact", f"{folder}/report"))
    }


@pytest.mark.parametrize("kind", ["embedded", "scaled"])
def test_published_artifact_is_found_again(service_of, little, kind):
    """kill -9 of all after publication: the job succeeds with that very file, written once.

    Until the row says so, the artifact cannot be had.
    """
    service = service_of(kind)
    with watched(service) as watch:
        job_id = watch.submit(little.body, config=little.config)
        begun(service, job_id)
        with rows_held(service.database_url):
            report = f"jobs/{job_id}/report.json"
            service.wait_until(lambda: service.store.exists(report), "the artifact is published")
            assert service.job(job_id)["state"] == "running"
            assert service.http.get(f"/v1/jobs/{job_id}/artifact").status_code == 409
            service.kill_all()
            before = artifacts(service, job_id)
        service.start()
        check_result(service, job_id, little.sha256)
        assert artifacts(service, job_id) == before


def test_crash_behind_the_rows_update_leaves_no_parts(service_of, little, fault_proxy):
    """The controller dies between the row's update and the removal of the parts.

    The job has succeeded, and stays so; the next controller removes what it has no use for.
    """
    service = service_of("scaled")
    with watched(service) as watch:
        controller = service.programs["controller"]
        assert controller.stop() == 0
        controller.start(AWS_ENDPOINT_URL=fault_proxy.endpoint)
        service.wait_until(service.is_ready, "the controller is ready")
        job_id = watch.submit(little.body, config=little.config)
        begun(service, job_id)
        with rows_held(service.database_url):
            report = f"jobs/{job_id}/report.json"
            service.wait_until(lambda: service.store.exists(report), "the artifact is published")
            fault_proxy.behave(Refuse())
        service.succeeded(job_id)
        assert service.parts(job_id)
        controller.kill()
        service.start()
        service.wait_until(lambda: not service.parts(job_id), "the parts are removed")
        check_result(service, job_id, little.sha256)
