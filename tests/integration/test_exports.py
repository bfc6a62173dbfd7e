"""Exports requested with a job, on a real server."""

import json
import zipfile

import pytest
import torch
import transformers
from safetensors.torch import load_file

import palettery.transformers  # noqa: F401 - registers the format
from palettery.app.artifacts import load
from palettery.app.artifacts.packed_weights import PackedWeight
from palettery.app.client import Client
from palettery.app.errors import Inexpressible, NotFound

pytestmark = pytest.mark.heavy  # the workers load torch

SPEC = {"op_state_spec": {"weight": {"n_bits": 2, "cluster_dim": 2}}}
VECTORS = json.dumps({"global_config": SPEC | {"enable_fast_kmeans_mode": False}})


@pytest.fixture(scope="module")
def exporter(holder):
    """Not the service without keys: there, no worker may load torch, as those of this one do."""
    return holder("exporter").seen


@pytest.fixture
def client(exporter):
    key = exporter.http.headers["Authorization"].removeprefix("Bearer ")
    with Client(str(exporter.http.base_url), key=key) as opened:
        yield opened


@pytest.fixture
def path(tmp_path, model):
    made = tmp_path / "m.safetensors"
    made.write_bytes(model)
    return made


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def decoded(path):
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    with torch.serialization.safe_globals([CodebookQuantizedTensor]):
        state = torch.load(path, weights_only=True)
    return {
        name: tensor.dequantize() if isinstance(tensor, CodebookQuantizedTensor) else tensor
        for name, tensor in state.items()
    }


READERS = {"dense": load_file, "torchao": decoded}


@pytest.mark.scaled
@pytest.mark.parametrize("reuse", [False, True], ids=["made", "taken over"])
def test_each_form_holds_what_the_artifact_does(client, path, tmp_path, reuse):
    job = client.wait(client.submit(path, preset="w4", formats=list(READERS), reuse=reuse).id)
    assert job.state == "succeeded", job.error
    client.download(job.id, tmp_path / "packed")
    expected = load(tmp_path / "packed")
    report = client.report(job.id)
    assert [(each.format, each.dense) for each in report.exports] == [
        ("dense", ()),
        ("torchao", ()),
    ]
    for to, read in READERS.items():
        assert same(read(client.download_export(job.id, to, tmp_path / to)), expected), to
        assert (tmp_path / to).stat().st_size == next(
            each.size_bytes for each in report.exports if each.format == to
        )


def test_forms_change_nothing_in_the_artifact(client, path, tmp_path):
    for name, formats in (("with", ["dense"]), ("without", [])):
        job = client.wait(client.submit(path, preset="w6", formats=formats, reuse=False).id)
        client.download(job.id, tmp_path / name)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


def test_what_a_form_lacks_is_told_by_the_plan_and_refused_or_kept_dense(client, path, tmp_path):
    (planned,) = client.plan(path, config=VECTORS, formats=["torchao"]).exports
    names = {"encoder.0.weight", "encoder.1.weight"}
    assert planned.inexpressible.keys() == names
    with pytest.raises(Inexpressible) as excinfo:
        client.submit(path, config=VECTORS, formats=["torchao"])
    assert {error.pointer for error in excinfo.value.errors} == {
        f"/tensors/{name}" for name in names
    }
    job = client.wait(client.submit(path, config=VECTORS, formats=["torchao"], keep_dense=True).id)
    (made,) = client.report(job.id).exports
    assert set(made.dense) == names
    client.download(job.id, tmp_path / "packed")
    out = client.download_export(job.id, "torchao", tmp_path / "ao")
    assert same(decoded(out), load(tmp_path / "packed"))


def test_a_form_that_was_not_asked_for(client, exporter, path, tmp_path):
    job = client.wait(client.submit(path, preset="w4", formats=["dense"]).id)
    answer = exporter.http.get(f"/v1/jobs/{job.id}/exports/torchao")
    assert answer.status_code == 404
    assert answer.json()["detail"].endswith("it has dense")
    with pytest.raises(NotFound, match="it has dense"):
        client.download_export(job.id, "torchao", tmp_path / "ao")


def test_forms_in_a_form_field(exporter, model):
    job_id = exporter.submit(model, formats="torchao,dense")
    exporter.succeeded(job_id)
    assert [each["format"] for each in exporter.report(job_id)["exports"]] == ["dense", "torchao"]
    head = exporter.http.head(f"/v1/jobs/{job_id}/exports/torchao")
    assert head.headers["content-disposition"] == 'attachment; filename="big-torchao.pt"'
    for wrong in ("tflite", "dense,", "dense,tflite"):
        files = {"model": ("m.safetensors", model)}
        answer = exporter.http.post(
            "/v1/jobs", files=files, data={"preset": "w4", "formats": wrong}
        )
        assert answer.status_code == 422
        assert "send names of dense, transformers" in answer.json()["detail"]
    request = {"model_id": "0" * 64, "preset": "w4", "formats": ["tflite"]}
    answer = exporter.http.post("/v1/jobs", json=request)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/formats/0"


@pytest.mark.scaled
def test_a_large_job_makes_them_in_tasks_of_their_own(client, exporter, large_model, tmp_path):
    job_id = exporter.submit(large_model, formats="dense,torchao", reuse="false")
    exporter.succeeded(job_id)
    client.download(job_id, tmp_path / "packed")
    dense = client.download_export(job_id, "dense", tmp_path / "dense")
    assert same(load_file(dense), load(tmp_path / "packed"))
    assert len(exporter.report(job_id)["exports"]) == 2


@pytest.mark.heavy
def test_a_folder_for_transformers(embedded, tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    model = transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=4)).eval()
    model.save_pretrained(tmp_path / "bert")
    files = [tmp_path / "bert" / name for name in ("model.safetensors", "config.json")]
    with Client(str(embedded.http.base_url)) as client:
        job = client.wait(client.submit(files, preset="w4", formats=["transformers"]).id)
        assert job.state == "succeeded", job.error
        client.download(job.id, tmp_path / "packed")
        out = client.download_export(job.id, "transformers", tmp_path / "folder.zip")
    with zipfile.ZipFile(out) as archive:
        archive.extractall(tmp_path / "folder")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "folder")
    assert any(isinstance(module, PackedWeight) for module in loaded.modules())
    model.load_state_dict(load(tmp_path / "packed"), strict=False)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(loaded(ids).last_hidden_state, model(ids).last_hidden_state)
