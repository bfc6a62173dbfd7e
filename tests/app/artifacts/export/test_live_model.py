"""Forms of models that run: all that a target takes in one model, read back, and executed."""

import warnings
import zipfile
from itertools import product

import pytest
import torch
from torch import nn

from palettery.app.artifacts.export.packages import MARKER_FILES
from palettery.app.artifacts.files import open_files
from palettery.app.cli import offline
from palettery.app.errors import BadInput, Inexpressible, UnsupportedFormat
from palettery.schemas.config import KMeansPalettizerConfig
from tests.examples import EXAMPLES
from tests.forged import export as exported
from tests.spanning import pairwise

pytestmark = pytest.mark.heavy  # the model takes long to export

SIDE = 16
GRANULARITIES = (
    {"type": "per_tensor"},
    {"type": "per_grouped_channel", "group_size": 4, "axis": 0},
    {"type": "per_grouped_channel", "group_size": 8, "axis": 1},
)
LUTS = (None, {"dtype": "int8"}, {"dtype": "float8_e4m3fn"})
AXES = {
    "n_bits": (1, 2, 3, 4, 6, 8),
    "granularity": GRANULARITIES,
    "cluster_dim": (1, 2),
    "lut_qspec": LUTS,
    "enable_per_channel_scale": (False, True),
}
EVERY = product(*(range(len(options)) for options in AXES.values()))
SPECS = [
    {name: options[at] for (name, options), at in zip(AXES.items(), case, strict=True)}
    for case in (EVERY if EXAMPLES else sorted(pairwise(*AXES.values())))
]
"""Specs in which any two options occur together; in a long run, every one."""


SPARSE = {
    "tensor": {},
    "rows": {"granularity": GRANULARITIES[1]},
    "columns": {"granularity": GRANULARITIES[2]},
    "scaled": {"granularity": GRANULARITIES[1], "enable_per_channel_scale": True},
    "int8": {"granularity": GRANULARITIES[1], "lut_qspec": LUTS[1]},
    "asymmetric": {"lut_qspec": {"dtype": "uint8", "qscheme": "asymmetric"}},
    "vectors": {"cluster_dim": 2},
    "vectors_of_rows": {"cluster_dim": 2, "granularity": GRANULARITIES[1]},
    "zeros": {},
}
SPARSE_AS_DENSE = {
    "coreai": {"columns", "vectors_of_rows"},
    "coreml": {"vectors", "vectors_of_rows"},
    "onnx": set(),
}
OUTPUTS = {"coreai": "model.aimodel", "coreml": "model.mlpackage"}


