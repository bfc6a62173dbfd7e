"""Requests for jobs and plans, as forms and as JSON, and sent more than once, on real services."""

import csv
import io
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery.app.client import Client
from palettery.schemas.config import w4
from palettery.schemas.plan import Plan
from palettery.schemas.problem import Problem
from palettery.schemas.statistics import TensorStatistics
from tests.app.report_documents import documents_of

AT_ONCE = 6
PER_TENSOR = {
    "global_config": {"op_state_spec": {"weight": {"granularity": {"type": "per_tensor"}}}}
}


def add_model(server, path, weights):
    """A model that was uploaded before; its id."""
    save_file(weights, path)
    with Client(str(server.http.base_url)) as client:
        return client.upload(path).id


@pytest.fixture(scope="module")
def model_id(server, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    more = np.random.default_rng(11).normal(size=(16, 16)).astype("f4")
    return add_model(server, path, weights | {"more.weight": more})


def post(server, where="jobs", key=None, **fields):
    headers = {} if key is None else {"Idempotency-Key": key}
    return server.http.post(f"/v1/{where}", json=fields, headers=headers)


@pytest.fixture
def submit(server, model, request):
    """Send the small model with a key of this test's own."""

    def send(key, body=model, **fields):
        return server.http.post(
            "/v1/jobs",
            files={"model": ("m.safetensors", body)},
            data=fields or {"preset": "w4"},
            headers={"Idempotency-Key": f"{request.node.name}-{key}"},
        )

    return send


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.code) == (status, code)
    return problem


def test_same_key_and_request_give_the_same_job(server, submit):
    first = submit("a")
    assert first.status_code == 202
    assert "idempotent-replayed" not in first.headers
    server.succeeded(first.json()["id"])
    again = submit("a")
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["state"] == "succeeded"
    assert submit("b").headers["location"] != first.headers["location"]
    assert server.leftovers() == []


def test_same_key_with_another_request_is_refused(server, submit, model):
    assert submit("a").status_code == 202
    for other in (
        submit("a", preset="w6"),
        submit("a", preset="w4", priority="9"),
        submit("a", model + b" "),
    ):
        problem = refused(other, 409, "idempotency_conflict")
        assert "send a new key" in problem.detail
    assert server.leftovers() == []


def test_request_that_failed_does_not_use_up_its_key(submit):
    refused(submit("a", preset="w5"), 422, "unknown_preset")
    assert "idempotent-replayed" not in submit("a").headers


@pytest.mark.scaled
def test_same_request_many_times_at_once_is_one_job(server, submit):
    with ThreadPoolExecutor(AT_ONCE) as senders:
        answers = list(senders.map(lambda _: submit("a"), range(AT_ONCE)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["location"] for answer in answers}) == 1
    replayed = [answer for answer in answers if "idempotent-replayed" in answer.headers]
    assert len(replayed) == AT_ONCE - 1
    assert server.leftovers() == []


@pytest.mark.parametrize("key", ["", "a b", "ä".encode(), "x" * 256])
def test_key_that_is_none(server, model, key):
    answer = server.http.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model)},
        data={"preset": "w4"},
        headers={"Idempotency-Key": key},
    )
    problem = refused(answer, 422, "bad_input")
    assert [error.pointer for error in problem.errors] == ["/header/Idempotency-Key"]


def test_job_of_a_model(server, model_id):
    answer = post(server, model_id=model_id, config=w4().model_dump(mode="json"), priority=7)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"]
    assert (job["model_id"], job["config_name"], job["priority"]) == (model_id, None, 7)
    assert job["links"]["model"] == f"/v1/models/{model_id}"
    server.succeeded(job["id"])
    report = server.report(job["id"])
    assert "more.weight" in {tensor["name"] for tensor in report["tensors"]}
    assert server.leftovers() == []


@pytest.mark.parametrize("how", [{"preset": "w6"}, {"config": PER_TENSOR}])
def test_job_of_the_config_of_a_job_does_the_same(server, model_id, how):
    first = post(server, model_id=model_id, **how).json()
    config = server.http.get(first["links"]["config"]).json()
    second = post(server, model_id=model_id, config=config).json()
    assert server.http.get(second["links"]["config"]).json() == config
    digests = [
        server.report(server.succeeded(job["id"])["id"])["artifact_sha256"]
        for job in (first, second)
    ]
    assert digests[0] == digests[1]


