"""Models in ONNX, from a `.pt2` on, run by onnxruntime: small files, dense weights' outputs."""

import re
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from palettery.app.artifacts import load
from palettery.app.artifacts.files import open_files
from palettery.app.cli import offline
from palettery.app.errors import Inexpressible, InvalidArtifact, UnsupportedFormat
from palettery.schemas.config import KMeansPalettizerConfig
from tests.examples import EXAMPLES
from tests.forged import export as exported

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.heavy  # torch takes seconds to convert a model

USING = Path(__file__).parents[4] / "docs" / "using.md"
BATCH = torch.export.Dim("batch")
OVERHEAD_BYTES = 30_000
"""Upper bound on the size of a small model's graph."""


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
        self.tied = nn.Linear(64, 256)
        self.tied.weight = self.layers[0].weight

    def forward(self, x):
        return self.tied(self.layers(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 128, 3, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(128, 16, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.up(self.body(x))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 200)

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(nn.functional.gelu(x))


def tokens(batch):
    return torch.randint(0, 200, (batch, 9))


MODELS = {
    "perceptron": (Perceptron, lambda batch: torch.randn(batch, 64)),
    "network": (Network, lambda batch: torch.randn(batch, 3, 8, 8)),
    "attention": (Attention, tokens),
}
SPECS = {
    "tensor": {"n_bits": 4, "granularity": {"type": "per_tensor"}},
    "groups": {
        "n_bits": 3,
        "granularity": {"type": "per_grouped_channel", "group_size": 8, "axis": 0},
        "enable_per_channel_scale": True,
    },
    "vectors": {"n_bits": 6, "cluster_dim": 2, "lut_qspec": {"dtype": "int8"}},
    "sparse": {"n_bits": 2, "sparsity_detection_threshold": 0.5},
}
CASES = [
    ("perceptron", "tensor"),
    ("network", "groups"),
    ("network", "sparse"),
    ("attention", "tensor"),
    ("attention", "vectors"),
]
"""Models and specs; in a long run, all."""


@pytest.fixture
def palettized(tmp_path):
    """A function of a model and a spec: its `.pt2`, its artifact, and the model as decoded."""

    def make(model, spec, *inputs, **options):
        path, packed = tmp_path / "model.pt2", tmp_path / "packed.safetensors"
        path.write_bytes(exported(model, *inputs, **options))
        weight = {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": False}
        rules = {"global_config": weight, "module_type_configs": {"torch.nn.Embedding": weight}}
        config = KMeansPalettizerConfig.model_validate(rules)
        offline.compress([path], config, packed, lambda *_: None)
        model.load_state_dict(load(packed), strict=False)
        return path, packed

    return make


def prune(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(parameter.shape) < 0.7] = 0


def run(path, *inputs, disabled=()):
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    names = [each.name for each in session.get_inputs()]
    arrays = [each.numpy() for each in inputs]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def stored_bytes(path):
    """Initializer -> its size."""
    graph = onnx.load(path).graph
    return {each.name: len(each.raw_data) for each in graph.initializer}


@pytest.mark.parametrize(("kind", "spec"), product(MODELS, SPECS) if EXAMPLES else CASES)
def test_outputs_are_those_of_the_dense_model(palettized, tmp_path, kind, spec):
    torch.manual_seed(0)
    make, inputs = MODELS[kind]
    model, out = make().eval(), tmp_path / "model.onnx"
    if spec == "sparse":
        prune(model)
    path, packed = palettized(model, SPECS[spec], inputs(2), dynamic_shapes=({0: BATCH},))
    assert offline.export([packed], "onnx", out, model=path) == ()
    artifact, sizes = open_files([packed]), stored_bytes(out)
    assert len(artifact.weights) >= 2
    assert not artifact.weights.keys() & sizes.keys(), "no weight is stored dense"
    for name, parts in artifact.palettes.items():
        assert f"{name}.lut" in sizes
        stored = sum(size for key, size in sizes.items() if key.startswith(f"{name}."))
        assert stored <= sum(part.tensor.size_bytes for part in parts.values()) + 24
    assert out.stat().st_size < packed.stat().st_size + OVERHEAD_BYTES
    for batch in (1, 5):
        x = inputs(batch)
        with torch.no_grad():
            expected = model(x)
        for disabled in ((), ["ConstantFolding"]):
            (output,) = run(out, x, disabled=disabled)
            assert output.shape == expected.shape
            np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_a_file_is_valid_and_tells_nothing_of_the_conversion(palettized, tmp_path):
    path, packed = palettized(Perceptron().eval(), SPECS["tensor"], torch.randn(2, 64))
    offline.export([packed], "onnx", tmp_path / "model.onnx", model=path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "palettery"
    assert b"pkg.torch" not in (tmp_path / "model.onnx").read_bytes()
    tied = [each.name for each in model.graph.initializer if each.name.endswith(".indices")]
    assert sorted(tied) == ["layers.0.weight.indices", "layers.2.weight.indices"]


def test_half_precision(palettized, tmp_path):
    model = Attention().half().eval()
    path, packed = palettized(model, SPECS["groups"], tokens(2))
    offline.export([packed], "onnx", tmp_path / "model.onnx", model=path)
    x = tokens(2)
    (output,) = run(tmp_path / "model.onnx", x)
    assert output.dtype == np.float16
    with torch.no_grad():
        np.testing.assert_allclose(output, model(x), atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_are_refused(palettized, tmp_path, dtype):
    model = Perceptron().to(dtype).eval()
    path, packed = palettized(model, SPECS["tensor"], torch.randn(2, 64, dtype=dtype))
    with pytest.raises(Inexpressible, match="onnx cannot express 2 tensors") as refused:
        offline.export([packed], "onnx", tmp_path / "model.onnx", model=path)
    name = str(dtype).removeprefix("torch.")
    assert {error.detail for error in refused.value.errors} == {
        f"layers.{number}.weight needs {name}, which onnx lacks" for number in (0, 2)
    }
    assert not (tmp_path / "model.onnx").exists()


@pytest.fixture
def converter():
    with warnings.catch_warnings(action="ignore"):
        from palettery.app.artifacts.export import onnx as module

        yield module


@pytest.fixture
def program(palettized):
    """A program with the weights of an artifact, and the artifact."""
    model = Perceptron().eval()
    _, packed = palettized(model, SPECS["tensor"], torch.randn(2, 64))
    return torch.export.export(model, (torch.randn(2, 64),)), open_files([packed])


def test_a_changed_file_is_detected(converter, program, tmp_path):
    path = tmp_path / "model.onnx"
    converter.convert(*program, (), path)
    converter.check(path, *program, ())
    for name, message in (
        ("layers.0.weight.lut", "layers.0.weight: the ONNX model as read back is not LUT"),
        ("layers.2.bias", "output 0 of the ONNX model differs from torch's"),
    ):
        model = onnx.load(path)
        (array,) = (each for each in model.graph.initializer if each.name == name)
        array.raw_data = bytes(reversed(array.raw_data))
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(InvalidArtifact, match=message):
            converter.check(tmp_path / "changed.onnx", *program, ())


def test_a_dense_weight_is_detected(converter, program, tmp_path):
    converter.convert(*program, ["layers.2.weight"], tmp_path / "model.onnx")
    converter.check(tmp_path / "model.onnx", *program, ["layers.2.weight"])
    with pytest.raises(InvalidArtifact, match=r"layers\.2\.weight: the ONNX model as read back"):
        converter.check(tmp_path / "model.onnx", *program, ())


class Containers(nn.Module):
    """Model of containers, a number and an unused tensor; returns its weight and an input, too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 16)

    def forward(self, x, times, unused, *, flag):
        del unused
        y = self.linear(x["query"][0]) * times * flag
        return {"y": [y], "weight": self.linear.weight, "flag": flag}


def test_arguments_and_results_in_containers(palettized, tmp_path):
    model, x, flag = Containers().eval(), torch.randn(2, 64), torch.tensor(True)
    arguments = ({"query": (x,)}, 3, torch.randn(5))
    path, packed = palettized(model, SPECS["groups"], *arguments, kwargs={"flag": flag})
    assert offline.export([packed], "onnx", tmp_path / "model.onnx", model=path) == ()
    outputs = run(tmp_path / "model.onnx", x, arguments[2], flag)
    assert outputs[1].tobytes() == load(packed)["linear.weight"].numpy().tobytes()
    with torch.no_grad():
        expected = model(*arguments, flag=flag)["y"][0]
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)
    assert outputs[2]


class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 16)

    def forward(self, x):
        return torch.cummax(self.linear(x), 1)[0]


def test_a_graph_that_torch_cannot_convert_is_refused_in_a_sentence(palettized, tmp_path):
    path, packed = palettized(Cumulative().eval(), SPECS["tensor"], torch.randn(2, 64))
    with pytest.raises(
        UnsupportedFormat, match=r"convert this model to ONNX \(No ONNX.*cummax"
    ) as e:
        offline.export([packed], "onnx", tmp_path / "model.onnx", model=path)
    assert len(str(e.value)) < 400
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_may_not_reach_the_limit(converter, program, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "MAX_BYTES", 10_000)
    with pytest.raises(UnsupportedFormat, match="holds less than 10,000 bytes, and the weights"):
        converter.convert(*program, (), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_example_of_the_documentation(palettized, tmp_path, monkeypatch):
    """The section of docs/using.md, as it is written."""
    monkeypatch.chdir(tmp_path)
    model = Perceptron().eval()
    palettized(model, SPECS["tensor"], torch.randn(2, 64), dynamic_shapes=({0: BATCH},))
    section = USING.read_text().partition("## onnxruntime\n")[2].partition("\n## ")[0]
    command, example = re.findall(r"```(?:sh|python)\n(.*?)```", section, re.DOTALL)
    program = Path(sys.executable).with_name("palettery")
    subprocess.run([program, *command.split()[1:]], check=True, stderr=subprocess.DEVNULL)
    x = torch.randn(3, 64)
    variables = {"x": x.numpy()}
    exec(example, variables)  # noqa: S102 - our own documentation
    with torch.no_grad():
        np.testing.assert_allclose(variables["outputs"][0], model(x), rtol=1e-4, atol=1e-4)
