"""Requests for evaluations, refused where it is known that they cannot work; nothing runs here."""

import hashlib
from base64 import b64encode

import pytest
import torch
from safetensors.torch import save
from torch import nn

from tests.app.in_process import api
from tests.forged import export

GOALS = {"cosine": 0.98, "percentile": 5}
X = {"input": torch.zeros(2, 16)}


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with api(tmp_path_factory.mktemp("api") / "data") as client:
        yield client


def uploaded(http, **files):
    """The id of files that were sent in parts, if need be."""
    announced = [
        {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    upload = http.post("/v1/uploads", json={"files": announced}).raise_for_status().json()
    for part in upload["parts"]:
        data = files[announced[part["file"]]["name"]]
        digest = b64encode(hashlib.sha256(data).digest()).decode()
        headers = {"Content-Digest": f"sha-256=:{digest}:"}
        http.put(part["url"], content=data, headers=headers).raise_for_status()
    return http.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    return nn.Linear(16, 8).eval()


@pytest.fixture(scope="module")
def program(http, linear):
    return uploaded(http, **{"net.pt2": export(linear, X["input"])})


def submitted(http, model_id, inputs_id, path="/v1/jobs", **goals):
    evaluate = {"inputs_id": inputs_id, **goals}
    return http.post(path, json={"model_id": model_id, "preset": "w4", "evaluate": evaluate})


def test_a_job_shows_the_evaluation_that_it_asks_for(http, program):
    inputs_id = uploaded(http, **{"inputs.safetensors": save(X)})
    answer = submitted(http, program, inputs_id, at_least=GOALS)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    quality = dict.fromkeys(("snr_db", "top1", "accuracy")) | GOALS
    assert job["evaluation"]["at_least"] == quality
    (evaluation,) = http.get(f"/v1/jobs/{job['id']}/evaluations").json()["items"]
    assert evaluation["id"] == job["evaluation"]["id"]
    assert (evaluation["state"], evaluation["is_part_of_job"]) == ("queued", True)
    assert http.get(evaluation["links"]["self"]).json() == evaluation
    http.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert http.get(evaluation["links"]["self"]).json()["state"] == "cancelled"
    answer = http.post(f"/v1/jobs/{job['id']}/evaluations", json={"inputs_id": inputs_id})
    assert (answer.status_code, "has no artifact" in answer.text) == (409, True)
    http.delete(f"/v1/models/{inputs_id}").raise_for_status()
    again = submitted(http, program, inputs_id)
    assert (again.status_code, "there are no inputs" in again.text) == (404, True)
    http.delete(f"/v1/jobs/{job['id']}").raise_for_status()
    assert http.get(evaluation["links"]["self"]).status_code == 404


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
def test_a_model_that_cannot_be_run_is_refused_with_the_way_out(http, linear, path):
    weights = save(linear.state_dict())
    inputs_id = uploaded(http, **{"inputs.safetensors": save(X)})
    answer = submitted(http, uploaded(http, **{"m.safetensors": weights}), inputs_id, path)
    assert answer.status_code == 415
    assert "weights without a graph, which cannot be run; send the .pt2" in answer.text


def test_inputs_of_another_model_are_refused(http, program, linear):
    inputs_id = uploaded(http, **{"inputs.safetensors": save({"y": torch.zeros(2, 16)})})
    answer = submitted(http, program, inputs_id)
    assert answer.status_code == 422
    assert "the model's inputs are input; inputs.safetensors has y" in answer.text
    inputs_id = uploaded(http, **{"inputs.pt2": export(linear, X["input"])})
    answer = submitted(http, program, inputs_id)
    assert answer.status_code == 422
    assert "inputs.pt2 holds no inputs" in answer.text


def test_inputs_of_several_uploads(http, program):
    names = ("a.safetensors", "b.safetensors")
    ids = [uploaded(http, **{name: save({"input": torch.rand(2, 16)})}) for name in names]
    answer = submitted(http, program, ids)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["evaluation"]["inputs_id"] == ids
    (evaluation,) = http.get(f"/v1/jobs/{job['id']}/evaluations").json()["items"]
    assert evaluation["inputs_id"] == ids
    answer = submitted(http, program, [ids[0], "0" * 64])
    assert (answer.status_code, f"there are no inputs '{'0' * 64}'" in answer.text) == (404, True)
    other = uploaded(http, **{"inputs.safetensors": save({"y": torch.zeros(2, 16)})})
    answer = submitted(http, program, [*ids, other])
    assert "the model's inputs are input; inputs.safetensors has y" in answer.text
    for wrong in ([], ids * 51, [1]):
        answer = submitted(http, program, wrong)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/evaluate/inputs_id"
        assert error["detail"].startswith("inputs_id must be the id of an upload")


def test_samples_are_there_once_an_evaluation_has_succeeded(http, program):
    inputs_id = uploaded(http, **{"inputs.safetensors": save(X)})
    job = submitted(http, program, inputs_id, at_least=GOALS).raise_for_status().json()
    (evaluation,) = http.get(f"/v1/jobs/{job['id']}/evaluations").json()["items"]
    assert "samples" not in evaluation["links"]
    answer = http.get(f"{evaluation['links']['self']}/samples")
    assert (answer.status_code, "the evaluation is queued" in answer.text) == (409, True)
    assert http.get(f"/v1/jobs/{job['id']}/evaluations/1/samples").status_code == 404


def test_requests_that_are_not_valid(http, program):
    answer = submitted(http, program, "0" * 64)
    assert (answer.status_code, "upload their file" in answer.text) == (404, True)
    answer = submitted(http, program, "0" * 64, at_least={"cosine": 2})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/evaluate/at_least/cosine"
    missing = f"/v1/jobs/{'0' * 8}-0000-0000-0000-{'0' * 12}/evaluations"
    assert http.get(missing).status_code == 404
    assert http.post(missing, json={"inputs_id": "0" * 64}).status_code == 404
