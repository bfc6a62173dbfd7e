"""Artifacts in other forms, each read back by its own library."""

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palettery.app.artifacts import load
from palettery.app.artifacts.export.formats import FORMATS, export_artifact
from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.reader import open_artifact
from palettery.app.errors import ExtraMissing, Inexpressible, InvalidArtifact, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from tests.app.stored_job import StoredJob, config_of, draws, grouped
from tests.spanning import spanning

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
GRANULARITIES = {
    "tensor": {"type": "per_tensor"},
    "rows": grouped(4),
    "columns": grouped(6, axis=1),
}
LUTS = {"plain": None, "int8": {"dtype": "int8"}, "fp8": {"dtype": "float8_e4m3fn"}}
DTYPES = {"f2": np.float16, "bf2": ml_dtypes.bfloat16, "f4": np.float32, "f8": np.float64}


@pytest.fixture
def store(tmp_path):
    return open_storage(tmp_path.as_uri())


def artifact_of(store, dtype=np.float32, **spec):
    """An artifact of a linear weight, of a convolution's, and of a bias that is kept."""
    arrays = draws(linear=(8, 12), conv=(8, 12, 3, 3)) | {"linear.bias": np.ones(8, "f4")}
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    job = StoredJob(store, JOB_ID, arrays, config_of(**spec)).palettize()
    job.finish()
    return open_artifact(store, store.list(f"{job.prefix}/artifact"), Limits())


def dense(artifact):
    """What every format has to hold."""
    return {name: artifact.dense(name) for name in artifact.weights} | {
        name: artifact.array(kept) for name, kept in artifact.kept_tensors.items()
    }


def assert_same(result, artifact):
    expected = dense(artifact)
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        tensor = result[name]
        assert tensor.shape == array.shape
        assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == array.tobytes(), name


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("cluster_dim", "lut", "dtype"), spanning([1, 2], list(LUTS), list(DTYPES))
)
def test_dense_holds_what_the_palettes_give(store, tmp_path, cluster_dim, lut, dtype):
    spec = {"n_bits": 3, "cluster_dim": cluster_dim, "lut_qspec": LUTS[lut]}
    artifact = artifact_of(store, DTYPES[dtype], **spec)
    assert len(artifact.weights) == 2
    assert not export_artifact(
        ExportRequest(artifact, store, "dense"), "dense", keep_dense=False
    ).dense
    assert_same(load_file(tmp_path / "dense"), artifact)


def codebooks(path):
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    with torch.serialization.safe_globals([CodebookQuantizedTensor]):
        state = torch.load(path, weights_only=True)
    is_codebook = {name: type(tensor) is CodebookQuantizedTensor for name, tensor in state.items()}
    decoded = {
        name: tensor.dequantize() if is_codebook[name] else tensor for name, tensor in state.items()
    }
    return decoded, is_codebook


@pytest.mark.parametrize(
    ("lut", "granularity", "n_bits"),
    spanning(list(LUTS), list(GRANULARITIES), [1, 2, 3, 4, 6, 8]),
)
def test_torchao_decodes_what_the_palettes_give(store, tmp_path, lut, granularity, n_bits):
    spec = {"granularity": GRANULARITIES[granularity], "lut_qspec": LUTS[lut]}
    artifact = artifact_of(store, np.float16, n_bits=n_bits, **spec)
    assert not export_artifact(
        ExportRequest(artifact, store, "ao.pt"), "torchao", keep_dense=False
    ).dense
    decoded, is_codebook = codebooks(tmp_path / "ao.pt")
    assert_same(decoded, artifact)
    assert is_codebook == {"linear.weight": True, "conv.weight": True, "linear.bias": False}


LACKING = {
    "vectors": ({"cluster_dim": 2}, np.float32, "palettes of vectors (cluster_dim is 2)"),
    "scales": ({"enable_per_channel_scale": True}, np.float32, "a scale of each channel"),
    "float64": ({}, np.float64, "float64"),
}


