"""Random configs on small live models: the plan picks what coreai-opt 0.3.0 picks, and as it does.

A tensor that coreai-opt gives up on, or on which it fails, must be kept here.
"""

import copy
import random
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from app.planning.resolve import resolve
from app.settings import Limits
from schemas.config import KMeansPalettizerConfig

coreai = pytest.importorskip("coreai_opt.palettization")
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


@pytest.fixture
def _one_thread():
    """Tiny tensors on many threads spend their time waiting for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_picks_the_same_tensors_and_specs(kind, checkpoint_of):
    torch.manual_seed(0)
    model = kind().eval()
    checkpoint = checkpoint_of(copy.deepcopy(model), MODELS[kind])
    rng = random.Random(7)  # noqa: S311 - no secret is made of it
    reached = 0
    for number in range(CONFIGS_PER_MODEL):
        document = Configs(rng, checkpoint).document()
        ours = _ours(document, checkpoint)
        assert ours == _theirs(document, copy.deepcopy(model), MODELS[kind]), (number, document)
        reached += len(ours)
    assert reached > CONFIGS_PER_MODEL


def _ours(document, checkpoint):
    plan = resolve(KMeansPalettizerConfig.model_validate(document), checkpoint, Limits())
    return {
        tensor.name: (
            tensor.spec.n_bits,
            tensor.clustering.group_size,
            tensor.clustering.axis,
            tensor.spec.cluster_dim,
            tensor.spec.enable_per_channel_scale,
            tensor.clustering.rounding_precision,
        )
        for tensor in plan.palettized()
    }


def _theirs(document, model, inputs):
    config = coreai.KMeansPalettizerConfig.from_dict(
        {"kmeans_palettization_config": copy.deepcopy(document)}
    )
    names = {
        id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        palettizer = coreai.KMeansPalettizer(model, config)
        palettizer._handler.prepare(model, inputs)
    found = {}
    for info in palettizer._collect_fake_palett_info(to_cpu=False):
        original = info.module.parametrizations[info.attr_name].original
        fake, grouping = info.fp_module, info.fp_module.granularity
        if not _clusters(fake, info.weight):
            continue
        fast = fake.enable_fast_kmeans_mode and fake.cluster_dim == 1
        found[names[id(original)]] = (
            fake.n_bits,
            getattr(grouping, "group_size", None),
            grouping.axis or 0,
            fake.cluster_dim,
            fake.enable_per_channel_scale,
            fake.rounding_precision if fast else None,
        )
    return found


def _clusters(fake, weight):
    """Whether coreai-opt palettizes the weight; it skips some and fails on others."""
    try:
        with warnings.catch_warnings(action="ignore"):
            fake.ensure_initialized(weight)
    except (IndexError, RuntimeError, ValueError):
        return False
    return not fake.is_disabled()


class Configs:
    """Random config documents over the names that a model has, and some that it has not."""

    def __init__(self, rng, checkpoint):
        self._rng = rng
        modules = [name for module in checkpoint.modules for name in (module.name, *module.aliases)]
        self._modules = [name for name in modules if name]
        self._types = sorted({module.type for module in checkpoint.modules})
        tensors = [name for tensor in checkpoint.tensors for name in (tensor.name, *tensor.aliases)]
        self._states = ["*", "missing", *sorted({name.rpartition(".")[2] for name in tensors})]
        self._ops = [op.name for op in checkpoint.ops]
        self._op_types = ["linear", "conv2d", "multi_head_attention_forward", "embedding", "Linear"]

    def document(self):
        rng, document = self._rng, {}
        if rng.random() < 0.6:
            document["global_config"] = self._module(module_state=False)
        types = rng.sample(self._types, k=rng.randint(0, 3))
        document["module_type_configs"] = {key: self._module() for key in types}
        names = {self._pattern(self._modules) for _ in range(rng.randint(0, 4))}
        document["module_name_configs"] = {key: self._module() for key in sorted(names)}
        return document

    def _module(self, *, module_state=True):
        rng = self._rng
        if rng.random() < 0.15:
            return None
        fast = rng.random() < 0.5
        said = {"enable_fast_kmeans_mode": fast, "rounding_precision": rng.randint(1, 9)}
        if rng.random() < 0.8:
            said["op_state_spec"] = self._specs(vectors=not fast)
        if rng.random() < 0.4:
            keys = rng.sample(self._op_types, k=2)
            said["op_type_config"] = {key: self._op() for key in keys}
        if rng.random() < 0.4:
            keys = {self._pattern(self._ops) for _ in range(2)}
            said["op_name_config"] = {key: self._op() for key in sorted(keys)}
        if module_state and rng.random() < 0.5:
            said["module_state_spec"] = self._specs(vectors=True)
        return said

    def _op(self):
        choice = self._rng.random()
        if choice < 0.2:
            return None
        return {} if choice < 0.3 else {"op_state_spec": self._specs(vectors=True)}

    def _specs(self, *, vectors):
        rng = self._rng
        if rng.random() < 0.1:
            return None
        keys = rng.sample(self._states, k=min(len(self._states), rng.randint(0, 3)))
        if rng.random() < 0.6:
            keys.append("weight")
        return {key: None if rng.random() < 0.2 else self._spec(vectors) for key in keys}

    def _spec(self, vectors):
        rng = self._rng
        spec = {"n_bits": rng.choice([1, 2, 3, 4, 6, 8])}
        if rng.random() < 0.5:
            spec["granularity"] = {
                "type": "per_grouped_channel",
                "group_size": rng.choice([1, 2, 3, 4, 8]),
                "axis": rng.choice([0, 1, None]),
            }
        if vectors and rng.random() < 0.3:
            spec["cluster_dim"] = rng.choice([2, 3, 4])
        spec["enable_per_channel_scale"] = rng.random() < 0.2
        return spec

    def _pattern(self, names):
        name = self._rng.choice(names)
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        part = f"({first}|nothing)"
        exact = name.replace(".", r"\.")
        return self._rng.choice([name, exact, f"{first}.*", f".*{last}", ".*", part, "no"])
