"""Strict requests and sensitivities on the command line."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from palettery import kernels
from palettery.schemas.report import Report

PALETTIZED = {"encoder.0.weight", "encoder.1.weight", "stem.weight"}


def test_strict_fails_before_any_work_and_says_why(palettery, model, tmp_path):
    document = {
        "global_config": {"op_state_spec": {"weight": {"n_bits": 4, "cluster_dim": 3}}},
        "module_name_configs": {"encodr.0": None},
    }
    document["global_config"]["enable_fast_kmeans_mode"] = False
    (tmp_path / "c.json").write_text(json.dumps(document))
    words = [model, "--config", tmp_path / "c.json"]
    assert palettery("plan", *words)[0] == 0
    before = set(tmp_path.iterdir())
    code, output, error = palettery("compress", *words, "--strict", "-o", tmp_path / "out")
    assert (code, output) == (2, "")
    first, *entries = error.splitlines()
    assert "1 config key matches nothing, and 3 tensors cannot take" in first
    assert "  /module_name_configs/encodr.0: " in entries[0]
    assert "did you mean encoder.0" in entries[0]
    names = [entry.partition(": ")[2].partition(" cannot")[0] for entry in entries[1:]]
    assert {name.split()[0] for alike in names for name in alike.split("], ")} == PALETTIZED
    assert "cluster_dim 3 does not divide axis 0 of length 64" in error
    assert set(tmp_path.iterdir()) == before
    assert palettery("plan", *words, "--strict")[0] == 2
    fitting = ["plan", model, "--preset", "w4", "--strict"]
    assert palettery(*fitting)[0] == 0


@pytest.fixture
def sensitivities(arrays, tmp_path):
    """Those of two of the three weights, under coreai-opt's names, in a folder of their own."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "calibrated"
    folder.mkdir()
    given = {
        f"{name.removesuffix('.weight')}.parametrizations.weight.original": rng.gamma(
            0.3, size=arrays[name].shape
        ).astype(np.float32)
        for name in ("encoder.0.weight", "stem.weight")
    }
    save_file(given, folder / "s.safetensors")
    return folder / "s.safetensors", given


def test_compress_with_sensitivities(palettery, model, arrays, tmp_path, sensitivities):
    path, given = sensitivities
    out, report = tmp_path / "out", tmp_path / "r.json"
    words = [model, "--preset", "w4", "--sensitivities", path]
    code, _, error = palettery("compress", *words, "-o", out, "--report", report)
    assert code == 0
    assert "warning: these palettized tensors have no sensitivities" in error
    assert "encoder.1.weight" in error
    output = Report.model_validate_json(report.read_bytes())
    weighted = {tensor.name for tensor in output.tensors if tensor.weighted}
    assert weighted == {"encoder.0.weight", "stem.weight"}
    settings = kernels.PaletteSettings(4, group_size=16, rounding_precision=4)
    for name in weighted:
        sensitivity = given[f"{name.removesuffix('.weight')}.parametrizations.weight.original"]
        palette = kernels.palettize(arrays[name], settings, sensitivity)
        assert load_file(out)[f"{name}.lut"].tobytes() == palette.lut.tobytes()
    planned = json.loads(palettery("plan", *words, "--json")[1])
    assert {tensor["name"] for tensor in planned["tensors"] if tensor["weighted"]} == weighted


def test_sensitivities_of_another_model(palettery, model, tmp_path):
    save_file({"encoder.0.wight": np.ones((64, 32), np.float32)}, tmp_path / "s")
    words = [model, "--preset", "w4", "--sensitivities", tmp_path / "s"]
    code, _, error = palettery("compress", *words, "-o", tmp_path / "out")
    assert code == 2
    assert "  /sensitivities/encoder.0.wight: the model has no tensor of this name" in error
    assert "encoder.0.weight" in error
    assert not (tmp_path / "out").exists()


def test_the_sensitivities_are_never_overwritten(palettery, model, sensitivities):
    path, _ = sensitivities
    before = path.read_bytes()
    words = [model, "--preset", "w4", "--sensitivities", path]
    code, _, error = palettery("compress", *words, "-o", path)
    assert (code, "a file of the sensitivities" in error) == (2, True)
    assert path.read_bytes() == before


def test_files_of_torch_whatever_their_strides(palettery, tmp_path):
    """As coreai-opt saves sensitivities: a dict of tensors, under the names of what it prepared."""
    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(64, 32), "b.weight": torch.randn(32, 64).t()}
    table = torch.randn(6, 4).t()
    given = {"a": torch.rand(32, 64).t(), "b": torch.rand(64, 32)}
    torch.save({**weights, "table": table}, tmp_path / "m.pt")
    torch.save(
        {f"{name}.parametrizations.weight.original": array for name, array in given.items()},
        tmp_path / "s.pt",
    )
    words = [tmp_path / "m.pt", "--preset", "w4", "--sensitivities", tmp_path / "s.pt"]
    code, _, error = palettery("compress", *words, "-o", tmp_path / "out")
    assert (code, error.count("\n"), "inferred" in error) == (0, 1, True)
    stored = load_file(tmp_path / "out")
    np.testing.assert_array_equal(stored["table"], table.numpy())
    settings = kernels.PaletteSettings(4, group_size=16, rounding_precision=4)
    for name, sensitivity in given.items():
        weight = weights[f"{name}.weight"].numpy()
        palette = kernels.palettize(weight, settings, sensitivity.numpy())
        assert stored[f"{name}.weight.lut"].tobytes() == palette.lut.tobytes()
