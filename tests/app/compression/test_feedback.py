"""Palettization by the second moments of a calibration, from its folder to the report."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from palettery import load
from palettery.app.calibration.calibrate import (
    CALIBRATION_FILE,
    SECOND_MOMENTS,
    SENSITIVITIES,
    content_sha256,
)
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.settings import Limits
from palettery.schemas.calibration import CalibratedTensor, Calibration, CalibrationOptions

SHAPES = {"one.weight": (32, 24), "other.weight": (16, 24), "conv.weight": (12, 2, 3)}
CONFIG = {
    "global_config": {
        "op_state_spec": {
            "weight": {
                "n_bits": 2,
                "granularity": {"type": "per_grouped_channel", "group_size": 4, "axis": 0},
            }
        },
        "enable_fast_kmeans_mode": False,
    }
}


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def moments():
    rng = np.random.default_rng(1)
    inputs = rng.normal(0, 1, (60, 24)) + 2 * rng.normal(0, 1, (60, 1))
    unfolded = rng.normal(0, 1, (3, 40, 6)) + rng.normal(0, 1, (3, 40, 1))
    return {
        "one.weight": (inputs.T @ inputs / 60).astype(np.float32),
        "conv.weight": (unfolded.swapaxes(1, 2) @ unfolded / 40).astype(np.float32),
    }


@pytest.fixture
def calibration(tmp_path, weights, moments):
    """A folder as of `palettery calibrate`, under other names; two layers share their input."""
    model = tmp_path / "model.safetensors"
    save_file(weights, model)
    files = stored_files([model], digests=False)
    checkpoint = read_checkpoint(files.storage, files.files, Limits())
    layers = {
        "one.weight": "one.weight",
        "other.weight": "one.weight",
        "conv.weight": "conv.weight",
    }
    folder = tmp_path / "calibration"
    folder.mkdir()
    tensors = tuple(
        CalibratedTensor(
            name=f"model.{tensor.name}",
            sha256=content_sha256(files.storage, checkpoint, tensor),
            second_moments=f"model.{layers[tensor.name]}",
        )
        for tensor in checkpoint.tensors
    )
    document = Calibration(
        options=CalibrationOptions(), samples=1, sample_sha256=("0" * 64,), outputs={"y": 1.0},
        tensors=tensors, unreached=(),
    )  # fmt: skip
    (folder / CALIBRATION_FILE).write_text(document.model_dump_json())
    save_file(
        {f"model.{name}": np.ones_like(each) for name, each in weights.items()},
        folder / SENSITIVITIES,
    )
    save_file({f"model.{name}": each for name, each in moments.items()}, folder / SECOND_MOMENTS)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return folder


def output_error(weight, dense, moments):
    """Squared error of outputs over squared outputs."""
    each = moments.reshape(-1, *moments.shape[-2:]).astype(np.float64)
    own = np.repeat(each, len(weight) // len(each), axis=0)

    def square(rows):
        flat = rows.reshape(len(rows), -1)
        return np.einsum("ri,rij,rj->", flat, own, flat)

    return square(weight.astype(np.float64) - dense) / square(weight.astype(np.float64))


def compress(palettery, tmp_path, *flags):
    """Run the command on a model, with the calibration of `calibration`."""
    return palettery(
        "compress", tmp_path / "model.safetensors", "--config", tmp_path / "config.json",
        "--calibration", tmp_path / "calibration", "-o", tmp_path / "packed.safetensors",
        "--report", tmp_path / "report.json", *flags,
    )  # fmt: skip


def results(tmp_path):
    """The weights of the artifact, and the reports on tensors by name."""
    document = json.loads((tmp_path / "report.json").read_text())
    dense = load(tmp_path / "packed.safetensors")
    return (
        {name: tensor.numpy() for name, tensor in dense.items()},
        {tensor["name"]: tensor for tensor in document["tensors"]},
    )


@pytest.mark.usefixtures("calibration")
def test_the_report_has_the_errors_of_outputs(palettery, tmp_path, weights, moments, monkeypatch):
    monkeypatch.setattr("palettery.app.planning.tasks.SMALLEST_TASK_BYTES", 64)  # rows are split
    code, output, error = compress(palettery, tmp_path)
    assert (code, "outputs dB" in output) == (0, True), error
    dense, reports = results(tmp_path)
    code, output, error = compress(palettery, tmp_path, "--no-feedback")
    assert (code, "outputs dB" in output) == (0, False), error
    plain, others = results(tmp_path)
    for name, weight in weights.items():
        own = moments.get(name, moments["one.weight"])
        error, before = (output_error(weight, each[name], own) for each in (dense, plain))
        assert reports[name]["method"] == "feedback"
        assert others[name]["method"] == "sensitivities"
        assert "output_error" not in others[name]
        np.testing.assert_allclose(reports[name]["output_error"], error, rtol=1e-5)
        without = reports[name]["output_error_without_feedback"]
        np.testing.assert_allclose(without, before, rtol=1e-5)
        assert error < 0.8 * before


def test_damaged_second_moments_are_refused(palettery, tmp_path, calibration):
    broken = np.diag(np.r_[np.ones(23), -1.0]).astype(np.float32)
    save_file(
        {"model.one.weight": broken, "model.conv.weight": np.zeros((3, 6, 6), np.float32)},
        calibration / SECOND_MOMENTS,
    )
    code, _, error = compress(palettery, tmp_path)
    assert code == 2
    assert "the second moment is not positive semidefinite" in " ".join(error.split())
    assert not (tmp_path / "packed.safetensors").exists()