@pytest.mark.parametrize(("spec", "dtype", "lacks"), LACKING.values(), ids=LACKING)
def test_what_torchao_lacks_is_told_or_kept_dense(store, tmp_path, spec, dtype, lacks):
    artifact = artifact_of(store, dtype, n_bits=2, **spec)
    with pytest.raises(Inexpressible, match="torchao cannot express 2 tensors") as excinfo:
        export_artifact(ExportRequest(artifact, store, "ao.pt"), "torchao", keep_dense=False)
    assert {error.pointer for error in excinfo.value.errors} == {
        "/tensors/linear.weight",
        "/tensors/conv.weight",
    }
    assert all(lacks in error.detail for error in excinfo.value.errors)
    assert not store.exists("ao.pt")
    assert (
        set(
            export_artifact(
                ExportRequest(artifact, store, "ao.pt"), "torchao", keep_dense=True
            ).dense
        )
        == artifact.weights.keys()
    )
    decoded, is_codebook = codebooks(tmp_path / "ao.pt")
    assert_same(decoded, artifact)
    assert not any(is_codebook.values())


@pytest.mark.parametrize("to", [name for name, form in FORMATS.items() if form.needs is None])
def test_an_export_of_something_else_is_refused(store, to):
    """What was written is read back: of other palettes, with a tensor more, with one less."""
    artifact = artifact_of(store, n_bits=2)
    other = artifact_of(open_storage(f"{store.url}/beside"), n_bits=1)
    FORMATS[to].write(ExportRequest(other, store, "other"))
    with pytest.raises(InvalidArtifact, match=r"^(linear|conv)\.(weight|bias): the"):
        FORMATS[to].check(ExportRequest(artifact, store, "other"))


def test_a_format_without_its_package_names_the_extra(store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    artifact = artifact_of(store, n_bits=2)
    with pytest.raises(ExtraMissing, match=r"pip install 'palettery\[export\]'"):
        export_artifact(ExportRequest(artifact, store, "ao.pt"), "torchao", keep_dense=False)


def test_load_gives_a_state_dict(store, tmp_path):
    artifact = artifact_of(store, ml_dtypes.bfloat16, n_bits=6, lut_qspec={"dtype": "uint8"})
    state = load(next((tmp_path / "jobs").glob("*/artifact/*")))
    assert state["linear.weight"].dtype == torch.bfloat16
    assert_same(state, artifact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gguf_holds_the_dense_tensors(store, tmp_path, dtype):
    gguf = pytest.importorskip("gguf")
    artifact = artifact_of(store, DTYPES[dtype], n_bits=2)
    made = export_artifact(ExportRequest(artifact, store, "m.gguf"), "gguf", keep_dense=False)
    assert made.size_bytes == (tmp_path / "m.gguf").stat().st_size
    tensors = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    expected = dense(artifact)
    assert {tensor.name: tensor.data.tobytes() for tensor in tensors} == {
        name: array.tobytes() for name, array in expected.items()
    }
    shapes = {tensor.name: tuple(tensor.shape.tolist()) for tensor in tensors}
    assert shapes == {name: array.shape[::-1] for name, array in expected.items()}


def test_what_gguf_cannot_hold(store):
    pytest.importorskip("gguf")
    for arrays, message in (
        ({"x" * 60 + ".weight": np.ones((8, 8), "f4")}, "has 67 bytes, and GGUF allows 63"),
        ({"a.weight": np.ones((8, 8), "f4"), "m": np.ones(3, "?")}, "m is BOOL of shape"),
    ):
        folder = open_storage(f"{store.url}/{len(message)}")
        job = StoredJob(folder, JOB_ID, arrays, config_of(n_bits=1)).palettize()
        job.finish()
        artifact = open_artifact(folder, folder.list(f"{job.prefix}/artifact"), Limits())
        with pytest.raises(UnsupportedFormat, match=message):
            export_artifact(ExportRequest(artifact, folder, "x"), "gguf", keep_dense=False)


@pytest.mark.parametrize("dtype", ["f2", "bf2", "f4"])
def test_mlx_loads_the_dense_export(store, tmp_path, dtype):
    mlx = pytest.importorskip("mlx.core")
    artifact = artifact_of(store, DTYPES[dtype], n_bits=3)
    export_artifact(ExportRequest(artifact, store, "m.safetensors"), "dense", keep_dense=False)
    loaded = mlx.load(str(tmp_path / "m.safetensors"))
    assert {name: bytes(memoryview(each.view(mlx.uint8))) for name, each in loaded.items()} == {
        name: array.tobytes() for name, array in dense(artifact).items()
    }
