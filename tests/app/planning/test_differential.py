"""The `.pt2` of a model resolves to what coreai-opt 0.4.0 picks on the live model.

Each model is exported once; random configs then use every level of the config language. Two
things are not in a `.pt2`: types of modules that never run, so that configs name those that do;
and, being no part of the state dict, non-persistent buffers, which are left alone here.
"""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from palettery.app.checkpoints.pt2 import read_pt2
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.config import PRESETS

MINILM = Path(__file__).parents[3] / ".cache/minilm"

CONFIGS_PER_MODEL = 40


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(4, 8, 3, padding="same")
        self.plane = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.space = nn.Conv3d(1, 4, 1)
        self.mirror = nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.mirror(self.plane(self.line(x)[:, None]))
        return self.head(self.space(x[:, :1, None])[:, 0, 0])

    inputs = (torch.zeros(1, 4, 8),)


class Depthwise(nn.Module):
    """Depth-wise separable, weights stored channels last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.point = nn.Conv2d(8, 4, 1, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.point(F.relu6(self.depth(self.stem(x))))

    inputs = (torch.zeros(1, 4, 8, 8),)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.ConvTranspose1d(4, 6, 2, stride=2)
        self.two = nn.ConvTranspose2d(6, 4, 2)
        self.three = nn.ConvTranspose3d(4, 8, 1, groups=2)

    def forward(self, x):
        return self.three(self.two(self.one(x)[:, :, None])[:, :, None])

    inputs = (torch.zeros(1, 4, 4),)


class Transformer(nn.Module):
    """A stock encoder, with the head tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.place = nn.Parameter(torch.randn(1, 4, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens) + self.place))

    inputs = (torch.zeros(1, 4, dtype=torch.long),)


class Decoder(nn.Module):
    """Attention of every kind: decoder layers, other key sizes, extra biases, used twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.biased = nn.MultiheadAttention(8, 2, add_bias_kv=True, bias=False)

    def forward(self, x):
        x = self.layer(x, x)
        x = x + self.cross(x, x[..., :6], x[..., :4])[0]
        return self.biased(self.biased(x, x, x)[0], x, x, need_weights=False)[0]

    inputs = (torch.zeros(2, 3, 8),)


class Scale(nn.Module):
    """Calls functions on parameters of its own."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(8, 8))
        self.w2 = nn.Parameter(torch.randn(8, 8))
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("kernel", torch.randn(8, 1, 3))

    def forward(self, x):
        x = F.linear(F.linear(x, self.w1, self.gain), self.w2)
        return F.conv1d(x.transpose(1, 2), self.kernel, padding=1, groups=8).transpose(1, 2)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(8, 8))
        self.w2 = nn.Parameter(torch.randn(8, 8))
        self.w3 = nn.Parameter(torch.randn(4, 8))
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.scale = Scale()
        self.register_buffer("mask", torch.ones(8), persistent=False)

    def forward(self, x):
        x = F.linear(x * self.mask, self.w1) @ self.w2
        x = F.linear(x, (self.mix * 2).t())
        x = torch.einsum("bsi,oi->bso", self.scale(self.scale(x)), self.mix)
        return F.linear(F.linear(x, self.w1), torch.cat([self.w3, self.w3]))

    inputs = (torch.zeros(1, 4, 8),)


class Tied(nn.Module):
    """One weight under several names, in modules that differ."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Sequential(nn.Linear(8, 8, bias=False), nn.GELU())
        self.second[0].weight = self.first.weight
        self.odd = nn.Module()
        self.odd.kernel = nn.Parameter(torch.randn(8, 8))
        self.third = nn.Linear(8, 8)
        self.third.weight = self.odd.kernel

    def forward(self, x):
        return self.third(F.linear(self.second(self.first(x)), self.odd.kernel))

    inputs = (torch.zeros(1, 8),)


class Repeated(nn.Module):
    """Modules that run several times."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(8, 8)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.scale = Scale()
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        for _ in range(2):
            x = self.scale(self.block(self.line(x)))
        return self.last(F.linear(self.line(x), self.scale.w1))

    inputs = (torch.zeros(1, 4, 8),)


