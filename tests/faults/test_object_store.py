"""The object store fails, refuses or stalls for 20 s, between any two requests of a job."""

from dataclasses import replace

import pytest

from tests import fault_proxy as faults
from tests.faults.conftest import TASKS
from tests.faults.invariants import check_result, outlast, watched
from tests.integration.cluster import scaled
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

AWAY_S = 20


@pytest.mark.parametrize(
    "behaviour",
    [faults.Unavailable(), faults.Refuse(), faults.Stall(), faults.Cut(after_bytes=100_000)],
    ids=["503", "refused", "stalled", "cut"],
)
def test_store_that_is_away_is_waited_for(
    tmp_path, postgres, object_store, fault_proxy, slow, behaviour
):
    """Every process meets the fault for 20 s; the job succeeds, and no part is done again."""
    behind = replace(object_store, endpoint=fault_proxy.endpoint)
    with (
        scaled(tmp_path / "cluster", postgres, object_store, reached_by=behind, **TASKS) as service,
        watched(service) as watch,
    ):
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        fault_proxy.behave(behaviour)
        outlast(AWAY_S)
        if not isinstance(behaviour, faults.Refuse):
            assert fault_proxy.faults
        fault_proxy.behave(faults.Pass())
        check_result(service, job_id, slow.sha256, before)
