"""Forms of models that run: all that a target takes in one model, read back, and executed."""

import itertools
import warnings
import zipfile

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from palettery.app.artifacts.export.packages import MARKER_FILES
from palettery.app.artifacts.files import open_files
from palettery.app.cli import offline
from palettery.app.errors import BadInput, Inexpressible, UnsupportedFormat
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from tests.forged import export as exported

pytestmark = pytest.mark.heavy  # the model takes long to export

SIDE = 16
GRANULARITIES = (
    {"type": "per_tensor"},
    {"type": "per_channel"},
    {"type": "per_grouped_channel", "group_size": 4, "axis": 0},
    {"type": "per_grouped_channel", "group_size": 8, "axis": 1},
)
LUTS = (None, {"dtype": "int8"}, {"dtype": "float8_e4m3fn"})


def _specs():
    """Every spec that the config language has, but for sizes."""
    found = itertools.product((1, 2, 3, 4, 6, 8), GRANULARITIES, (1, 2), LUTS, (False, True))
    for n_bits, granularity, cluster_dim, lut, scale in found:
        said = {
            "n_bits": n_bits,
            "granularity": granularity,
            "cluster_dim": cluster_dim,
            "lut_qspec": lut,
            "enable_per_channel_scale": scale,
        }
        try:
            PalettizationSpec.model_validate(said)
        except ValidationError:
            continue
        yield said


SPECS = list(_specs())


class Many(nn.Module):
    """A layer for each spec, and convolutions of both kinds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, SIDE, 3)
        self.up = nn.ConvTranspose2d(SIDE, SIDE, 2)
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in SPECS)
        self.tied = nn.Linear(SIDE, SIDE)
        self.tied.weight = self.layers[0].weight

    def forward(self, x):
        x = self.up(self.conv(x)).mean((2, 3))
        for layer in self.layers:
            x = torch.tanh(2 * layer(x))
        return self.tied(x)


def rule(**spec):
    return {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": False}


def lacks(to, spec):
    if to == "coreai":
        return spec["n_bits"] == 3
    return spec["cluster_dim"] > 1 and spec["enable_per_channel_scale"]


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
                f"layers.{number}": rule(**spec) for number, spec in enumerate(SPECS)
            },
        }
    )
    offline.compress([model], config, artifact, lambda *_: None)
    return model, artifact


@pytest.mark.parametrize("to", ["coreai", "coreml"])
def test_every_palette_that_a_target_takes(made, tmp_path, to):
    """The process that writes it reads it back, and runs what can be run here."""
    model, artifact = made
    dense = offline.export([artifact], to, tmp_path / "out", model=model, keep_dense=True)
    weights = open_files([artifact]).weights
    expected = {
        name
        for number, spec in enumerate(SPECS)
        if lacks(to, spec) and (name := f"layers.{number}.weight") in weights
    }
    assert len(weights) > len(SPECS) / 2
    assert set(dense) == expected
    with zipfile.ZipFile(tmp_path / "out") as archive:
        assert archive.testzip() is None
        folder = {name.split("/")[0] for name in archive.namelist()}
    assert folder == {{"coreai": "model.aimodel", "coreml": "model.mlpackage"}[to]}


@pytest.mark.parametrize(("to", "suffix"), [("coreai", "aimodel"), ("coreml", "mlpackage")])
def test_a_name_of_a_package_gets_the_folder_that_its_library_opens(made, tmp_path, to, suffix):
    model, artifact = made
    out = tmp_path / f"x.{suffix}"
    for _ in range(2):  # the second replaces the first
        offline.export([artifact], to, out, model=model, keep_dense=True)
        assert [path.name for path in tmp_path.iterdir()] == [out.name]
        files = {path.name for path in out.iterdir()}
        assert files & set(MARKER_FILES[out.suffix]), files
    if to == "coreml":
        coremltools = pytest.importorskip("coremltools")
        assert coremltools.models.MLModel(str(out), skip_model_load=True).get_spec().mlProgram


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(SIDE, SIDE)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("to", ["coreai", "coreml"])
def test_weights_of_two_bytes(tmp_path, to):
    model, artifact = tmp_path / "half.pt2", tmp_path / "artifact"
    model.write_bytes(exported(Half().half().eval(), torch.randn(2, SIDE).half()))
    config = KMeansPalettizerConfig.model_validate({"global_config": rule(n_bits=4)})
    offline.compress([model], config, artifact, lambda *_: None)
    assert offline.export([artifact], to, tmp_path / "out", model=model) == ()


@pytest.mark.parametrize("to", ["coreai", "coreml"])
def test_what_a_target_lacks_is_told(made, tmp_path, to):
    model, artifact = made
    with pytest.raises(Inexpressible, match=f"{to} cannot express") as told:
        offline.export([artifact], to, tmp_path / "out", model=model)
    needs = {"coreai": "palettes of 3 bits", "coreml": "a scale of each channel beside vectors"}
    assert all(needs[to] in error.detail for error in told.value.errors)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["coreai", "coreml"])
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
