"""The result cache: nothing is computed twice, unless requested."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

BITS = {"first.*": 4, "second.*": 4}


def config(bits):
    def module(n_bits):
        return {"op_state_spec": {"weight": {"n_bits": n_bits}}}

    names = {name: module(n_bits) for name, n_bits in bits.items()}
    return json.dumps({"kmeans_palettization_config": {"module_name_configs": names}})


@pytest.fixture
def arrays(request):
    """Tensors of the test's own, too many to be done in one task."""
    rng = np.random.default_rng(abs(hash(request.node.name)) % 2**32)
    shape = (1024, 512)
    return {
        f"{side}.{number}.weight": rng.normal(size=shape).astype(np.float32)
        for side in ("first", "second")
        for number in range(2)
    }


def reused(server, job_id):
    """Names of the tensors whose result was there; the job's progress says how many."""
    job = server.succeeded(job_id)
    names = {tensor["name"] for tensor in server.report(job_id)["tensors"] if tensor["reused"]}
    assert job["progress"]["tensors_reused"] == len(names)
    return names


def kernel_seconds(server, job_id):
    return {tensor["name"]: tensor["seconds"] for tensor in server.report(job_id)["tensors"]}


@pytest.mark.scaled
def test_the_very_same_job_computes_nothing(server, arrays):
    body = save(arrays)
    first = server.submit(body, config=config(BITS))
    assert reused(server, first) == set()
    second = server.submit(body, config=config(BITS))
    assert reused(server, second) == arrays.keys()
    assert server.artifact(second) == server.artifact(first)
    assert kernel_seconds(server, second) == kernel_seconds(server, first)


def test_tensors_are_known_in_another_file(server, arrays):
    first = server.submit(save(arrays), config=config(BITS))
    server.succeeded(first)
    more = {"first.9.weight": np.eye(64, dtype=np.float32)}
    second = server.submit(save(arrays | more), "other.safetensors", config=config(BITS))
    assert reused(server, second) == arrays.keys()
    known, made = (load(server.artifact(job_id)) for job_id in (first, second))
    assert all((made[name] == known[name]).all() for name in known)


def test_changed_rule_recomputes_what_it_touches(server, arrays):
    body = save(arrays)
    first = server.submit(body, config=config(BITS))
    server.succeeded(first)
    second = server.submit(body, config=config(BITS | {"second.*": 6}))
    assert reused(server, second) == {name for name in arrays if name.startswith("first.")}
    third = server.submit(body, config=config(BITS | {"second.*": 6}), reuse="false")
    assert reused(server, third) == set()
    assert server.artifact(third) == server.artifact(second), "a known result is the same result"


def test_reuse_can_be_switched_off_by_a_request(server, arrays):
    body = save(arrays)
    server.succeeded(server.submit(body, config=config(BITS)))
    job_id = server.submit(body, config=config(BITS), reuse="false")
    assert reused(server, job_id) == set()
    assert server.job(job_id)["reuse"] is False


@pytest.mark.heavy
def test_reuse_can_be_switched_off_for_all(one_at_a_time, arrays):
    for _ in range(2):
        job_id = one_at_a_time.submit(save(arrays), config=config(BITS))
        assert reused(one_at_a_time, job_id) == set()


def test_deleted_job_costs_its_followers_only_time(server, arrays):
    body = save(arrays)
    first = server.submit(body, config=config(BITS))
    server.succeeded(first)
    expected = server.artifact(first)
    assert server.http.delete(f"/v1/jobs/{first}").status_code == 204
    second = server.submit(body, config=config(BITS))
    server.succeeded(second)
    assert not any(tensor["reused"] for tensor in server.report(second)["tensors"])
    assert server.artifact(second) == expected


def test_results_deleted_behind_our_back_are_computed_again(server, arrays):
    """As when a job is deleted between the look for its results and the task that takes them."""
    body = save(arrays)
    first = server.submit(body, config=config(BITS))
    server.succeeded(first)
    expected = server.artifact(first)
    server.store.delete_folder(f"jobs/{first}/artifact")
    second = server.submit(body, config=config(BITS))
    server.succeeded(second)
    assert not any(tensor["reused"] for tensor in server.report(second)["tensors"])
    assert server.artifact(second) == expected
