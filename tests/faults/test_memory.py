"""A task that takes more memory than its worker has."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from tests.faults.conftest import SLOW
from tests.faults.invariants import check_result, watched

pytestmark = pytest.mark.heavy

HUGE = (16_384, 4_096)
"""The workers of `conftest.py` have 600 MiB each."""


@pytest.fixture(scope="module")
def huge() -> bytes:
    """One tensor of 256 MiB; with one palette it is one task, which takes more than that."""
    rng = np.random.default_rng(4)
    row = rng.normal(size=HUGE[1]).astype(np.float32)
    return save({"fine.weight": row[None, :] * 2, "huge.weight": np.tile(row, (HUGE[0], 1))})


def test_task_that_is_too_large_fails_its_job_alone(embedded, huge, slow, little):
    """The job fails and names the tensor; one beside it succeeds, and so does the next."""
    spec = {"op_state_spec": {"weight": SLOW}, "enable_fast_kmeans_mode": False}
    config = json.dumps({"kmeans_palettization_config": {"global_config": spec}})
    service = embedded
    service.start()
    with watched(service) as watch:
        beside = watch.submit(slow.body, config=slow.config)
        too_large = watch.submit(huge, config=config)
        job = service.ended(too_large)
        assert job["state"] == "failed", job
        assert job["error"]["code"] in ("worker_died", "out_of_memory")
        assert "huge.weight" in job["error"]["detail"]
        check_result(service, beside, slow.sha256)
        after = watch.submit(little.body, config=little.config)
        check_result(service, after, little.sha256)
