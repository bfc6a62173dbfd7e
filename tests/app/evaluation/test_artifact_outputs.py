"""Outputs of a model with an artifact's weights, by the command, against the live model."""

import copy
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from palettery.app.artifacts import load
from palettery.app.cli.offline import compress
from palettery.app.evaluation import artifact_outputs_worker as worker
from palettery.schemas.config import KMeansPalettizerConfig
from tests.forged import export

USING = Path(__file__).parents[3] / "docs" / "using.md"
CONFIG = {"global_config": {"op_state_spec": {"weight": {"n_bits": 2}}}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x, factor):
        y = self.linear(x) * factor
        return {"y": y, "mean": y.mean(), "factor": factor * 2}


class Single(nn.Module):
    """Model without a name for its output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        return self.linear(x)


def packed(folder, model, *inputs, **options):
    """The paths of a model and its artifact, and the model that the artifact decodes to."""
    path, artifact = folder / "model.pt2", folder / "packed.safetensors"
    path.write_bytes(export(model, *inputs, **options))
    compress([path], KMeansPalettizerConfig.model_validate(CONFIG), artifact, lambda *_: None)
    decoded = copy.deepcopy(model)
    decoded.load_state_dict(load(artifact))
    return path, artifact, decoded


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    torch.manual_seed(0)
    return packed(
        tmp_path_factory.mktemp("net"), Net().eval(), torch.ones(3, 16), torch.tensor(2.0)
    )


@pytest.fixture
def run(palettery, tmp_path):
    """Run a model on inputs; gives (exit code, stderr on one line, outputs if there are any)."""

    def go(path, artifact, *files):
        words, out = [], tmp_path / "outputs.safetensors"
        for number, tensors in enumerate(files):
            save_file(tensors, tmp_path / f"{number}.safetensors")
            words += ["--inputs", tmp_path / f"{number}.safetensors"]
        code, stdout, message = palettery("run", path, artifact, *words, "-o", out)
        assert stdout == ""
        return code, " ".join(message.split()), load_file(out) if out.exists() else None

    return go


@pytest.mark.heavy
def test_outputs_in_the_sandbox(net, run):
    path, artifact, decoded = net
    x, factor = torch.randn(3, 16), torch.tensor(2.0)
    code, message, outputs = run(path, artifact, {"x": x, "factor": factor})
    assert (code, "['y']: [3, 8]" in message) == (0, True)
    expected = decoded(x, factor)
    assert outputs.keys() == {f"['{name}']" for name in expected}
    for name, tensor in expected.items():
        assert torch.equal(outputs[f"['{name}']"], tensor)


@pytest.mark.usefixtures("in_this_process")
def test_the_command_of_the_docs(net, palettery, monkeypatch):
    path, _, decoded = net
    monkeypatch.chdir(path.parent)
    inputs = {"x": torch.randn(3, 16), "factor": torch.tensor(2.0)}
    save_file(inputs, "inputs.safetensors")
    (command,) = re.findall(r"^palettery (run .*)$", USING.read_text(), re.MULTILINE)
    assert palettery(*command.split())[0] == 0
    assert torch.equal(load_file("outputs.safetensors")["['y']"], decoded(**inputs)["y"])


@pytest.mark.usefixtures("in_this_process")
def test_batches_are_joined_in_order(net, run, tmp_path):
    path, artifact, _ = net
    x, factor = torch.randn(9, 16), torch.tensor(2.0)
    code, message, outputs = run(path, artifact, {"x": x, "factor": factor})
    assert (code, outputs) == (2, None)
    assert "['mean'] of shape [] has no axis of samples, and differs between batches" in message
    assert "run at most 3 samples at a time" in message
    single = packed(tmp_path, Single().eval(), torch.ones(3, 16))
    code, message, outputs = run(*single[:2], {"x": x}, {"x": x[:3] * 2})
    assert (code, message) == (0, "output: [12, 8]")
    torch.testing.assert_close(outputs["output"], single[2](torch.cat([x, x[:3] * 2])))


@pytest.mark.usefixtures("in_this_process")
def test_a_model_of_single_samples(run, tmp_path):
    path, artifact, decoded = packed(tmp_path, Single().eval(), torch.ones(16))
    x = torch.randn(4, 16)
    code, _, outputs = run(path, artifact, {"x": x})
    assert code == 0
    torch.testing.assert_close(outputs["output"], decoded(x))


@pytest.mark.usefixtures("in_this_process")
def test_inputs_and_artifacts_that_do_not_fit(net, run, tmp_path, monkeypatch):
    path, artifact, _ = net
    x, factor = torch.randn(3, 16), torch.tensor(2.0)
    code, message, _ = run(path, artifact, {"x": x})
    assert (code, "the model's inputs are x, factor" in message) == (2, True)
    code, message, _ = run(path, artifact, {"x": x * torch.nan, "factor": factor})
    assert (code, "values that are not finite" in message) == (2, True)
    other, *_ = packed(tmp_path, nn.Linear(4, 4).eval(), torch.zeros(1, 4))
    code, message, _ = run(other, artifact, {"input": torch.zeros(1, 4)})
    assert (code, "is it of another model?" in message) == (2, True)
    monkeypatch.setenv("PALETTERY_LIMIT_OUTPUT_BYTES", "100")
    code, message, _ = run(path, artifact, {"x": x, "factor": factor})
    assert (code, "over the limit of 100 bytes; run fewer samples at a time" in message) == (
        2,
        True,
    )


@pytest.mark.heavy
@pytest.mark.usefixtures("in_this_process")
def test_a_folder_of_transformers_with_padding(run, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
    )
    folder, artifact = tmp_path / "bert", tmp_path / "packed.safetensors"
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    compress([folder], KMeansPalettizerConfig.model_validate(CONFIG), artifact, lambda *_: None)
    mask = (torch.arange(8) < torch.tensor([[8], [3], [5]])).long()
    inputs = {"input_ids": torch.randint(0, 64, (3, 8)) * mask, "attention_mask": mask}
    code, _, outputs = run(folder, artifact, inputs)
    assert code == 0
    model.load_state_dict(load(artifact), strict=False)
    expected = model(**inputs)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(outputs[name], expected[name])


def test_shapes_that_differ_between_files():
    batches = [(range(2), torch.zeros(2, 3)), (range(2, 4), torch.zeros(2, 4))]
    with pytest.raises(worker.BadInput, match=r"out has the shapes \[2, 3\] and \[2, 4\]"):
        worker._merged("out", batches, is_single=False)
