"""Calibrations over HTTP, in this process: what is accepted, refused and shown; none runs."""

import hashlib
import io
import zipfile
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load, save, save_file

from palettery.app.calibration import store_folder
from palettery.app.calibration.calibrate import content_sha256
from palettery.app.calibrations.repository import CalibrationRepository
from palettery.app.compression.job_folder import job_folder, read_tasks
from palettery.app.database.engine import open_database
from palettery.app.errors import NotFound
from palettery.app.jobs.repository import JobRepository
from palettery.app.settings import Settings
from palettery.app.storage.open import open_storage
from palettery.schemas.calibration import CalibratedTensor, Calibration, CalibrationOptions
from palettery.schemas.jobs import Progress
from tests.forged import changed, export

INPUTS = {"x": torch.arange(12.0).reshape(3, 4)}


@pytest.fixture(scope="module")
def program():
    """A `.pt2` of one linear layer, and its weight."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 32)).eval()
    batch = torch.export.Dim("batch")
    return export(model, torch.ones(2, 4), dynamic_shapes=({0: batch},)), model[0].weight.detach()


@pytest.fixture(scope="module")
def ids(upload, program):
    """A request for a calibration."""
    name = "input"
    inputs = upload(save({name: INPUTS["x"]}), "inputs.safetensors")
    return {"model_id": upload(program[0], "net.pt2"), "inputs_id": inputs}


@pytest.fixture
def submit(http, ids):
    def send(key=None, **fields):
        headers = {"Idempotency-Key": key} if key else {}
        return http.post("/v1/calibrations", json={**ids, **fields}, headers=headers)

    return send


@contextmanager
def rows(folder):
    database = open_database(Settings(data_dir=folder).resolved_database_url())
    try:
        yield JobRepository(database), CalibrationRepository(database)
    finally:
        database.close()


def succeed(folder, calibration_id, weight, tmp_path):
    """Have a calibration succeed, as if it had run."""
    store, prefix = open_storage((folder / "store").as_uri()), job_folder(calibration_id)
    request = store_folder.read_request(store, prefix)
    (name,) = (each.name for each in request.checkpoint.tensors if len(each.shape) > 1)
    save_file({name: torch.rand(weight.shape)}, tmp_path / "sensitivities.safetensors")
    save_file({name: torch.eye(4)}, tmp_path / "second_moments.safetensors")
    (tensor,) = (each for each in request.checkpoint.tensors if each.name == name)
    calibration = Calibration(
        options=CalibrationOptions(),
        samples=3,
        sample_sha256=("0" * 64,) * 3,
        outputs={"y": 1.0},
        tensors=(
            CalibratedTensor(name=name, sha256=content_sha256(store, request.checkpoint, tensor)),
        ),
        unreached=(),
    )
    (tmp_path / "calibration.json").write_text(calibration.model_dump_json())
    summary = store_folder._publish(store, prefix, calibration, tmp_path)
    with rows(folder) as (jobs, calibrations):
        assert jobs.start(calibration_id)
        calibrations.finish(calibration_id, summary)
        jobs.succeed(calibration_id, summary.size_bytes, progress=Progress(tensors_done=3))
    return name


def test_a_calibration_is_queued_and_no_job_to_those_who_look_at_jobs(http, folder, ids, submit):
    answer = submit(draws=2)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    here = f"/v1/calibrations/{made['id']}"
    assert (answer.headers["Location"], made["links"]["self"]) == (here, here)
    assert (made["state"], made["result"], made["options"]["draws"]) == ("queued", None, 2)
    assert (made["model_id"], made["inputs_ids"]) == (ids["model_id"], [ids["inputs_id"]])
    assert http.get(here).json() == made
    assert made in http.get("/v1/calibrations").json()["items"]
    job = f"/v1/jobs/{made['id']}"
    assert http.get("/v1/jobs").json()["items"] == []
    for verb, path in (("GET", job), ("GET", f"{job}/events"), ("POST", f"{job}/cancel")):
        assert http.request(verb, path).status_code == 404
    assert http.get(f"{here}/sensitivities").json()["code"] == "conflict"
    with rows(folder) as (_, calibrations), pytest.raises(NotFound, match="no calibration"):
        calibrations.get("somebody", made["id"])


def test_the_same_request_again_is_the_same_calibration(submit, ids, upload):
    first = submit().json()
    assert submit().json() == first
    assert submit(inputs_id=[ids["inputs_id"]], kind="outputs").json()["id"] == first["id"]
    renamed = upload(save({"input": INPUTS["x"]}), "other.safetensors")
    assert renamed != ids["inputs_id"]
    assert submit(inputs_id=renamed).json()["id"] == first["id"]
    assert submit(seed=1).json()["id"] != first["id"]
    assert submit(outputs=["y"]).json()["id"] != first["id"]


def test_a_key_makes_one_calibration_also_after_it_has_failed(http, submit):
    made = submit("key", seed=2).json()
    assert http.post(f"/v1/calibrations/{made['id']}/cancel").json()["state"] == "cancelled"
    again = submit("key", seed=2)
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (made["id"], "true")
    assert submit("key", seed=3).status_code == 409
    assert submit("other", seed=2).json()["id"] != made["id"]


def test_cancelled_retried_and_deleted(http, submit):
    here = f"/v1/calibrations/{submit(seed=4).json()['id']}"
    assert http.delete(here).status_code == 409
    cancelled = http.post(f"{here}/cancel").json()
    assert (cancelled["state"], cancelled["links"]["retry"]) == ("cancelled", f"{here}/retry")
    retried = http.post(f"{here}/retry").json()
    assert (retried["state"], retried["attempt"]) == ("queued", 1)
    http.post(f"{here}/cancel").raise_for_status()
    lines = http.get(f"{here}/events").text
    assert '"state":"cancelled"' in lines
    assert f'"self":"{here}"' in lines
    assert http.delete(here).status_code == 204
    assert http.get(here).json()["detail"].startswith("there is no calibration")


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"y": torch.ones(3, 4)}, "the model's inputs are input; bad.safetensors has y"),
        ({"input": torch.ones(3, 4).half()}, "input has the dtype F16; the model takes F32"),
        ({"input": torch.ones(4)}, "input has the shape [4]; the model takes 2 axes"),
    ],
)
def test_inputs_that_a_program_does_not_take(submit, upload, tensors, told):
    answer = submit(inputs_id=upload(save(tensors), "bad.safetensors"))
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_input")
    assert told in answer.json()["detail"]


def test_a_graph_that_names_code_does_not_get_as_far_as_a_worker(submit, upload, program):
    with zipfile.ZipFile(io.BytesIO(program[0])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (graph,) = (name for name in members if name.endswith("models/model.json"))

    def change(document):
        document["graph_module"]["graph"]["nodes"][0].update(target="torch.os.system")

    bad = io.BytesIO()
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_STORED) as archive:
        for name, content in changed(members, graph, change).items():
            archive.writestr(name, content)
    answer = submit(model_id=upload(bad.getvalue(), "bad.pt2"))
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
    assert "cannot be passed to torch" in answer.json()["detail"]


def test_what_cannot_be_calibrated(submit, ids):
    answer = submit(inputs_id=ids["model_id"])
    assert "net.pt2 are a pt2 file; upload a safetensors file" in answer.json()["detail"]
    answer = submit(model_id=ids["inputs_id"])
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_format")
    assert "holds weights without a graph" in answer.json()["detail"]
    assert submit(model_id="0" * 64).status_code == 404
    assert submit(inputs_id="0" * 64).status_code == 404
    for wrong in ({"draws": 0}, {"inputs_id": []}, {"kind": "all"}, {"more": 1}):
        answer = submit(**wrong)
        assert answer.status_code == 422
        assert next(iter(wrong)) in str(answer.json()["errors"])


def test_a_job_uses_a_calibration_that_has_succeeded(http, folder, program, ids, submit, tmp_path):
    content, weight = program
    calibration = submit(seed=5).json()["id"]
    job = {"model_id": ids["model_id"], "preset": "w4", "calibration_id": calibration}
    answer = http.post("/v1/jobs", json=job)
    assert (answer.status_code, "calibration is queued" in answer.text) == (409, True)
    assert http.post("/v1/plans", json=job).status_code == 409
    assert http.post("/v1/jobs", json=job | {"calibration_id": "x"}).status_code == 404
    name = succeed(folder, calibration, weight, tmp_path)
    here = f"/v1/calibrations/{calibration}"
    got = http.get(here).json()
    assert (got["state"], got["result"]["samples"], got["progress"]["samples_done"]) == (
        "succeeded",
        3,
        3,
    )
    whole = http.get(got["links"]["sensitivities"])
    assert whole.headers["ETag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    part = http.get(got["links"]["sensitivities"], headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    assert load(http.get(got["links"]["second_moments"]).content)[name].shape == (4, 4)
    assert http.get(got["links"]["report"]).json()["samples"] == 3
    plan = http.post("/v1/plans", json=job).raise_for_status().json()
    assert [each["name"] for each in plan["tensors"] if each["weighted"]] == [name]
    made = http.post("/v1/jobs", json=job)
    assert made.status_code == 202, made.text
    http.delete(here).raise_for_status()
    prefix = job_folder(made.json()["id"])
    store = open_storage((folder / "store").as_uri())
    (task,) = read_tasks(store, prefix)
    sensitivity = task.slices[0].sensitivity
    assert sensitivity.path == f"{prefix}/parts/sensitivities.safetensors"
    assert store.read(sensitivity.path, sensitivity.offset, sensitivity.size_bytes)
    form = {"preset": "w4", "calibration_id": calibration}
    answer = http.post("/v1/jobs", files={"model": ("net.pt2", content)}, data=form)
    assert answer.status_code == 404


def test_a_calibration_of_other_weights(http, folder, program, submit, tmp_path):
    calibration = submit(seed=6).json()["id"]
    name = succeed(folder, calibration, program[1], tmp_path)
    other = save({name: torch.ones(32, 4), "other": torch.ones(32, 4)})
    fields = {"preset": "w4", "calibration_id": calibration}
    answer = http.post("/v1/jobs", files={"model": ("m.safetensors", other)}, data=fields)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_sensitivities")
    same = save({f"wrapped.{name}": program[1]})
    files = {"model": ("m.safetensors", same), "sensitivities": ("s.safetensors", same)}
    answer = http.post("/v1/jobs", files=files, data=fields)
    assert "calibration_id or sensitivities, not both" in answer.json()["detail"]
    del files["sensitivities"]
    assert http.post("/v1/jobs", files=files, data=fields).status_code == 202
