"""Owners take turns on real services: a long queue of one holds up no other."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from tests.integration.conftest import ADMIN_KEY, http_of
from tests.integration.service import SLOW

JOBS = 20
"""Of an owner that has everything done at once."""


@pytest.fixture(scope="module")
def slow_model() -> bytes:
    """Five tensors, each a task of a second or so."""
    rng = np.random.default_rng(6)
    return save({f"{n}.weight": rng.normal(size=(512, 512)).astype(np.float32) for n in range(5)})


def owners(service, stack, *names):
    """The service as owners see it, each with a key of its own."""
    admin = stack.enter_context(http_of(service, ADMIN_KEY))
    for name in names:
        made = admin.post("/v1/keys", json={"owner": name, "name": "test"}).json()
        yield replace(service, http=stack.enter_context(http_of(service, made["secret"])))


@pytest.mark.heavy
def test_small_job_waits_for_one_job_of_another_owners_queue_at_most(service_of, slow_model, model):
    """However many run at once: its tasks get the next workers, too."""
    with ExitStack() as stack:
        service = stack.enter_context(
            service_of(
                PALETTERY_ADMIN_KEY=ADMIN_KEY,
                PALETTERY_RUNNING_JOBS="16",
                PALETTERY_TASK_BYTES=str(1 << 20),
                PALETTERY_REUSE_RESULTS="false",
            )
        )
        greedy, modest = owners(service, stack, "greedy", "modest")
        many = [greedy.submit(slow_model, config=SLOW, priority=9) for _ in range(JOBS)]
        ended_before = {each for each in many if greedy.job(each)["state"] == "succeeded"}
        small = modest.submit(model, priority=0)
        modest.succeeded(small)
        states = {each: greedy.job(each)["state"] for each in many}
        ended = {each for each, state in states.items() if state == "succeeded"} - ended_before
        assert len(ended) <= 2, "one that ran, and one that ended while we looked at the small one"
        assert "queued" in states.values(), "there was a queue to wait in"
        for each in many:
            greedy.http.post(f"/v1/jobs/{each}/cancel")
