"""Every dtype that a model may have, kept in an artifact, through everything that reads one."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from palettery.app.artifacts import load, load_into
from palettery.app.artifacts.export.live_model import artifact_state_dict
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.cli.offline import compress, export, inspect
from palettery.app.errors import UnsupportedFormat
from tests.app.stored_job import config_of
from tests.spanning import every_value
from tests.test_readme import block

SHAPES = {"two axes": [4, 8], "one": [8], "none left": [0, 8]}


def written(path, dtype, shape):
    """A safetensors file with a weight and a tensor of a dtype, byte by byte."""
    weight = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32).tobytes()
    size = int(np.prod(shape)) * DTYPES[dtype].bits // 8
    other = np.random.default_rng(1).integers(0, 2 if dtype == "BOOL" else 256, size, np.uint8)
    entries = {
        "linear.weight": {"dtype": "F32", "shape": [16, 16], "data_offsets": [0, len(weight)]},
        "kept": {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(weight), len(weight) + size],
        },
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + weight + other.tobytes())
    return other.tobytes()


@pytest.fixture
def artifact(tmp_path):
    def made(dtype, shape):
        data = written(tmp_path / "m.safetensors", dtype, shape)
        compress([tmp_path / "m.safetensors"], config_of(n_bits=2), tmp_path / "out", lambda *_: 0)
        return tmp_path / "out", data

    return made


def bits(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


class Holder(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.linear = nn.Linear(16, 16, bias=False)
        self.register_buffer("kept", kept)


@pytest.mark.parametrize(
    ("dtype", "form"),
    every_value([name for name in DTYPES if DTYPES[name].torch], list(SHAPES)),
)
def test_every_dtype_that_torch_has_is_loaded(artifact, dtype, form):
    shape = SHAPES[form]
    path, data = artifact(dtype, shape)
    kept = load(path)["kept"]
    assert kept.dtype == getattr(torch, DTYPES[dtype].torch)
    halved = shape[-1] // 2 if dtype == "F4" else shape[-1]
    assert list(kept.shape) == [*shape[:-1], halved]
    assert bits(kept) == data
    module = Holder(torch.zeros_like(kept.view(torch.uint8)).view(kept.dtype))
    load_into(module, path)
    assert bits(module.kept) == data
    assert torch.equal(module.linear.weight, load(path)["linear.weight"])


@pytest.mark.parametrize(
    ("dtype", "shape"), [("F6_E2M3", [4, 8]), ("F6_E3M2", [8]), ("F4", [2, 3])]
)
def test_what_torch_has_no_dtype_for_is_named(artifact, dtype, shape):
    path, _ = artifact(dtype, shape)
    for read in (load, lambda path: load_into(Holder(torch.zeros(shape)), path)):
        with pytest.raises(UnsupportedFormat, match=f"kept is stored as {dtype} of shape"):
            read(path)
    module = nn.Sequential()
    module.add_module("linear", nn.Linear(16, 16, bias=False))
    assert load_into(module, path, strict=False).unexpected_keys == ["kept"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_without_torch(artifact, tmp_path, dtype):
    path, data = artifact(dtype, [4, 8])
    assert inspect([path]).kept == {"kept": len(data)}
    states = {state.name: state for state in artifact_state_dict(open_files([path])).tensors}
    assert (states["kept"].dtype, states["kept"].read()) == (dtype, data)
    export([path], "dense", tmp_path / "dense")
    assert (tmp_path / "dense").read_bytes().count(data) == 1
    shown: dict[str, object] = {}
    exec(block("python", 1), shown)  # noqa: S102 - our own README
    decoded = dict(shown["decode"](path))
    with safe_open(tmp_path / "dense", "np") as file:
        np.testing.assert_array_equal(decoded["linear.weight"], file.get_tensor("linear.weight"))


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [name for name in DTYPES if DTYPES[name].torch])
def test_every_dtype_that_torch_has_is_exported_for_torchao(artifact, tmp_path, dtype):
    pytest.importorskip("torchao")
    path, data = artifact(dtype, [4, 8])
    export([path], "torchao", tmp_path / "x.pt")
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    with torch.serialization.safe_globals([CodebookQuantizedTensor]):
        assert bits(torch.load(tmp_path / "x.pt", weights_only=True)["kept"]) == data


def test_names_of_the_table_are_those_of_the_libraries():
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    for name, dtype in DTYPES.items():
        if dtype.numpy is not None:
            assert dtype.numpy.itemsize * 8 == dtype.bits, name
        if dtype.torch is not None:
            assert getattr(torch, dtype.torch).itemsize == max(1, dtype.bits // 8), name
        if dtype.number is not None:
            assert _SERIALIZE_TO_TORCH_DTYPE[dtype.number] == getattr(torch, dtype.torch)
