"""Module types from names and shapes, checked against live modules."""

import pytest
import torch
from torch import nn

from palettery.app.checkpoints.module_types import infer_modules
from palettery.app.checkpoints.op_types import derive_ops
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import StoredTensor

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
    result = {module.name: module.type for module in infer_modules(stored(shapes), Limits())}
    assert result.pop("") is None
    assert result == {key: type_of(module) for key, module in root.named_modules() if key}


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
    result = {module.name: module.type for module in infer_modules(tensors, Limits())}
    assert result["attn.out_proj"] == result["attn.q_proj"] == type_of(nn.Linear(1, 1))
    assert result["attn"] is None


def test_parents_come_before_children_whatever_the_order_of_tensors():
    tensors = stored({"b.c.x": (1,), "a.x": (1,), "b.x": (1,), "x": (1,), "b.a.c.x": (1,)})
    names = [module.name for module in infer_modules(tensors, Limits())]
    assert names == ["", "b", "b.c", "b.a", "b.a.c", "a"]


@pytest.mark.parametrize("name", ["../../x", "a..b", ".", "x.", ".x", "-", "a/b.weight"])
def test_odd_names_are_only_names(name):
    modules = {module.name for module in infer_modules(stored({name: (2, 2)}), Limits())}
    assert "" in modules
    assert name.rpartition(".")[0] in modules


class Conv1D(nn.Module):
    """As transformers has it: y = x @ weight + bias, the weight [inputs, outputs]."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))


CONV1D = "transformers.pytorch_utils.Conv1D"


def types(shapes):
    return {module.name: module.type for module in infer_modules(stored(shapes), Limits())}


def test_gpt2_is_kept_even_where_its_weights_are_square():
    block = nn.ModuleDict({"c_attn": Conv1D(6, 18), "c_proj": Conv1D(6, 6), "c_fc": Conv1D(6, 24)})
    root = nn.ModuleDict({"h": nn.ModuleList([block]), "wte": nn.Embedding(9, 6)})
    result = types({key: tensor.shape for key, tensor in root.state_dict().items()})
    assert [result[f"h.0.{name}"] for name in block] == [CONV1D] * 3
    assert result["wte"] == type_of(root["wte"])
    names = [f"h.0.{name}.{state}" for name in block for state in ("weight", "bias")]
    tensors = stored({key: tensor.shape for key, tensor in root.state_dict().items()})
    assert derive_ops(infer_modules(tensors, Limits()), names) == ()


def test_square_weights_with_a_bias_are_linear_elsewhere():
    assert types({"q.weight": (6, 6), "q.bias": (6,)})["q"] == type_of(nn.Linear(1, 1))


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(16, 8, 3, groups=2),
        nn.ConvTranspose1d(12, 6, 5, groups=3),
        nn.ConvTranspose3d(4, 8, 2),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 3, groups=4),
        nn.Conv1d(16, 16, 31, groups=16),
    ],
    ids=str,
)
def test_a_bias_distinguishes_convolutions_from_transposed_ones(module):
    shapes = {f"up.{name}": tensor.shape for name, tensor in module.state_dict().items()}
    assert types(shapes)["up"] == type_of(module)


@pytest.mark.parametrize("name", ["deconv", "conv_transpose", "decoder.convtr.0", "conv_tr1"])
def test_a_name_reveals_a_transposed_convolution_without_bias(name):
    module = nn.ConvTranspose2d(4, 6, 3, bias=False)
    assert types({f"{name}.weight": module.weight.shape})[name] == type_of(module)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("experts.input_linear", {"weight": (16, 24, 12)}),
        ("block_sparse_moe.output_linear", {"weight": (16, 12, 24)}),
        ("mlp.experts", {"weight": (4, 8, 8), "bias": (4, 8)}),
        ("ffn.w1", {"weight": (8, 64, 32)}),
        ("ffn.w2", {"weight": (8, 64, 32), "bias": (8, 64)}),
        ("bilinear", {"weight": (5, 4, 3), "bias": (5,)}),
        ("biaffine.label", {"weight": (5, 4, 3)}),
        ("score", {"weight": (50, 300, 300), "bias": (50,)}),
    ],
)
def test_three_axes_that_may_be_no_kernel_are_of_no_known_type(name, shapes):
    nested = {f"{name}.{state}": shape for state, shape in shapes.items()}
    assert types(nested)[name] is None


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ((6, 4), (5,)),
        ((6, 4), (6, 1)),
        ((6, 4, 3, 3), (5,)),
        ((6, 4, 3), (1, 6)),
        ((6, 0, 3), (7,)),
    ],
)
def test_a_bias_that_fits_no_type_rules_all_out(weight, bias):
    assert types({"layer.weight": weight, "layer.bias": bias})["layer"] is None


@pytest.mark.parametrize(
    "name",
    [
        *("shared", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "rwkv.emb"),
        *("model.embed_tokens", "tok_embeddings", "wte", "h.wpe", "decoder.tok", "vocab", "pos"),
        *("codebook", "codebook.0", "swin.relative_position_bias", "token_type", "emb"),
    ],
)
def test_embeddings_by_their_usual_names(name):
    assert types({f"{name}.weight": (30, 4)})[name] == type_of(nn.Embedding(1, 1))


@pytest.mark.parametrize(
    "name",
    ["lm_head", "pos_proj", "member", "ensemble.0", "shared.dense", "attention.position.key"],
)
def test_linear_layers_whose_names_only_look_like_those_of_embeddings(name):
    assert types({f"{name}.weight": (30, 4)})[name] == type_of(nn.Linear(1, 1))


@pytest.mark.parametrize("shape", [(12, 5), (12,), (12, 4, 1)])
def test_attention_of_another_make_is_of_no_known_type(shape):
    assert types({"attn.in_proj_weight": shape})["attn"] is None
    assert types({"attn.in_proj_weight": (12, 4)})["attn"] == type_of(nn.MultiheadAttention(4, 1))