class TwoNames(nn.Module):
    """Modules under several names, run under another than the first, or under one only."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.group = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU()))
        self.again = self.group[1]
        self.second = self.first
        self.whole = self.group
        self.inner = nn.ModuleDict({"deep": nn.ModuleList([self.first, nn.Linear(8, 4)])})

    def forward(self, x):
        x = self.second(self.whole(self.again(x)))
        return self.inner["deep"][1](self.group(x))

    inputs = (torch.zeros(1, 8),)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.bag = nn.EmbeddingBag(16, 8)
        self.place = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("table", torch.randn(16, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 16, dtype=torch.float64)

    def forward(self, tokens):
        x = self.words(tokens) + self.place + self.table[tokens] + F.embedding(tokens, self.table)
        return self.head(self.norm(x + self.bag(tokens)[:, None]).to(torch.float64))

    inputs = (torch.zeros(1, 4, dtype=torch.long),)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.long = nn.LSTM(4, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.gated = nn.GRU(16, 8, batch_first=True)
        self.plain = nn.RNN(8, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.step = nn.LSTMCell(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.plain(self.gated(self.long(x)[0])[0])[0]
        return self.head(self.step(self.cell(x[:, 0]))[0])

    inputs = (torch.zeros(1, 3, 4),)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8))
            for _ in range(3)
        )
        self.heads = nn.ModuleDict({"b": nn.Linear(8, 4), "a": nn.Linear(8, 4)})
        self.unused = nn.Sequential(nn.Linear(8, 8))
        self.small = nn.Linear(8, 8, dtype=torch.bfloat16)

    def forward(self, x):
        for stage in self.stages:
            x = x + stage(x)
        x = self.small(x.to(torch.bfloat16)).to(torch.float32)
        return self.heads["a"](x) + self.heads["b"](x)

    inputs = (torch.zeros(1, 8),)


class Oddments(nn.Module):
    """Layers that no registered op serves, some of them in graphs within the graph."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Bilinear(8, 8, 8)
        self.act = nn.PReLU(8)
        self.norm = nn.GroupNorm(2, 8)
        self.still = nn.Linear(8, 8)
        self.cast = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8))
        self.point = nn.Parameter(torch.randn(1))

    def forward(self, x):
        with torch.no_grad():
            x = self.still(x)
        x = self.norm(self.act(self.mix(x, x)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.cast(x)
        return self.still(x.to(torch.float32)) * self.point

    inputs = (torch.zeros(2, 8),)


MODELS = (
    *(Convolutional, Depthwise, Transposed, Transformer, Decoder, Functional, Tied),
    *(Repeated, TwoNames, Embedded, Recurrent, Nested, Oddments),
)


def _export(model, inputs, path):
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(model, inputs), path)
    file = StoredFile(name=path.name, path=path.name, size_bytes=path.stat().st_size)
    return read_pt2(open_storage(path.parent.as_uri()), file, Limits())


def _compare(model, inputs, path, documents_for, ours, theirs, configs=CONFIGS_PER_MODEL):
    """Number of tensors that all configs together palettized."""
    checkpoint = _export(model, inputs, path)
    documents = documents_for(checkpoint, seed=11)
    saved, reached = model.state_dict().keys(), 0
    for number in range(configs):
        document = next(documents)
        picked = ours(document, checkpoint)
        live = theirs(document, model, inputs)
        live = {name: how for name, how in live.items() if name in saved}
        assert picked == live, (number, document)
        reached += len(picked)
    return reached


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("configs", "least"),
    [(8, 1), pytest.param(CONFIGS_PER_MODEL, CONFIGS_PER_MODEL // 2, marks=pytest.mark.heavy)],
)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_an_export_resolves_as_the_live_model(
    kind, configs, least, tmp_path, documents_for, ours, theirs
):
    torch.manual_seed(0)
    model = kind().eval()
    path = tmp_path / "model.pt2"
    reached = _compare(model, kind.inputs, path, documents_for, ours, theirs, configs)
    assert reached >= least


@pytest.mark.heavy
@pytest.mark.usefixtures("one_thread")
def test_an_export_of_bert_resolves_as_the_live_model(tmp_path, documents_for, ours, theirs):
    with warnings.catch_warnings(action="ignore"):
        transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=24,
        max_position_embeddings=8,
    )
    model = transformers.BertModel(config).eval()
    inputs = (torch.zeros(1, 4, dtype=torch.long),)
    path = tmp_path / "bert.pt2"
    assert _compare(model, inputs, path, documents_for, ours, theirs) > CONFIGS_PER_MODEL


@pytest.mark.heavy
def test_minilm_through_its_config_resolves_as_the_live_model(ours, theirs):
    with warnings.catch_warnings(action="ignore"):
        transformers = pytest.importorskip("transformers")
    storage = open_storage(MINILM.as_uri())
    files = [
        StoredFile(name=name, path=name, size_bytes=(MINILM / name).stat().st_size)
        for name in ("model.safetensors", "config.json")
    ]
    checkpoint = read_checkpoint(storage, files, Limits())
    said = transformers.BertConfig.from_dict(json.loads((MINILM / "config.json").read_text()))
    model = transformers.BertModel(said).eval()
    document = PRESETS["w4"]().to_dict()["kmeans_palettization_config"]
    found = ours(document, checkpoint)
    assert found == theirs(document, model, (torch.zeros(1, 4, dtype=torch.long),))
    assert len(found) == 37


def test_at_least_500_pairs_are_compared():
    assert (len(MODELS) + 1) * CONFIGS_PER_MODEL >= 500
