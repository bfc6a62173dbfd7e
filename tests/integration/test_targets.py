"""Targets on a real server: plans, jobs, what is computed once, and what is refused."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from palettery.app.client import Client
from palettery.schemas.report import Report
from palettery.schemas.targets import PlannedJob
from tests.forged import export
from tests.integration.service import PALETTERY

CHOICES = {"n_bits": [1, 2, 4, 8], "granularities": [{"type": "per_tensor"}]}


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {
        f"layers.{number}.weight": rng.normal(size=(64, 48)).astype("f4") for number in range(6)
    }
    return weights | {"norm.bias": rng.normal(size=64).astype("f4")}


@pytest.fixture(scope="module")
def client(server):
    with Client(str(server.http.base_url)) as client:
        yield client


@pytest.fixture(scope="module")
def model_id(client, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_file(tensors(1), path)
    return client.upload(path).id


def log(server, job_id: str) -> list[str]:
    with Client(str(server.http.base_url)) as client:
        return [line.message for line in client.log(job_id)]


@pytest.mark.scaled
def test_a_plan_waits_for_a_job_with_the_scores_once(server, model_id):
    body = {"model_id": model_id, "target": {"size_ratio": 0.2}, "choices": CHOICES}
    first = server.http.post("/v1/plans", json=body)
    assert first.status_code == 202, first.text
    job = first.json()
    assert first.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["target"]) == ("scores", None)
    ended = server.succeeded(job["id"])
    assert ended["links"].keys() == {"self", "model"}
    assert ended["progress"]["tensors_done"] == ended["progress"]["tensors_total"] == 6
    assert server.http.get(f"/v1/jobs/{job['id']}/report").status_code == 409
    for ratio in (0.2, 0.1):
        answer = server.http.post("/v1/plans", json=body | {"target": {"size_ratio": ratio}})
        assert answer.status_code == 200, answer.text
        planned = PlannedJob.model_validate_json(answer.content)
        chosen = planned.allocation
        assert chosen is not None
        assert 0.9 * chosen.target_bytes < chosen.size_bytes <= chosen.target_bytes
        assert not chosen.weighted
        assert "a guess" in chosen.notes[0]
        sizes = [point.size_bytes for point in chosen.curve]
        assert sizes == sorted(sizes)
        assert sizes[0] < chosen.size_bytes < sizes[-1]
        specs = {tensor.name: tensor.spec for tensor in planned.tensors}
        assert all(tensor.spec == specs[tensor.name] for tensor in chosen.tensors)


@pytest.mark.scaled
def test_a_job_chooses_its_config_and_keeps_to_the_size(server, client, model_id):
    predicted = client.plan(model_id, target="0.15x", choices=CHOICES).allocation
    job = client.submit(model_id, target="0.15x", choices=CHOICES)
    ended = server.succeeded(job.id)
    assert ended["target"]["size_ratio"] == 0.15
    assert ended["predicted_size_bytes"] == ended["size_after_bytes"] == predicted.size_bytes
    report = Report.model_validate_json(server.http.get(ended["links"]["report"]).content)
    assert report.allocation == predicted.model_copy(update={"curve": (), "uniform": ()})
    assert client.job_config(job.id) == predicted.config
    artifact = server.http.get(ended["links"]["artifact"]).content
    assert len(artifact) == predicted.size_bytes <= 0.15 * report.size_before_bytes
    specs = {tensor.name: tensor.spec for tensor in report.tensors}
    assert all(tensor.spec == specs[tensor.name] for tensor in predicted.tensors)
    again = client.plan(model_id, config=predicted.config)
    assert {tensor.name: tensor.spec for tensor in again.tensors} == specs
    assert "6 tensors may be changed for the target; 0 to score" in log(server, job.id)


def test_a_form_with_a_target_scores_by_content(server, model_id, client):
    client.plan(model_id, target="0.15x", choices=CHOICES)
    weights = tensors(1) | {"new.weight": np.ones((64, 48), "f4") * np.arange(48, dtype="f4")}
    data = {"target": "0.2x", "choices": json.dumps(CHOICES)}
    files = {"model": ("other.safetensors", save(weights))}
    answer = server.http.post("/v1/jobs", files=files, data=data)
    assert answer.status_code == 202, answer.text
    ended = server.succeeded(answer.json()["id"])
    assert ended["size_after_bytes"] <= 0.2 * ended["size_before_bytes"]
    before = len(list(server.store.list("scores")))
    second = server.http.post("/v1/jobs", files=files, data=data | {"target": "0.3x"})
    server.succeeded(second.json()["id"])
    assert len(list(server.store.list("scores"))) == before


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"target": {"size_bytes": 100}}, "the least that these choices reach is"),
        ({"target": {"size_bytes": 9000, "size_ratio": 0.1}}, "got size_bytes and size_ratio"),
        ({"target": "16 apples"}, "unknown unit 'apples'"),
        ({"target": {}}, "got none"),
        ({"target": {"bits_per_weight": 1e308}}, "bits_per_weight must be at most 1000000"),
        ({"target": {"size_ratio": 1e300}}, "size_ratio must be at most 1000000"),
        ({"target": {"size_bytes": 2**63}}, "size_bytes must be at most 9223372036854775807"),
        ({"target": "9000000x"}, "at most 1000000"),
        ({"target": {"size_bytes": 9000}, "preset": "small"}, "the config sets all 6 weights"),
        ({"choices": CHOICES, "preset": "w4"}, "send a target, or leave them out"),
        ({"target": "0.2x", "choices": {"n_bits": [5]}}, "must be one of 1, 2, 3, 4, 6, 8"),
        ({"target": "0.2x", "choices": {"same": [["("]]}}, "is no regular expression"),
        ({"target": "0.2x", "preset": "w4", "config_name": "a"}, "one of the three"),
    ],
)
def test_targets_that_are_refused_at_once(server, model_id, body, detail):
    path = "/v1/jobs" if body.get("target") == {"size_bytes": 100} else "/v1/plans"
    answer = server.http.post(path, json={"model_id": model_id} | body)
    assert answer.status_code == 422, answer.text
    assert detail in answer.text


def test_forms_that_are_refused(server):
    files = {"model": ("m.safetensors", save(tensors(2)))}
    plan = server.http.post("/v1/plans", files=files, data={"target": "0.2x"})
    assert plan.status_code == 422
    assert "upload it (POST /v1/uploads)" in plan.json()["detail"]
    for data, detail in [
        ({"target": "16"}, "'16' is no number with a unit"),
        ({"target": "0.2x", "choices": "no"}, "the field 'choices' is 'no'; send a JSON object"),
        ({"target": "0.2x", "choices": '{"n_bits": 4}'}, "the field 'choices': n_bits"),
    ]:
        answer = server.http.post("/v1/jobs", files=files, data=data)
        assert answer.status_code == 422
        assert detail in answer.text


@pytest.mark.heavy
def test_a_target_that_values_which_are_not_finite_put_out_of_reach(server):
    """Only the scores tell, so it is the job that fails."""
    weights = tensors(3)
    for number in range(6):
        weights[f"layers.{number}.weight"][0, 0] = np.nan
    files = {"model": ("m.safetensors", save(weights))}
    answer = server.http.post("/v1/jobs", files=files, data={"target": "0.2x"})
    ended = server.ended(answer.json()["id"])
    assert ended["state"] == "failed"
    assert "the least that these choices reach is" in ended["error"]["detail"]


@pytest.mark.heavy
def test_a_target_with_a_calibration_is_that_of_the_command(server, client, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    batch = torch.export.Dim("batch")
    program = export(net.eval(), torch.randn(3, 64), dynamic_shapes=({0: batch},))
    (tmp_path / "net.pt2").write_bytes(program)
    parameter = client.upload(tmp_path / "net.pt2")
    save_file(
        {"input": np.random.default_rng(1).normal(size=(64, 64)).astype("f4")},
        tmp_path / "x.safetensors",
    )
    calibration = client.calibrate(parameter, tmp_path / "x.safetensors")
    options = {"target": "0.25x", "calibration_id": calibration.id}
    predicted = client.plan(parameter, **options).allocation
    assert predicted.weighted
    job = client.submit(parameter, **options)
    client.delete_calibration(calibration.id)
    assert server.succeeded(job.id)["size_after_bytes"] == predicted.size_bytes
    assert all(each.weighted for each in client.report(job.id).tensors if each.spec)
    client.download(job.id, tmp_path / "server.safetensors")
    words = ["calibrate", "net.pt2", "--inputs", "x.safetensors", "-o", "calibration"]
    subprocess.run([PALETTERY, *words], cwd=tmp_path, check=True, capture_output=True)
    words = ["compress", "net.pt2", "--target", "0.25x", "--calibration", "calibration"]
    words += ["-o", "offline.safetensors"]
    subprocess.run([PALETTERY, *words], cwd=tmp_path, check=True, capture_output=True)
    ours, theirs = (tmp_path / f"{each}.safetensors" for each in ("server", "offline"))
    assert ours.read_bytes() == theirs.read_bytes()
