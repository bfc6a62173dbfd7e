"""Modules whose weights stay packed until they are used."""

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from palettery.app.artifacts import load, load_into
from palettery.app.cli.offline import compress
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.open import open_storage
from tests.app.stored_job import StoredJob, config_of, grouped
from tests.spanning import every_value

JOB_ID = "01890a5d-ac96-774b-bcce-000000000001"
SPECS = {
    "tensor": {"granularity": {"type": "per_tensor"}},
    "rows": {"granularity": grouped(4)},
    "columns": {"granularity": grouped(6, axis=1)},
    "vectors": {"granularity": grouped(4), "cluster_dim": 2},
    "scales": {"granularity": grouped(4), "enable_per_channel_scale": True},
    "quantized": {"granularity": grouped(4), "lut_qspec": {"dtype": "int8"}},
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(72, 12), nn.Linear(12, 8))


@pytest.fixture
def packed(tmp_path):
    """Palettize a module's weights; the file of the artifact."""

    def made(module, dtype=np.float32, **spec):
        arrays = {
            name: tensor.float().numpy().astype(dtype)
            for name, tensor in module.state_dict().items()
        }
        store = open_storage(tmp_path.as_uri())
        StoredJob(store, JOB_ID, arrays, config_of(**spec)).palettize().finish()
        return next((tmp_path / "jobs").glob("*/artifact/*"))

    return made


def weights(module):
    return {name: module.get_submodule(name).weight for name in ("0", "2", "3")}


@pytest.mark.parametrize(("n_bits", "name"), every_value([1, 2, 3, 4, 6, 8], list(SPECS)))
def test_weights_looked_up_are_those_decoded(packed, n_bits, name):
    module, other = network(), network()
    artifact = packed(module, n_bits=n_bits, **SPECS[name])
    load_into(module, artifact)
    other.load_state_dict(load(artifact))
    for name, weight in weights(module).items():
        assert torch.equal(weight, weights(other)[name]), name
    image = torch.randn(2, 6, 5, 5)
    assert torch.equal(module(image), other(image))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.float16, np.float16),
        (torch.bfloat16, ml_dtypes.bfloat16),
        (torch.float64, np.float64),
    ],
)
def test_weights_of_other_widths(packed, dtype, stored):
    module, other = network().to(dtype), network().to(dtype)
    artifact = packed(module, stored, n_bits=3, **SPECS["scales"])
    load_into(module, artifact)
    other.load_state_dict(load(artifact))
    for name, weight in weights(module).items():
        assert weight.dtype == dtype
        assert torch.equal(weight, weights(other)[name]), name


def test_memory_is_that_of_the_artifact(packed):
    module = nn.Sequential(nn.Linear(512, 512, bias=False))
    artifact = packed(module, n_bits=4)
    load_into(module, artifact)
    total_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    assert not list(module.parameters())
    assert total_bytes == 512 * 512 // 2 + 16 * 4


@pytest.mark.heavy
def test_a_compiled_module_gives_the_same(packed):
    module = network()
    load_into(module, packed(module, n_bits=3, granularity=grouped(4)))
    image = torch.randn(2, 6, 5, 5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), module(image))


def test_tied_weights_are_held_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
            self.head.weight = self.embed.weight

    module = Tied()
    path = tmp_path / "tied.pt"
    torch.save(module.state_dict(), path)
    compress([path], config_of(n_bits=2), tmp_path / "out", lambda *_: None)
    load_into(module, tmp_path / "out")
    assert torch.equal(module.embed.weight, module.head.weight)
    places = {
        tensor.data_ptr()
        for name, tensor in module.state_dict().items()
        if name.endswith(".indices")
    }
    assert len(places) == 1


class Positions(nn.Module):
    """As models of transformers: buffers that are not saved, which older checkpoints have."""

    def __init__(self, persistent):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("position_ids", torch.arange(4.0), persistent=persistent)
        self.register_buffer("scratch", torch.ones(3), persistent=False)


@pytest.mark.parametrize("n_bits", [2, 4])
def test_what_does_not_fit_is_returned_on_demand(packed, n_bits):
    saved, module = Positions(persistent=True), Positions(persistent=False)
    artifact = packed(saved, n_bits=n_bits)
    with pytest.raises(InvalidArtifact, match=r"has no position_ids.*strict=False"):
        load_into(module, artifact)
    apart = load_into(module, artifact, strict=False)
    assert apart == ([], ["position_ids"])
    assert apart.unexpected_keys == ["position_ids"]
    assert torch.equal(module.linear.bias, saved.linear.bias)
    assert torch.equal(module.linear.weight, load(artifact)["linear.weight"])
    assert torch.equal(module.position_ids, torch.arange(4.0))


def test_what_the_artifact_lacks_stays_as_it_was(packed):
    saved, module = network(), network()
    artifact = packed(saved[:1], n_bits=2)
    before = module[3].weight.clone()
    apart = load_into(module, artifact, strict=False)
    assert apart.missing_keys == ["2.bias", "2.weight", "3.bias", "3.weight"]
    assert apart.unexpected_keys == []
    assert torch.equal(module[3].weight, before)
    assert torch.equal(module[0].weight, load(artifact)["0.weight"])
    assert load_into(network(), packed(network(), n_bits=2)) == ([], [])


def test_a_palette_that_the_module_has_no_place_for_is_returned(packed):
    artifact, module = packed(network(), n_bits=2), network()[:1]
    apart = load_into(module, artifact, strict=False)
    assert apart.unexpected_keys == ["2.bias", "2.weight", "3.bias", "3.weight"]
    assert "0.weight_palette.indices" in module.state_dict()


def test_another_shape_is_refused_all_the_same(packed):
    artifact, module = packed(network(), n_bits=2), network()
    module[3] = nn.Linear(13, 8)
    with pytest.raises(InvalidArtifact, match=r"3\.weight has the shape"):
        load_into(module, artifact, strict=False)


def renamed(module):
    module.register_parameter("more", nn.Parameter(torch.ones(2)))


def reshaped(module):
    module[3] = nn.Linear(13, 8)


def shortened(module):
    del module[3]


OTHERS = {
    "more": (renamed, "the artifact lacks more"),
    "another shape": (reshaped, r"3\.weight has the shape \[8, 13\] in the module and \[8, 12\]"),
    "less": (shortened, r"the module has no 3\.bias and 1 more"),
}


@pytest.mark.parametrize(("change", "message"), OTHERS.values(), ids=OTHERS)
def test_another_module_is_refused_and_stays_as_it_was(packed, change, message):
    module = network()
    artifact = packed(module, n_bits=2)
    change(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(InvalidArtifact, match=message):
        load_into(module, artifact)
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
