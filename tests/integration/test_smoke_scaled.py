"""The scaled service works at all; the same tests as for the embedded one run with the heavy."""

import numpy as np
from safetensors.numpy import load

PROGRAMS = ["scheduler", "worker", "controller", "api"]


def test_scaled_service_compresses(cluster, model, weights):
    before = set(cluster.store.list(""))  # of other tests, with which the service is shared
    job = cluster.succeeded(cluster.submit(model, "tiny.safetensors"))
    artifact = load(cluster.artifact(job["id"]))
    np.testing.assert_array_equal(artifact["encoder.0.bias"], weights["encoder.0.bias"])
    assert artifact["encoder.0.weight.lut"].shape == (4, 1, 16, 1)
    assert cluster.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert set(cluster.store.list("")) <= before
    assert list(cluster.programs) == PROGRAMS
