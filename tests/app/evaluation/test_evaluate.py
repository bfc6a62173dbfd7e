"""What a model computes before and after, by the command, against the live model."""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palettery.app.artifacts import load
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.local_files import stored_files
from palettery.app.cli.offline import compress
from palettery.app.errors import BadInput
from palettery.app.evaluation import dense_outputs, evaluate, worker
from palettery.app.evaluation.goals import parse_goal
from palettery.app.inference.model import UnreadWeights
from palettery.app.settings import Limits
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.evaluation import Evaluation
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


@pytest.fixture(scope="module")
def palettized(tmp_path_factory):
    """A model, its file, and its artifact."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("palettized")
    net, path, artifact = Net().eval(), folder / "net.pt2", folder / "packed.safetensors"
    path.write_bytes(export(net, torch.randn(3, 16), torch.tensor(2.0)))
    config = KMeansPalettizerConfig.model_validate(CONFIG)
    compress([path], config, artifact, lambda *_: None)
    return net, path, artifact


@pytest.fixture
def made(palettized, tmp_path):
    """A model, a copy of its file, and its artifact."""
    net, path, artifact = palettized
    return copy.deepcopy(net), Path(shutil.copy(path, tmp_path)), artifact


def saved(tmp_path, **tensors):
    save_file(tensors, tmp_path / "inputs.safetensors")
    return tmp_path / "inputs.safetensors"


@pytest.mark.heavy
def test_outputs_before_and_after(made, palettery, tmp_path):
    net, path, artifact = made
    given = {"x": torch.randn(3, 16), "factor": torch.tensor(2.0)}
    inputs = saved(tmp_path, **given)
    code, told, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    out, untouched = json.loads(told)["outputs"]
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


@pytest.mark.usefixtures("models_in_this_process")
def test_table_of_outputs(made, palettery, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    _, table, _ = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert "equal" in table


@pytest.mark.usefixtures("models_in_this_process")
def test_each_sample_is_compared_unless_there_are_too_many(made, palettery, tmp_path, monkeypatch):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(6, 16), factor=torch.tensor(2.0))
    words = ("evaluate", path, artifact, "--inputs", inputs, "--per-sample", "--json")
    monkeypatch.setattr(worker, "MAX_COMPARED_SAMPLES", 12)
    _, whole, said = palettery(*words)
    whole = Evaluation.model_validate_json(whole)
    assert [len(output.samples) for output in whole.outputs] == [6, 6]
    assert said == ""
    assert whole.with_samples(None).with_samples(whole.compared_samples()) == whole
    monkeypatch.setattr(worker, "MAX_COMPARED_SAMPLES", 11)
    _, cut, said = palettery(*words)
    cut = Evaluation.model_validate_json(cut)
    assert cut.outputs == whole.with_samples(None).outputs
    assert "there are 12 of samples and outputs, and 11 are allowed" in said


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
    assert (done.returncode, len(json.loads(done.stdout)["outputs"])) == (0, 2)
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


@pytest.mark.usefixtures("models_in_this_process")
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


@pytest.mark.usefixtures("models_in_this_process")
def test_an_artifact_of_another_model(made, palettery, tmp_path):
    _, _, artifact = made
    other = tmp_path / "other.pt2"
    other.write_bytes(export(nn.Linear(4, 4).eval(), torch.zeros(1, 4)))
    inputs = saved(tmp_path, input=torch.zeros(1, 4))
    code, _, told = palettery("evaluate", other, artifact, "--inputs", inputs)
    assert code == 2
    assert "is it of another model?" in " ".join(told.split())


@pytest.mark.usefixtures("models_in_this_process")
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(4, 16), "exported for batches of 3, and {} has 4 samples; send a multiple"),
        (torch.zeros(3, 15), "x in {} has the shape [3, 15]; the model takes [3, 16]"),
        (torch.zeros(3), "x in {} has the shape [3]; the model takes [3, 16]"),
        (torch.zeros(0, 16), "{} has no samples"),
        (torch.zeros(3, 16).long(), "x in {} has the dtype int64; the model takes float32"),
        (torch.full((3, 16), torch.nan), "x in {} has values that are not finite"),
    ],
)
def test_inputs_that_the_model_does_not_take(made, palettery, tmp_path, x, said):
    _, path, artifact = made
    inputs = saved(tmp_path, x=x, factor=torch.tensor(2.0))
    code, out, told = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert said.format(inputs) in told


@pytest.mark.heavy
def test_a_model_that_has_no_graph(made, palettery):
    _, _, artifact = made
    code, _, told = palettery("evaluate", artifact, artifact, "--inputs", artifact)
    assert (code, "it is an artifact of Palettery" in told) == (2, True)


@pytest.mark.heavy
@pytest.mark.usefixtures("models_in_this_process")
def test_a_quality_that_is_not_reached(made, palettery, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(6, 16), factor=torch.tensor(2.0))
    words = ("evaluate", path, artifact, "--inputs", inputs, "--at-least")
    code, told, _ = palettery(*words, "cosine.p5=0.5", "--per-sample", "--json")
    assert code == 0
    evaluation = json.loads(told)
    out, untouched = evaluation["outputs"]
    cosines = [sample["cosine"] for sample in out["samples"]]
    assert evaluation["samples"] == out["shape"][0] == len(cosines) == 6
    assert out["sample_cosine"]["mean"] == pytest.approx(sum(cosines) / 6)
    assert out["sample_cosine"]["min"] == out["sample_cosine"]["p5"] == min(cosines)
    assert untouched["sample_snr_db"]["mean"] is None
    code, _, told = palettery(*words, "snr_db=90", "--at-least", "cosine=0.5")
    assert code == 1
    assert told.startswith("missed: snr_db=90: output \"['out']\" has ")
    assert told.count("\n") == 1
    code, _, told = palettery(*words, "cosin=1")
    assert (code, "the goal is 'cosin=1'; write one of cosine, cosine.p5" in told) == (2, True)
    code, _, told = palettery(*words, "top1=1")
    assert (code, "no output has a number for the goal top1=1" in told) == (2, True)


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


@pytest.mark.usefixtures("models_in_this_process")
def test_an_operator_that_writes_elsewhere_is_refused_by_name(made, palettery, tmp_path):
    _, path, artifact = made
    path.write_bytes(with_an_unsafe_operator(path.read_bytes(), dead=False))
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    code, _, said = palettery("evaluate", path, artifact, "--inputs", inputs)
    assert code == 2
    assert "max_pool2d_with_indices_backward" in said
    assert "elsewhere" in said
    assert "nothing of it was run" in " ".join(said.split())


@pytest.mark.usefixtures("models_in_this_process")
def test_such_an_operator_that_nothing_uses_is_left_out(made, palettery, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    code, expected, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    path.write_bytes(with_an_unsafe_operator(path.read_bytes(), dead=True))
    code, found, _ = palettery("evaluate", path, artifact, "--inputs", inputs, "--json")
    assert code == 0
    assert found == expected


@pytest.mark.usefixtures("models_in_this_process")
def test_stored_outputs_stand_for_the_model_before(made, tmp_path):
    _, path, artifact = made
    inputs = saved(tmp_path, x=torch.randn(9, 16), factor=torch.tensor(2.0))
    model, stored = stored_files([path], digests=True), tmp_path / "outputs"

    def keep(file):
        stored.write_bytes(file.read())

    outputs = dense_outputs.dense_outputs(model, [inputs], Limits(), keep)
    assert (outputs.samples, outputs.is_stored) == (9, True)

    def compared(**more):
        return evaluate.evaluate(model, open_files([artifact]), [inputs], Limits(), **more)

    path.write_bytes(with_an_unsafe_operator(path.read_bytes(), dead=True))  # other bytes
    assert compared(outputs=lambda to: shutil.copy(stored, to)) == compared()
    with pytest.raises(BadInput, match="no output has a number for the goal top1=1"):
        dense_outputs.dense_outputs(model, [inputs], Limits(), keep, goals=[parse_goal("top1=1")])


@pytest.mark.usefixtures("models_in_this_process")
def test_outputs_that_are_too_large_are_not_stored(made, tmp_path):
    _, path, _ = made
    inputs = saved(tmp_path, x=torch.randn(3, 16), factor=torch.tensor(2.0))
    model, limits = stored_files([path], digests=True), Limits(output_bytes=3 * 16 * 4 * 2 - 1)
    outputs = dense_outputs.dense_outputs(model, [inputs], limits, pytest.fail)
    assert (outputs.samples, outputs.is_stored) == (3, False)


class Halves(nn.Module):
    """Whose second half nothing reads."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


def test_weights_that_no_input_reaches_are_listed():
    halves = Halves()
    reached = UnreadWeights(dict(halves.named_parameters()))
    with reached:
        assert halves.unused.weight.shape == (4, 4)
        halves(torch.zeros(2, 4))
    assert reached.unreached() == ("unused.weight", "unused.bias")