def test_config_that_was_not_kept(server, model_id):
    job = server.succeeded(post(server, model_id=model_id, preset="w4").json()["id"])
    server.store.delete(f"jobs/{job['id']}/config.json")
    problem = refused(server.http.get(job["links"]["config"]), 404, "not_found")
    assert "its report has every spec" in problem.detail


def test_job_tells_its_preset(server, model_id):
    job = server.succeeded(post(server, model_id=model_id, preset="w6").json()["id"])
    assert job["config_name"] == "w6"


def test_plan_of_a_model_is_what_its_job_does(server, model_id):
    plans = [
        post(server, "plans", model_id=model_id, **how)
        for how in (
            {"preset": "w4"},
            {"config": w4().to_dict()},
            {"config": w4().model_dump(mode="json")},
        )
    ]
    assert len({answer.content for answer in plans}) == 1
    plan = Plan.model_validate_json(plans[0].content)
    assert len(plan.palettized()) == 3


def put(server, name, config):
    answer = server.http.put(f"/v1/configs/{name}", json=config)
    assert answer.is_success, answer.text
    return answer.json()["reference"]


def test_job_of_a_named_config_keeps_its_version(server, model, model_id):
    name = f"c{uuid.uuid4().hex}"
    first = put(server, name, w4().to_dict())
    second = put(server, name, {"global_config": None})
    assert (first, second) == (f"{name}@1", f"{name}@2")
    for requested, reference, palettized in ((name, second, 0), (first, first, 3)):
        job = post(server, model_id=model_id, config_name=requested).json()
        assert (job["config_name"], job["progress"]["tensors_total"]) == (reference, palettized)
        server.succeeded(job["id"])
    form = server.http.post(
        "/v1/jobs", files={"model": ("m.safetensors", model)}, data={"config_name": first}
    )
    assert (form.status_code, form.json()["config_name"]) == (202, first)
    assert form.json()["model_id"] is None


def test_keys_of_json_requests(server, model_id):
    key = uuid.uuid4().hex
    first = post(server, key=key, model_id=model_id, preset="w4")
    again = post(server, key=key, preset="w4", priority=5, model_id=model_id)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    for other in ({"preset": "w6"}, {"preset": "w4", "strict": True}, {"config": {}}):
        refused(post(server, key=key, model_id=model_id, **other), 409, "idempotency_conflict")


def test_replay_needs_neither_the_model_nor_the_config_any_more(server, weights, tmp_path):
    more = {"b.weight": np.full((4, 4), 7, "f4")}
    model_id = add_model(server, tmp_path / "m.safetensors", weights | more)
    name, key = f"c{uuid.uuid4().hex}", uuid.uuid4().hex
    put(server, name, w4().to_dict())
    fields = {"model_id": model_id, "config_name": name}
    first = post(server, key=key, **fields)
    server.succeeded(first.json()["id"])
    assert server.http.delete(f"/v1/configs/{name}").status_code == 204
    assert server.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert post(server, key=key, **fields).json()["id"] == first.json()["id"]
    refused(post(server, key=uuid.uuid4().hex, **fields), 404, "not_found")
    retried = server.http.get(first.headers["location"]).json()
    assert retried["state"] == "succeeded", "the job keeps what it needs"


REFUSED = {
    "no model": ({"model_id": "00" * 32, "preset": "w4"}, 404, "not_found"),
    "no config": ({"config_name": "nobody@1"}, 404, "not_found"),
    "no preset": ({"preset": "w5"}, 422, "unknown_preset"),
    "nothing chosen": ({}, 422, "bad_input"),
    "two chosen": ({"preset": "w4", "config": {}}, 422, "bad_input"),
    "wrong config": ({"config": {"global_config": 1}}, 422, "invalid_config"),
    "wrong field": ({"preset": "w4", "prioritty": 1}, 422, "bad_input"),
}


