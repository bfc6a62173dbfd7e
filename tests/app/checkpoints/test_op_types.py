"""Ops that modules run, by their types."""

import pytest
from torch import nn

from palettery.app.checkpoints.op_types import OP_OF_MODULE, OP_TYPES, derive_ops
from palettery.schemas.checkpoint import Module, Op

LINEAR = "torch.nn.modules.linear.Linear"
ATTENTION = "torch.nn.modules.activation.MultiheadAttention"


def module(name, kind):
    return Module(name=name, type=kind, type_source="inferred")


@pytest.mark.parametrize(
    "module_class",
    [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.MultiheadAttention],
)
def test_modules_of_torch_are_known_by_their_names(module_class):
    op = OP_TYPES[OP_OF_MODULE[f"{module_class.__module__}.{module_class.__qualname__}"]]
    is_transposed = "Transpose" in module_class.__name__
    assert (op.default_axis, op.flattens) == (int(is_transposed), "Conv" in module_class.__name__)


def test_ops_have_the_states_that_there_are():
    modules = [module("", LINEAR), module("a.b", LINEAR), module("c", None)]
    assert derive_ops(modules, ["weight", "a.b.weight", "a.b.bias", "c.weight"]) == (
        Op(name="linear", type="linear", module="", states={"weight": "weight"}),
        Op(
            name="a.b.linear",
            type="linear",
            module="a.b",
            states={"weight": "a.b.weight", "bias": "a.b.bias"},
        ),
    )


def test_attention_reads_the_states_of_its_projection():
    names = ["m.in_proj_weight", "m.out_proj.weight"]
    (op,) = derive_ops([module("m", ATTENTION)], names)
    assert op.states == {"in_proj_weight": names[0], "weight": names[1]}
