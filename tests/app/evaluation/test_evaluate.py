"""What a model computes before and after, by the command, against the live model."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palettery.app.artifacts import load
from tests.forged import archived, export

CONFIG = {"global_config": {"op_state_spec": {"weight": {"n_bits": 2}}}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 16)
        self.twin = nn.Linear(16, 32)
        self.twin.weight = self.first.weight
        self.register_buffer("shift", torch.ones(16))

    def forward(self, x, factor):
        y = self.second(torch.relu(self.first(x) + self.twin(x))) * factor + self.shift
        return {"out": y, "untouched": [x + factor]}


@pytest.fixture
def made(tmp_path, palettery):
    """A model, its file, and its artifact."""
    torch.manual_seed(0)
    net, path, artifact = Net().eval(), tmp_path / "net.pt2", tmp_path / "packed.safetensors"
    path.write_bytes(export(net, torch.randn(3, 16), torch.tensor(2.0)))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    code, _, told = palettery(
        "compress", path, "--config", tmp_path / "config.json", "-o", artifact
    )
    assert code == 0, told
    return net, path, artifact


def saved(tmp_path, **tensors):
    save_file(tensors, tmp_path / "inputs.safetensors")
    return tmp_path / "inputs.safetensors"


def test_outputs_before_and_after(made, palettery, tmp_path):
    net, path, artifact = made
    given = {"x": torch.randn(3, 16), "factor": torch.tensor(2.0)}
    inputs = saved(tmp_path, **given)
    code, told, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    out, untouched = json.loads(told)
    before = net(**given)["out"]
    net.load_state_dict(load(artifact))
    noise = net(**given)["out"] - before
    assert (out["name"], out["shape"]) == ("['out']", [3, 16])
    assert out["max_error"] == pytest.approx(noise.abs().max().item(), rel=1e-5)
    snr_db = 10 * torch.log10(before.square().sum() / noise.square().sum())
    assert out["snr_db"] == pytest.approx(snr_db.item(), rel=1e-4)
    assert 0.5 < out["cosine"] < 1
    assert (untouched["name"], untouched["snr_db"]) == ("['untouched'][0]", None)
    assert (untouched["cosine"], untouched["max_error"]) == (pytest.approx(1), 0)
    _, table, _ = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert "equal" in table


@pytest.fixture
def evaluation(made, tmp_path, monkeypatch):
    """A function: `palettery evaluate` as a user runs it, where the library of Landlock is not."""
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "landlockpy.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(shim))
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    program = Path(sys.executable).with_name("palettery")

    def run(**environment):
        return subprocess.run(
            [program, "evaluate", path, artifact, "--inputs", inputs, "--json"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.heavy
def test_without_a_sandbox_a_line_warns(evaluation):
    done = evaluation()
    assert (done.returncode, len(json.loads(done.stdout))) == (0, 2)
    [line] = done.stderr.splitlines()
    assert "files are not protected" in line


@pytest.mark.heavy
def test_without_a_sandbox_nothing_runs_where_one_is_required(evaluation):
    done = evaluation(PALETTERY_SANDBOX_REQUIRED="true")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("palettery: running the model needs a sandbox")


def test_a_model_that_takes_too_long_is_reported_as_that(made, palettery, tmp_path, monkeypatch):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    monkeypatch.setenv("PALETTERY_SANDBOX_TIMEOUT_S", "0.5")
    code, _, told = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert (code, "running the model exceeded the limit of 0.5 s" in told) == (1, True)


def test_inputs_of_another_model(made, palettery, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, y=torch.zeros(1))
    code, _, told = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert code == 2
    assert "the model's inputs are x, factor" in " ".join(told.split())
    inputs.write_bytes(b"none")
    code, _, told = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert code == 2
    assert "no safetensors file" in " ".join(told.split())


def test_an_artifact_of_another_model(made, palettery, tmp_path):
    _, _, artifact = made
    other = tmp_path / "other.pt2"
    other.write_bytes(export(nn.Linear(4, 4).eval(), torch.zeros(1, 4)))
    inputs = saved(tmp_path, input=torch.zeros(1, 4))
    code, _, told = palettery("evaluate", other, artifact, "--inputs", inputs)
    assert code == 2
    assert "is it of another model?" in " ".join(told.split())


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(4, 16), "to be equal to 3, but got 4"),
        (torch.zeros(3, 16, dtype=torch.int64), "must have the same dtype, but got Long and Float"),
    ],
)
def test_inputs_that_the_model_cannot_run_on(made, palettery, tmp_path, x, said):
    _, path, artifact = made
    inputs = saved(tmp_path, x=x, factor=torch.tensor(2.0))
    code, out, told = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert f"the model cannot run on {inputs} (" in told
    assert f"x {list(x.shape)}" in told
    assert said in told


def test_a_model_that_is_no_pt2(made, palettery, tmp_path):
    _, _, artifact = made
    told = "is a safetensors file; {} takes the .pt2 that was palettized (torch.export.save)\n"
    failed = palettery("evaluate", artifact, artifact, "--inputs", artifact)
    assert failed == (2, "", f"palettery: {artifact.name} {told.format('evaluate')}")
    out = tmp_path / "out"
    failed = palettery("export", artifact, "--to", "coreai", "--model", artifact, "-o", out)
    assert failed == (2, "", f"palettery: {artifact.name} {told.format('export --model')}")


def with_an_unsafe_operator(data, *, dead):
    """The archive with a call that writes to a chosen place beyond a tensor."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (graph,) = (name for name in members if "/models/" in name)
    document = json.loads(members[graph])
    inner = document["graph_module"]["graph"]
    given = {name: {"as_tensor": {"name": "x"}} for name in ("grad_output", "self", "indices")}
    given |= {name: {"as_ints": [2, 2]} for name in ("kernel_size", "stride", "dilation")}
    given |= {"padding": {"as_ints": [0, 0]}, "ceil_mode": {"as_bool": False}}
    inner["nodes"].insert(
        0,
        {
            "target": "torch.ops.aten.max_pool2d_with_indices_backward.default",
            "inputs": [{"name": name, "arg": arg, "kind": 1} for name, arg in given.items()],
            "outputs": [{"as_tensor": {"name": "elsewhere"}}],
            "metadata": {},
        },
    )
    inner["tensor_values"]["elsewhere"] = inner["tensor_values"]["x"]
    if not dead:
        linear = next(node for node in inner["nodes"] if "linear" in node["target"])
        linear["inputs"][0]["arg"] = {"as_tensor": {"name": "elsewhere"}}
    members[graph] = json.dumps(document).encode()
    return archived(*((name.partition("/")[2], content) for name, content in members.items()))


def test_an_operator_that_writes_elsewhere_is_refused_by_name(made, palettery, tmp_path):
    _, path, artifact = made
    path.write_bytes(with_an_unsafe_operator(path.read_bytes(), dead=False))
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    code, _, said = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert code == 2
    assert "max_pool2d_with_indices_backward" in said
    assert "elsewhere" in said
    assert "nothing of it was run" in " ".join(said.split())


def test_such_an_operator_that_nothing_uses_is_left_out(made, palettery, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    code, expected, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    path.write_bytes(with_an_unsafe_operator(path.read_bytes(), dead=True))
    code, found, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    assert found == expected
