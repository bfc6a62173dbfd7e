"""Registry of the ops whose weights can be palettized, and of the modules that run them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from palettery.schemas.checkpoint import Module, Op

CONV = tuple(f"conv{n}d" for n in (1, 2, 3))
CONV_TRANSPOSE = tuple(f"conv_transpose{n}d" for n in (1, 2, 3))
MULTI_HEAD_ATTENTION = "multi_head_attention_forward"


@dataclass(frozen=True)
class OpType:
    """One kind of registered operation."""

    name: str
    """Functional name; keys of `op_type_config` and names of ops contain it."""
    default_axis: Literal[0, 1] = 0
    """Group axis if the config sets none: the axis of the output channels."""
    flattens: bool = False
    """Kernels are flattened to two axes before they are grouped and cut into vectors."""


OP_TYPES: Mapping[str, OpType] = {
    op.name: op
    for op in (
        OpType("linear"),
        *(OpType(name, flattens=True) for name in CONV),
        *(OpType(name, default_axis=1, flattens=True) for name in CONV_TRANSPOSE),
        OpType(MULTI_HEAD_ATTENTION),
    )
}
"""Name -> registered op type. Source: coreai-opt 0.4.0, `supported_ops_registry`."""

OP_OF_MODULE: Mapping[str, str] = {
    "torch.nn.modules.linear.Linear": "linear",
    "torch.nn.modules.activation.MultiheadAttention": MULTI_HEAD_ATTENTION,
    **{f"torch.nn.modules.conv.Conv{n}d": f"conv{n}d" for n in (1, 2, 3)},
    **{f"torch.nn.modules.conv.ConvTranspose{n}d": f"conv_transpose{n}d" for n in (1, 2, 3)},
}
"""Module type -> the registered op that it runs on its own parameters."""

_ATTENTION_STATES = (
    "in_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
    "out_proj.weight",
    "out_proj.bias",
)
"""Names of the parameters of MultiheadAttention, relative to the module."""


def derive_ops(modules: Iterable[Module], tensor_names: Iterable[str]) -> tuple[Op, ...]:
    """Return the ops that modules run, by module type; for formats without a graph.

    MultiheadAttention reads the parameters of its out_proj itself: that submodule never runs.
    """
    existing = frozenset(tensor_names)
    ops = []
    for module in modules:
        kind = OP_OF_MODULE.get(module.type or "")
        if kind is None:
            continue
        prefix = f"{module.name}." if module.name else ""
        names = _ATTENTION_STATES if kind == MULTI_HEAD_ATTENTION else ("weight", "bias")
        states = {
            name.rpartition(".")[2]: prefix + name for name in names if prefix + name in existing
        }
        ops.append(Op(name=prefix + kind, type=kind, module=module.name, states=states))
    return tuple(ops)
