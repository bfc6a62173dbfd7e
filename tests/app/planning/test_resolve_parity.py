"""Random configs on small live models: the plan picks what coreai-opt 0.4.0 picks, and as it does.

A tensor that coreai-opt gives up on, or on which it fails, must be kept here.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

FEW_CONFIGS = 8
CONFIGS_PER_MODEL = 40


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.line = nn.Conv1d(6, 4, 1)
        self.head = nn.Linear(4, 8, dtype=torch.float64)

    def forward(self, x):
        x = self.up(self.depthwise(self.stem(x)))
        return self.head(self.line(x.flatten(2)).mean(2).to(torch.float64))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 12)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor([1, 2]))

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        x = x + self.cross(x, x[..., :6], x[..., :4])[0]
        return self.head(self.norm(x))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(8, 8))
        self.w2 = nn.Parameter(torch.randn(8, 8))
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.GELU()))
        self.again = self.first[1]
        self.twin = nn.Linear(8, 8, bias=False)
        self.twin.weight = self.first[0].weight
        self.odd = nn.Module()
        self.odd.kernel = self.w2
        self.mix = nn.Bilinear(8, 8, 4)
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.act = nn.PReLU(4)
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        x = F.linear(F.linear(x, self.w1), self.w2)
        x = F.linear(self.twin(self.again(self.first(x))), self.w1)
        x = self.act(self.rnn(self.mix(x, x))[0].transpose(1, 2)).transpose(1, 2)
        return self.cell(x[:, 0])


MODELS = {
    Convolutions: (torch.zeros(1, 4, 6, 6),),
    Attention: (torch.zeros(1, 3, dtype=torch.long),),
    Shared: (torch.zeros(1, 4, 8),),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "configs", [FEW_CONFIGS, pytest.param(CONFIGS_PER_MODEL, marks=pytest.mark.heavy)]
)
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_picks_the_same_tensors_and_specs(
    kind, configs, checkpoint_of, documents_for, ours, theirs
):
    torch.manual_seed(0)
    model = kind().eval()
    checkpoint = checkpoint_of(copy.deepcopy(model), MODELS[kind])
    documents = documents_for(checkpoint, seed=7)
    reached = 0
    for number in range(configs):
        document = next(documents)
        picked = ours(document, checkpoint)
        assert picked == theirs(document, model, MODELS[kind]), (number, document)
        reached += len(picked)
    assert reached > configs
