"""Sums of a calibration against sums that autograd gives, sample by sample."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from palettery.app.calibration import worker
from palettery.app.errors import BadInput
from palettery.app.inference.inputs import InputSpec, Signature, read_inputs
from palettery.app.inference.model import LiveModel
from palettery.schemas.calibration import CalibrationOptions

SAMPLES, LENGTH, WORDS, CLASSES = 11, 6, 20, 8


class Net(nn.Module):
    """Layers of every kind, a weight that is read twice, and one that only autograd can follow."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.places = nn.Embedding(LENGTH, 8)
        self.query, self.key, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.conv = nn.Conv1d(4, 6, 3, padding=1, groups=2)
        self.head = nn.Parameter(torch.randn(CLASSES, 6))
        self.unused = nn.Linear(3, 3)

    def forward(self, ids, attention_mask):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        x = torch.tanh(self.query(x)) * self.key(x)
        x = torch.relu_(self.out(self.query(x)))
        x = (x * attention_mask[..., None]).transpose(1, 2)
        x = self.conv(x).transpose(1, 2)
        return {"hidden": x, "logits": x @ self.head.T}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture
def inputs(tmp_path):
    torch.manual_seed(1)
    lengths = torch.randint(2, LENGTH + 1, (SAMPLES, 1))
    mask = (torch.arange(LENGTH) < lengths).long()
    path = tmp_path / "inputs.safetensors"
    save_file({"ids": torch.randint(0, WORDS, mask.shape), "attention_mask": mask}, path)
    return path


def live(net):
    weights = dict(net.named_parameters())
    specs = {
        "ids": InputSpec("ids", torch.int64, (None, None), WORDS),
        "attention_mask": InputSpec("attention_mask", torch.int64, (None, None)),
    }
    return LiveModel(lambda tensors: net(**tensors), weights, Signature(specs))


def calibrated(net, inputs, folder, **options):
    folder.mkdir()
    model = live(copy.deepcopy(net))
    files = read_inputs({inputs: "inputs"}, model.signature)
    chosen = CalibrationOptions(**options)
    result = worker._Calibration(model, files, chosen, folder).run()
    means = folder / "means"
    return (
        result,
        load_file(means / "sensitivities.safetensors"),
        load_file(means / "second_moments.safetensors"),
    )


@pytest.mark.parametrize("kind", ["outputs", "fisher"])
def test_batched_equals_sample_by_sample(net, inputs, tmp_path, kind):
    _, single, moments = calibrated(net, inputs, tmp_path / "1", batch=1, draws=2, kind=kind)
    result, batched, same = calibrated(net, inputs, tmp_path / "4", batch=4, draws=2, kind=kind)
    assert (
        batched.keys()
        == single.keys()
        == {
            *("words.weight", "places.weight", "query.weight", "key.weight", "out.weight"),
            *("conv.weight", "head"),
        }
    )
    assert result.unreached == ("unused.weight",)
    for name in batched.keys() - {"head", "places.weight"}:  # these are sums over a batch
        torch.testing.assert_close(batched[name], single[name], rtol=1e-5, atol=1e-6)
    for name in moments:
        torch.testing.assert_close(same[name], moments[name], rtol=1e-5, atol=1e-6)


def test_sensitivities_are_squared_gradients(net, inputs, tmp_path):
    """With every direction, rather than random ones, the answer is the norm of the Jacobian."""
    draws = 64
    _, found, _ = calibrated(net, inputs, tmp_path / "out", draws=draws, outputs=("hidden",))
    tensors = load_file(inputs)
    scale = worked_scale(net, tensors)
    for name in ("words.weight", "query.weight", "conv.weight"):
        expected = torch.zeros_like(found[name])
        weight = net.get_parameter(name)
        for row in range(SAMPLES):
            one = {key: value[row : row + 1] for key, value in tensors.items()}

            def outputs(value, name=name, one=one):
                y = torch.func.functional_call(net, {name: value}, kwargs=one)["hidden"]
                return y[one["attention_mask"].bool()] / scale

            jacobian = torch.autograd.functional.jacobian(outputs, weight)
            expected += jacobian.square().sum((0, 1))
        error = (found[name] - expected / SAMPLES).abs().sum() / (expected / SAMPLES).sum()
        assert error < 0.25


def worked_scale(net, tensors):
    with torch.no_grad():
        return net(**tensors)["hidden"][tensors["attention_mask"].bool()].std(correction=0)


def test_second_moments_are_means_over_real_positions(net, inputs, tmp_path):
    result, _, moments = calibrated(net, inputs, tmp_path / "out")
    assert result.second_moments["key.weight"] == "key.weight"  # query runs twice, key once
    tensors, seen = load_file(inputs), []
    net.key.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    net.conv.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        net(**tensors)
    x = seen[0][tensors["attention_mask"].bool()]
    torch.testing.assert_close(moments["key.weight"], x.T @ x / len(x))
    assert moments["conv.weight"].shape == (2, 6, 6)


class Tied(nn.Module):
    """Embedding and output layer share a weight, so no second moment has all of its uses."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(WORDS, 8), nn.Linear(8, 8)

    def forward(self, ids, attention_mask):
        hidden = torch.tanh(self.layer(self.words(ids))) * attention_mask[..., None]
        return {"logits": nn.functional.linear(hidden, self.words.weight)}


def test_a_weight_that_is_an_embedding_too_has_no_second_moments(inputs, tmp_path):
    tied = Tied().eval().requires_grad_(False)
    result, sensitivities, moments = calibrated(tied, inputs, tmp_path / "out")
    assert result.second_moments == {"layer.weight": "layer.weight"}
    assert sensitivities["words.weight"].any()
    assert set(moments) == {"layer.weight"}


def test_a_second_try_goes_on_and_gives_the_same(net, inputs, tmp_path, monkeypatch):
    _, expected, moments = calibrated(net, inputs, tmp_path / "whole", batch=2)
    folder, ran = tmp_path / "again", []
    plain = worker._Calibration._add_batch

    def dies(self, batch, rows):
        ran.append(batch.samples)
        if len(ran) == 4:
            raise KeyboardInterrupt
        plain(self, batch, rows)

    monkeypatch.setattr(worker._Calibration, "_add_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        calibrated(net, inputs, folder, batch=2)
    assert not (folder / "means").exists()
    (state,) = folder.glob("state-*")
    model = live(net)
    files = read_inputs({inputs: "inputs"}, model.signature)
    worker._Calibration(model, files, CalibrationOptions(batch=2), folder).run()
    assert len(ran) == 4 + 6 - int(state.name.removeprefix("state-"))
    for file, tensors in (("sensitivities", expected), ("second_moments", moments)):
        for name, tensor in load_file(folder / "means" / f"{file}.safetensors").items():
            assert torch.equal(tensor, tensors[name])


def test_outputs_that_are_not_finite_name_the_module(net, inputs, tmp_path):
    net.out.weight[0, 0] = torch.nan
    with pytest.raises(BadInput, match=r"output .* not finite .* linear of or after module out;"):
        calibrated(net, inputs, tmp_path / "out")


def test_an_output_that_the_model_lacks(net, inputs, tmp_path):
    with pytest.raises(
        BadInput, match="no floating-point output 'loss'; it has 'hidden', 'logits'"
    ):
        calibrated(net, inputs, tmp_path / "out", outputs=("loss",))
