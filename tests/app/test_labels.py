"""Labels of jobs and models, and which jobs are of byte-identical models."""

import hashlib
from base64 import b64encode

import numpy as np
import pytest
from safetensors.numpy import save

from tests.app.in_process import api

MODEL = save({"a.weight": np.arange(2048, dtype=np.float32).reshape(32, 64)})
OTHER = save({"a.weight": np.arange(2048, dtype=np.float32).reshape(64, 32)})
NO_LABELS = [" ", "\u2003", "a\nb", "a\x00b", "x" * 101, "a\u202eb", "\x1b[31mred"]


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with api(tmp_path_factory.mktemp("api") / "data") as client:
        yield client


def uploaded(http, data=MODEL, name="m.safetensors", **label):
    """A model that was sent in parts, if need be."""
    sha256 = hashlib.sha256(data)
    file = {"name": name, "size_bytes": len(data), "sha256": sha256.hexdigest()}
    upload = http.post("/v1/uploads", json={"files": [file], **label}).raise_for_status().json()
    digest = {"Content-Digest": f"sha-256=:{b64encode(sha256.digest()).decode()}:"}
    for part in upload["parts"]:
        http.put(part["url"], content=data, headers=digest).raise_for_status()
    return http.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status().json()


def by_form(http, data=MODEL, name="m.safetensors", **fields):
    body = {"preset": "w4", **fields}
    return http.post("/v1/jobs", files={"model": (name, data)}, data=body)


def by_json(http, model, **fields):
    return http.post("/v1/jobs", json={"model_id": model["id"], "preset": "w4", **fields})


@pytest.mark.parametrize("label", ["nightly", "Größe 2, „neu“", "<b>x</b>", "x" * 100, "日本語"])
def test_a_job_and_a_model_are_shown_with_their_labels(http, label):
    model = uploaded(http, label=label)
    assert model["label"] == label
    for answer in (by_json(http, model, label=label), by_form(http, label=label)):
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert job["label"] == label
        assert http.get(f"/v1/jobs/{job['id']}").json()["label"] == label
        assert http.get("/v1/jobs").json()["items"][0]["label"] == label
    listed = {each["id"]: each["label"] for each in http.get("/v1/models").json()["items"]}
    assert listed[model["id"]] == label


def test_the_newest_label_of_a_model_is_its_label(http):
    assert uploaded(http, label="first")["label"] == "first"
    assert uploaded(http)["label"] == "first"
    assert uploaded(http, label="second")["label"] == "second"


def test_without_a_label_there_is_none(http):
    assert by_form(http).json()["label"] is None
    assert by_form(http, label="").json()["label"] is None
    assert by_json(http, uploaded(http), label=None).json()["label"] is None
    assert uploaded(http, OTHER)["label"] is None


@pytest.mark.parametrize("label", NO_LABELS)
def test_what_is_no_label_is_refused(http, label):
    file = {"name": "m", "size_bytes": 1, "sha256": "0" * 64}
    for answer in (
        by_json(http, uploaded(http), label=label),
        by_form(http, label=label),
        http.post("/v1/uploads", json={"files": [file], "label": label}),
    ):
        assert answer.status_code == 422
        assert "label" in answer.text
        assert "1 to 100 printable" in answer.text


def test_an_idempotency_key_stands_for_a_label_too(http):
    def sent(**label):
        fields = {"preset": "w4", **label}
        files = {"model": ("m.safetensors", MODEL)}
        return http.post("/v1/jobs", files=files, data=fields, headers={"Idempotency-Key": "k"})

    first = sent(label="a")
    assert sent(label="a").json()["id"] == first.json()["id"]
    for other in ({"label": "b"}, {}):
        answer = sent(**other)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def test_jobs_of_byte_identical_models_have_one_digest_however_they_came(http):
    jobs = [
        by_form(http),
        by_form(http, name="renamed.safetensors"),
        by_json(http, uploaded(http)),
        by_json(http, uploaded(http, name="other.safetensors")),
        by_json(http, uploaded(http)),  # of which nothing is sent again
    ]
    results = [answer.json()["model_sha256"] for answer in jobs]
    assert len(set(results)) == 1
    assert len(results[0]) == 64
    another = by_form(http, OTHER).json()["model_sha256"]
    assert another not in results


def test_several_files_have_a_digest_whatever_their_order(http):
    def sent(names):
        datas = [save({f"{n}.weight": np.full((32, 64), n, np.float32)}) for n in range(2)]
        files = [("model", (name, data)) for name, data in zip(names, datas, strict=True)]
        answer = http.post("/v1/jobs", files=files, data={"preset": "w4"})
        assert answer.status_code == 202, answer.text
        return answer.json()["model_sha256"]

    assert sent(["a.safetensors", "b.safetensors"]) == sent(["z.safetensors", "y.safetensors"])
    assert sent(["a.safetensors", "b.safetensors"]) != by_form(http).json()["model_sha256"]