@pytest.mark.parametrize("where", ["jobs", "plans"])
@pytest.mark.parametrize("name", REFUSED)
def test_json_that_is_refused(server, model_id, where, name):
    fields, status, code = REFUSED[name]
    problem = refused(post(server, where, **({"model_id": model_id} | fields)), status, code)
    if name == "wrong config":
        assert [error.pointer for error in problem.errors] == ["/config/global_config"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_bodies_are_refused(server, kind):
    answer = server.http.post("/v1/jobs", content=b"{}", headers={"Content-Type": kind})
    problem = refused(answer, 415, "unsupported_media_type")
    assert "application/json with a model_id" in problem.detail


def large_config(count):
    rule = {"op_state_spec": {"weight": {"n_bits": 4}}}
    rules = {f"layer{n}": rule for n in range(count)} | {"encoder.*": rule}
    return {"global_config": None, "module_name_configs": rules}


def test_large_config_in_either_form(server, model, model_id):
    config = large_config(3_000)
    of_model = post(server, model_id=model_id, config=config)
    of_form = server.http.post(
        "/v1/jobs",
        files={"model": ("m.safetensors", model)},
        data={"config": json.dumps(config)},
    )
    for answer in (of_model, of_form):
        assert answer.status_code == 202, answer.text
        assert answer.json()["progress"]["tensors_total"] == 2
        server.succeeded(answer.json()["id"])
    config["global_config"] = 1
    problem = refused(
        post(server, "plans", model_id=model_id, config=config), 422, "invalid_config"
    )
    assert [error.pointer for error in problem.errors] == ["/config/global_config"]
    assert server.leftovers() == []


def test_report_as_a_page(server, model_id):
    job = server.succeeded(post(server, model_id=model_id, preset="w4").json()["id"])
    answer = server.http.get(job["links"]["report_html"])
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"], "it reaches no key and no API"
    embedded = documents_of(answer.content)
    assert embedded["report"] == server.report(job["id"])
    assert embedded["job"]["id"] == job["id"]
    for statistics in embedded["statistics"]:
        path = f"/v1/jobs/{job['id']}/statistics"
        assert server.http.get(path, params={"tensor": statistics["name"]}).json() == statistics
    refused(server.http.get(f"/v1/jobs/{uuid.uuid4()}/report.html"), 404, "not_found")


def test_statistics_of_a_tensor(server, model_id):
    job = server.succeeded(post(server, model_id=model_id, preset="w4").json()["id"])
    path = f"/v1/jobs/{job['id']}/statistics"
    for tensor in server.report(job["id"])["tensors"]:
        answer = server.http.get(path, params={"tensor": tensor["name"]})
        if tensor["action"] == "kept":
            assert "which of them were palettized" in refused(answer, 404, "not_found").detail
            continue
        statistics = TensorStatistics.model_validate_json(answer.content)
        assert statistics.name == tensor["name"]
        assert sum(statistics.occupancy) == np.prod(tensor["shape"])
        assert len(statistics.group_mse) == tensor["groups"]
        assert sum(statistics.group_mse) / tensor["groups"] == pytest.approx(
            tensor["sse"] / np.prod(tensor["shape"]), rel=1e-4
        )
    refused(server.http.get(path, params={"tensor": "no.such"}), 404, "not_found")
    refused(server.http.get(path), 422, "bad_input")
    other = f"/v1/jobs/{uuid.uuid4()}/statistics"
    refused(server.http.get(other, params={"tensor": "x"}), 404, "not_found")


def test_statistics_of_results_taken_over(server, model_id):
    answers = []
    for _ in range(2):
        job = server.succeeded(post(server, model_id=model_id, preset="w6").json()["id"])
        report = server.report(job["id"])
        (name, *_) = (each["name"] for each in report["tensors"] if each["action"] != "kept")
        answers.append(server.http.get(f"/v1/jobs/{job['id']}/statistics", params={"tensor": name}))
    assert answers[0].json() == answers[1].json()


def test_report_as_csv(server, model_id):
    job = server.succeeded(post(server, model_id=model_id, preset="w4").json()["id"])
    answer = server.http.get(job["links"]["report_csv"])
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    tensors = server.report(job["id"])["tensors"]
    assert [(row["name"], row["action"], int(row["size_after_bytes"])) for row in rows] == [
        (tensor["name"], tensor["action"], tensor["size_after_bytes"]) for tensor in tensors
    ]
    refused(server.http.get(f"/v1/jobs/{uuid.uuid4()}/report.csv"), 404, "not_found")
