"""Sensitivities and strict requests over HTTP, on a real server."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from palettery import kernels
from palettery.app.client import Client
from palettery.app.errors import InvalidSensitivities, StrictViolation
from palettery.schemas.report import Report
from tests.integration.handed_over import hand_over

JOB_ID = "01890a5d-ac96-774b-bcce-b302099a8059"
W4 = kernels.PaletteSettings(4, group_size=16, rounding_precision=4)


@pytest.fixture(scope="module")
def sensitivities(weights):
    rng = np.random.default_rng(8)
    return {
        name: rng.gamma(0.3, size=array.shape).astype(np.float32)
        for name, array in weights.items()
        if name.endswith("weight")
    }


@pytest.fixture(scope="module")
def client(server):
    with Client(str(server.http.base_url)) as client:
        yield client


@pytest.fixture
def files(tmp_path, model):
    """A function: sensitivities -> the model's file and theirs."""

    def write(given):
        (tmp_path / "m.safetensors").write_bytes(model)
        (tmp_path / "s.safetensors").write_bytes(save(given))
        return [tmp_path / "m.safetensors"], [tmp_path / "s.safetensors"]

    return write


@pytest.fixture
def done(server, client, files, sensitivities):
    """A job with sensitivities that succeeded."""
    paths, beside = files(sensitivities)
    job = client.submit(paths, preset="w4", sensitivities=beside)
    ended = server.ended(job.id)
    assert ended["state"] == "succeeded", ended
    return ended


@pytest.mark.scaled
def test_palettes_are_those_of_the_kernel_with_the_sensitivities(
    server, done, weights, sensitivities
):
    report = Report.model_validate_json(server.http.get(done["links"]["report"]).content)
    stored = load(server.http.get(done["links"]["artifact"]).content)
    assert {tensor.name for tensor in report.tensors if tensor.weighted} == sensitivities.keys()
    assert [warning for warning in report.warnings if "inferred" not in warning] == []
    for name, sensitivity in sensitivities.items():
        palette = kernels.palettize(weights[name], W4, sensitivity)
        assert stored[f"{name}.lut"].tobytes() == palette.lut.tobytes()
        assert stored[f"{name}.indices"].tobytes() == kernels.pack(palette.indices, 4).tobytes()
    assert server.leftovers() == []


@pytest.mark.heavy
def test_job_taken_up_on_another_server_gives_the_same_bytes(server, serve, done, tmp_path):
    """A job of which only what was accepted exists: nothing has run, no workflow knows it."""
    artifact = server.http.get(done["links"]["artifact"]).content
    hand_over(server.store, done["id"], tmp_path / "data", JOB_ID)
    with serve(tmp_path / "data") as second:
        ended = second.ended(JOB_ID)
        assert ended["state"] == "succeeded", ended
        assert second.http.get(ended["links"]["artifact"]).content == artifact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.0.wieght": np.ones((64, 96), np.float32)}, "did you mean encoder.0.weight"),
        ({"encoder.0.weight": np.ones((96, 64), np.float32)}, "shape [96, 64], the tensor [64, 96"),
        ({"encoder.0.weight": np.ones((64, 96), np.int32)}, "dtype I32; F16, BF16, F32, F64"),
    ],
    ids=["name", "shape", "dtype"],
)
def test_sensitivities_that_do_not_fit_are_refused_at_once(server, client, files, change, message):
    paths, beside = files(change)
    before = list(client.jobs())
    for ask in (client.submit, client.plan):
        with pytest.raises(InvalidSensitivities) as caught:
            ask(paths, preset="w4", sensitivities=beside)
        (field,) = caught.value.errors
        assert field.pointer == f"/sensitivities/{next(iter(change))}"
        assert message in field.detail
    assert list(client.jobs()) == before
    assert server.leftovers() == []


@pytest.mark.parametrize("value", [np.nan, -1.0], ids=["nan", "negative"])
def test_a_value_that_is_no_sensitivity_fails_the_job(server, client, files, sensitivities, value):
    bad = {name: array.copy() for name, array in sensitivities.items()}
    bad["encoder.1.weight"][7, 3] = value
    paths, beside = files(bad)
    ended = server.ended(client.submit(paths, preset="w4", sensitivities=beside).id)
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "invalid_sensitivities"
    assert ended["error"]["status"] == 422
    assert ended["error"]["detail"].startswith("encoder.1.weight: sensitivities must be finite")
    assert "submit again" in ended["error"]["detail"]
    assert server.store.list(f"jobs/{ended['id']}/artifact") == []


def test_plan_tells_what_is_weighted(server, client, files, sensitivities):
    paths, beside = files({"encoder.0.weight": sensitivities["encoder.0.weight"]})
    plan = client.plan(paths, preset="w4", sensitivities=beside)
    assert {tensor.name for tensor in plan.tensors if tensor.weighted} == {"encoder.0.weight"}
    *_, warning = plan.warnings
    assert "encoder.1.weight" in warning
    assert plan.sensitivities_sha256.keys() == {"s.safetensors"}
    assert server.leftovers() == []


UNFIT = {
    "kmeans_palettization_config": {
        "global_config": {
            "op_state_spec": {
                "weight": {
                    "n_bits": 4,
                    "granularity": {"type": "per_grouped_channel", "group_size": 48, "axis": 0},
                }
            }
        },
        "module_name_configs": {"decoder": None},
    }
}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_strict_refuses_what_cannot_all_be_done(server, model, path):
    def ask(strict):
        return server.http.post(
            path,
            files=[("model", ("m.safetensors", model))],
            data={"config": json.dumps(UNFIT), "strict": strict},
        )

    answer = ask("true")
    assert answer.status_code == 422, answer.text
    document = answer.json()
    assert document["code"] == "strict_violation"
    assert [field["pointer"] for field in document["errors"]] == [
        "/module_name_configs/decoder",
        "/global_config/op_state_spec/weight",
    ]
    unfit = document["errors"][1]["detail"]
    assert unfit.startswith("encoder.0.weight [64, 96] cannot")
    assert "group_size 48 does not divide axis 0 of length 64" in unfit
    assert server.leftovers() == []
    assert ask("false").is_success


def test_strict_is_true_or_false(server, model):
    answer = server.http.post(
        "/v1/plans",
        files=[("model", ("m.safetensors", model))],
        data={"preset": "w4", "strict": "yes"},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_upload")
    assert "send true or false" in answer.json()["detail"]
    assert server.leftovers() == []


def test_client_raises_what_the_server_says(client, files):
    paths, _ = files({})
    with pytest.raises(StrictViolation, match="1 config key matches nothing, and 1 tensor cannot"):
        client.submit(paths, config=json.dumps(UNFIT), strict=True)
