"""Module types from names and shapes, checked against live modules."""

import pytest
from torch import nn

from app.checkpoints.module_types import infer_modules
from app.checkpoints.ops import derive_ops
from app.settings import Limits
from schemas.checkpoint import StoredTensor

MODULES = {
    "fc": nn.Linear(4, 3),
    "plain": nn.Linear(4, 3, bias=False),
    "word_embeddings": nn.Embedding(5, 4),
    "embed_projection": nn.Linear(4, 3),
    "conv1": nn.Conv1d(4, 6, 3),
    "conv2": nn.Conv2d(4, 6, 3, bias=False),
    "conv3": nn.Conv3d(4, 6, 3),
    "up1": nn.ConvTranspose1d(4, 6, 3),
    "up2": nn.ConvTranspose2d(4, 6, 3),
    "patch_embed": nn.Conv2d(3, 8, 2),
    "norm": nn.LayerNorm(4),
    "rms": nn.RMSNorm(4),
    "bn": nn.BatchNorm2d(4),
    "lstm": nn.LSTM(4, 5),
    "gru": nn.GRU(4, 5),
    "rnn": nn.RNN(4, 5),
    "cell": nn.GRUCell(4, 5),
    "attn": nn.MultiheadAttention(4, 2),
    "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
}


def stored(shapes):
    return [
        StoredTensor(name=name, dtype="F32", shape=tuple(shape), file=0, offset=0, size_bytes=0)
        for name, shape in shapes.items()
    ]


def type_of(module):
    return f"{type(module).__module__}.{type(module).__qualname__}"


@pytest.mark.parametrize("name", MODULES)
def test_the_type_is_that_of_the_live_module(name):
    root = nn.ModuleDict({name: MODULES[name]})
    shapes = {key: tensor.shape for key, tensor in root.state_dict().items()}
    found = {module.name: module.type for module in infer_modules(stored(shapes), Limits())}
    assert found.pop("") is None
    assert found == {key: type_of(module) for key, module in root.named_modules() if key}


def test_attention_consumes_its_output_projection():
    root = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    tensors = stored({key: tensor.shape for key, tensor in root.state_dict().items()})
    ops = derive_ops(infer_modules(tensors, Limits()), (tensor.name for tensor in tensors))
    assert {op.name: op.states for op in ops} == {
        "attn.multi_head_attention_forward": {
            "in_proj_weight": "attn.in_proj_weight",
            "in_proj_bias": "attn.in_proj_bias",
            "weight": "attn.out_proj.weight",
            "bias": "attn.out_proj.bias",
        },
        "fc.linear": {"weight": "fc.weight", "bias": "fc.bias"},
    }


def test_a_weight_at_the_root_is_an_op_of_the_root():
    tensors = stored({"weight": (4, 3)})
    modules = infer_modules(tensors, Limits())
    assert [op.name for op in derive_ops(modules, ["weight"])] == ["linear"]


def test_an_output_projection_elsewhere_is_a_linear():
    tensors = stored({"attn.out_proj.weight": (4, 4), "attn.q_proj.weight": (4, 4)})
    found = {module.name: module.type for module in infer_modules(tensors, Limits())}
    assert found["attn.out_proj"] == found["attn.q_proj"] == type_of(nn.Linear(1, 1))
    assert found["attn"] is None


def test_parents_come_before_children_whatever_the_order_of_tensors():
    tensors = stored({"b.c.x": (1,), "a.x": (1,), "b.x": (1,), "x": (1,), "b.a.c.x": (1,)})
    names = [module.name for module in infer_modules(tensors, Limits())]
    assert names == ["", "b", "b.c", "b.a", "b.a.c", "a"]


@pytest.mark.parametrize("name", ["../../x", "a..b", ".", "x.", ".x", "-", "a/b.weight"])
def test_odd_names_are_only_names(name):
    modules = {module.name for module in infer_modules(stored({name: (2, 2)}), Limits())}
    assert "" in modules
    assert name.rpartition(".")[0] in modules