class Many(nn.Module):
    """A layer for each spec, convolutions of both kinds, and tied layers; all reach the output."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, SIDE, 3)
        self.up = nn.ConvTranspose2d(SIDE, SIDE, 2)
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in SPECS)
        self.pruned = nn.ModuleDict({name: nn.Linear(SIDE, SIDE) for name in SPARSE})
        self.tied, self.tied_pruned = (nn.Linear(SIDE, SIDE) for _ in range(2))
        self.tied.weight = self.layers[0].weight
        self.tied_pruned.weight = self.pruned["tensor"].weight
        with torch.no_grad():
            for layer in self.pruned.values():
                layer.weight[torch.rand(SIDE, SIDE) < 0.6] = 0
                layer.weight[:3] = 0  # groups of unequal numbers
                layer.weight[4, 4] = 1e-5  # which coremltools would prune
            self.pruned["zeros"].weight[:] = 0

    def forward(self, x):
        x = self.up(self.conv(x)).mean((2, 3))
        for layer in self.layers:
            x = torch.tanh(2 * layer(x))
        for layer in self.pruned.values():
            x = x + torch.tanh(2 * layer(x))
        return self.tied_pruned(self.tied(x))


def rule(**spec):
    return {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": False}


def lacks(to, spec):
    if to == "coreai":
        return spec["n_bits"] == 3
    return to == "coreml" and spec["cluster_dim"] > 1 and spec["enable_per_channel_scale"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model's file, and its artifact."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("live")
    model, artifact = folder / "many.pt2", folder / "artifact"
    model.write_bytes(exported(Many().eval(), torch.randn(2, 3, 6, 6)))
    config = KMeansPalettizerConfig.model_validate(
        {
            "global_config": rule(n_bits=4, granularity={"type": "per_tensor"}),
            "module_name_configs": {
                **{f"layers.{number}": rule(**spec) for number, spec in enumerate(SPECS)},
                **{
                    f"pruned.{name}": rule(n_bits=2, sparsity_detection_threshold=0.5, **spec)
                    for name, spec in SPARSE.items()
                },
            },
        }
    )
    offline.compress([model], config, artifact, lambda *_: None)
    return model, artifact


@pytest.mark.parametrize("to", SPARSE_AS_DENSE)
def test_every_palette_that_a_target_takes(made, tmp_path, to):
    """The process that writes it reads palettes and masks back, and runs what can be run here."""
    model, artifact = made
    dense = offline.export([artifact], to, tmp_path / "out", model=model, keep_dense=True)
    weights = open_files([artifact]).weights
    assert {name for name, weight in weights.items() if weight.stored is not None} == {
        f"pruned.{name}.weight" for name in SPARSE
    }
    expected = {f"pruned.{name}.weight" for name in SPARSE_AS_DENSE[to]} | {
        name
        for number, spec in enumerate(SPECS)
        if lacks(to, spec) and (name := f"layers.{number}.weight") in weights
    }
    assert len(weights) > len(SPECS) / 2 + len(SPARSE)
    assert set(dense) == expected
    if to not in OUTPUTS:
        return
    with zipfile.ZipFile(tmp_path / "out") as archive:
        assert archive.testzip() is None
        folder = {name.split("/")[0] for name in archive.namelist()}
    assert folder == {OUTPUTS[to]}


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(SIDE, SIDE)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(("to", "suffix"), [("coreai", "aimodel"), ("coreml", "mlpackage")])
def test_weights_of_two_bytes_in_a_folder_that_its_library_opens(tmp_path, to, suffix):
    model, artifact, out = tmp_path / "half.pt2", tmp_path / "artifact", tmp_path / f"x.{suffix}"
    out.mkdir()
    (out / MARKER_FILES[out.suffix][0]).touch()
    (out / "old").touch()  # of a package that is replaced
    model.write_bytes(exported(Half().half().eval(), torch.randn(2, SIDE).half()))
    config = KMeansPalettizerConfig.model_validate({"global_config": rule(n_bits=4)})
    offline.compress([model], config, artifact, lambda *_: None)
    assert offline.export([artifact], to, out, model=model) == ()
    assert {path.name for path in tmp_path.iterdir()} == {model.name, artifact.name, out.name}
    files = {path.name for path in out.iterdir()}
    assert files & set(MARKER_FILES[out.suffix]), files
    assert "old" not in files
    if to == "coreml":
        coremltools = pytest.importorskip("coremltools")
        assert coremltools.models.MLModel(str(out), skip_model_load=True).get_spec().mlProgram


@pytest.mark.parametrize("to", ["coreai", "coreml"])
def test_what_a_target_lacks_is_told(made, tmp_path, to):
    model, artifact = made
    with pytest.raises(Inexpressible, match=f"{to} cannot express") as told:
        offline.export([artifact], to, tmp_path / "out", model=model)
    features = {"coreai": "palettes of 3 bits", "coreml": "a scale of each channel beside vectors"}
    sparse = {"coreai": "zeros outside of the palettes of groups", "coreml": "vectors of stored"}
    details = [error.detail for error in told.value.errors]
    for feature in (features[to], sparse[to]):
        assert any(feature in detail for detail in details), details
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", SPARSE_AS_DENSE)
def test_a_model_that_runs_takes_its_graph(made, tmp_path, to):
    _, artifact = made
    with pytest.raises(UnsupportedFormat, match=r"needs the model's graph.*\.pt2"):
        offline.export([artifact], to, tmp_path / "out", keep_dense=True)


def test_the_graph_of_another_model_is_refused(made, tmp_path):
    _, artifact = made
    other = tmp_path / "other.pt2"
    other.write_bytes(exported(Half().eval(), torch.randn(2, SIDE)))
    with warnings.catch_warnings(action="ignore"), pytest.raises(BadInput):
        offline.export([artifact], "coreai", tmp_path / "out", model=other, keep_dense=True)
    assert not (tmp_path / "out").exists()
