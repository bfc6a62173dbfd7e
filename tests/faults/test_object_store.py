"""The object store fails, refuses or stalls for a while, between any two requests of a job."""

import pytest

from tests import fault_proxy as faults
from tests.faults.invariants import check_result, outlast, watched
from tests.integration.service import measured

pytestmark = pytest.mark.heavy

AWAY_S = 5
"""How long work is tried again is a test of `app/storage`: `test_bucket_outages.py`."""


@pytest.mark.parametrize(
    "behaviour",
    [faults.Unavailable(), faults.Refuse(), faults.Stall(), faults.Cut(after_bytes=100_000)],
    ids=["503", "refused", "stalled", "cut"],
)
def test_store_that_is_away_is_waited_for(service_of, store_proxy, slow, behaviour):
    """Every process meets the fault for 5 s; the job succeeds, and no part is done again."""
    service = service_of("scaled")
    with watched(service) as watch:
        job_id = watch.submit(slow.body, config=slow.config)
        service.some_parts(job_id)
        before = measured(service, job_id)
        store_proxy.behave(behaviour)
        outlast(AWAY_S)
        if not isinstance(behaviour, faults.Refuse):
            assert store_proxy.faults
        store_proxy.behave(faults.Pass())
        check_result(service, job_id, slow.sha256, before)
