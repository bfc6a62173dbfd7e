"""Calibration by the command: what it writes, and what compress and evaluate make of it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from palettery.app import sandbox
from palettery.app.cli.offline_models import calibrate
from palettery.app.errors import SandboxCrashed
from palettery.app.inference import run_model
from palettery.schemas.calibration import CalibrationOptions
from tests.forged import export

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("models_in_this_process")]

MODEL, CONFIG = "net.pt2", "config.json"
CALIBRATE, EVALUATE = "calibrate.safetensors", "evaluate.safetensors"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"y": self.net(x)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and a folder of its `.pt2` and inputs to calibrate and to evaluate on."""
    torch.manual_seed(0)
    net, folder = Net().eval(), tmp_path_factory.mktemp("made")
    with torch.no_grad():  # plain K-means spends its palette on these, whose inputs are nearly 0
        net.first.weight[:, :8] *= 20
    batch = torch.export.Dim("batch")
    (folder / MODEL).write_bytes(export(net, torch.randn(3, 16), dynamic_shapes=({0: batch},)))
    scale = torch.cat([torch.full((8,), 0.001), torch.ones(8)])
    save_file({"x": torch.randn(40, 16) * scale}, folder / CALIBRATE)
    save_file({"x": torch.randn(60, 16) * scale}, folder / EVALUATE)
    (folder / CONFIG).write_text(
        json.dumps({"global_config": {"op_state_spec": {"weight": {"n_bits": 2}}}})
    )
    return net, folder


@pytest.fixture(scope="module")
def calibration(made):
    """A calibration of the model, by the command's function, in the sandbox."""
    _, folder = made
    out, options = folder / "calibration", CalibrationOptions()
    calibrate([folder / MODEL], [folder / CALIBRATE], out, options, lambda *_: None)
    return out


def mean_cosine(palettery, folder, artifact, *options):
    """Return what the evaluation of an artifact on held-out inputs gives, and its warnings."""
    words = ("evaluate", folder / MODEL, artifact, "--inputs", folder / EVALUATE, "--json")
    code, told, warnings = palettery(*words, *options)
    assert code == 0
    (output,) = json.loads(told)["outputs"]
    return output["sample_cosine"]["mean"], warnings


def test_from_inputs_to_a_better_artifact(made, calibration, palettery, tmp_path):
    _, folder = made
    summary = json.loads((calibration / "calibration.json").read_text())
    assert (summary["samples"], summary["unreached"]) == (40, [])
    sensitivities = load_file(calibration / "sensitivities.safetensors")
    assert {name: list(each.shape) for name, each in sensitivities.items()} == {
        "first.weight": [32, 16],
        "second.weight": [8, 32],
    }
    assert sensitivities["first.weight"][:, :8].mean() * 100 < sensitivities["first.weight"].mean()
    moments = load_file(calibration / "second_moments.safetensors")
    x = load_file(folder / CALIBRATE)["x"]
    torch.testing.assert_close(moments["first.weight"], x.T @ x / len(x))
    words = ("compress", folder / MODEL, "--config", folder / CONFIG, "-o")
    assert palettery(*words, tmp_path / "plain")[0] == 0
    assert palettery(*words, tmp_path / "better", "--calibration", calibration)[0] == 0
    plain, _ = mean_cosine(palettery, folder, tmp_path / "plain")
    better, warnings = mean_cosine(
        palettery, folder, tmp_path / "better", "--calibration", calibration
    )
    assert better > plain
    assert warnings == ""
    words = ("evaluate", folder / MODEL, tmp_path / "better", "--calibration", calibration)
    code, _, told = palettery(*words, "--inputs", folder / CALIBRATE)
    assert (code, told.startswith("warning: 40 of these samples are samples")) == (0, True)


def test_a_target_is_chosen_by_what_a_calibration_says(
    made, calibration, palettery, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, folder = made
    words = ("compress", folder / MODEL, "--target", "3kB", "-o")
    code, plain, told = palettery(*words, tmp_path / "plain")
    assert (code, "guess" in plain) == (0, True), told
    code, chosen, told = palettery(*words, tmp_path / "better", "--calibration", calibration)
    assert (code, "guess" in chosen) == (0, False), told
    assert (tmp_path / "better").stat().st_size <= 3000
    better, _ = mean_cosine(palettery, folder, tmp_path / "better")
    assert better > mean_cosine(palettery, folder, tmp_path / "plain")[0]


def test_a_wrapper_of_the_same_weights(made, calibration, palettery, tmp_path):
    net, folder = made
    wrapped = tmp_path / "wrapped.pt2"
    wrapped.write_bytes(export(Wrapper(net).eval(), torch.randn(3, 16)))
    report = tmp_path / "report.json"
    words = ("--config", folder / CONFIG, "--calibration", calibration, "--report", report)
    assert palettery("compress", wrapped, "-o", tmp_path / "out", *words)[0] == 0
    tensors = json.loads(report.read_text())["tensors"]
    weighted = {each["name"] for each in tensors if each["weighted"]}
    assert weighted == {"net.first.weight", "net.second.weight"}
    other = tmp_path / "other.safetensors"
    save_file({"first.weight": torch.randn(32, 16)}, other)
    code, _, told = palettery("compress", other, "-o", tmp_path / "none", *words)
    assert (code, "the calibration is of other weights" in told) == (2, True)


def test_what_a_killed_calibration_did_is_kept(made, palettery, tmp_path, monkeypatch):
    _, inputs = made
    folder, again = tmp_path / "calibration", tmp_path / "again"
    words = ("calibrate", inputs / MODEL, "--inputs", inputs / CALIBRATE, "--batch", 1, "-o")
    assert palettery(*words, again)[0] == 0

    def killed(*_):
        if [*tmp_path.glob(".calibration.calibration/state-*")]:
            raise SandboxCrashed("killed")

    with monkeypatch.context() as patched:
        patched.setattr(run_model, "run", sandbox.run)
        patched.setattr(run_model, "report_progress", killed)
        code, _, told = palettery(*words, folder)
        if code == 0:
            pytest.skip("it ended before it could be killed")
    assert (code, told, folder.exists()) == (1, "palettery: killed\n", False)
    assert palettery(*words, folder)[0] == 0
    for name in ("sensitivities", "second_moments"):
        expected = load_file(again / f"{name}.safetensors")
        for key, tensor in load_file(folder / f"{name}.safetensors").items():
            assert torch.equal(tensor, expected[key])
    assert not [*tmp_path.glob(".calibration*")]


def test_inputs_that_no_calibration_can_use(made, palettery, tmp_path):
    path = made[1] / MODEL
    inputs, out = tmp_path / "bad.safetensors", tmp_path / "calibration"
    save_file({"x": torch.randn(1, 16)}, inputs)
    code, _, told = palettery("calibrate", path, "--inputs", inputs, "-o", out)
    assert (code, "warning: the inputs hold one sample" in told) == (0, True)
    code, _, told = palettery("calibrate", path, "--inputs", inputs, "-o", out)
    assert (code, "calibration exists; name a new folder" in told) == (2, True)
    save_file({"y": torch.randn(3, 16)}, inputs)
    code, _, told = palettery("calibrate", path, "--inputs", inputs, "-o", tmp_path / "none")
    assert (code, "the model's inputs are x; " in told) == (2, True)
    assert not [*tmp_path.glob(".none*")]
