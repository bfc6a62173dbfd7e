"""Modules inferred from the names and shapes of their parameters, where nothing better is there.

The types are what `torch.nn` modules with such parameters have; where several fit, the one that
leads to palettizing less is taken. Every one is marked as inferred, and the plan shows it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.errors import TooLarge
from app.settings import Limits
from schemas.checkpoint import Module, StoredTensor

Shapes = Mapping[str, tuple[int, ...]]
"""Local parameter name -> shape."""

_NN = "torch.nn.modules"
_EMBEDDING = re.compile(r"embed|\bwte\b|\bwpe\b|token_type", re.IGNORECASE)
_GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}
_OUT_PROJECTION = f"{_NN}.linear.NonDynamicallyQuantizableLinear"


def infer_modules(tensors: Sequence[StoredTensor], limits: Limits) -> tuple[Module, ...]:
    """The module tree that dotted tensor names tell of, parents before children.

    Raises:
        TooLarge: names nested so deep that they make more modules than tensors are allowed.
    """
    parameters: dict[str, dict[str, tuple[int, ...]]] = {}
    paths: dict[str, None] = {"": None}
    for tensor in tensors:
        path, _, local = tensor.name.rpartition(".")
        parameters.setdefault(path, {})[local] = tensor.shape
        while path not in paths:
            paths[path] = None
            path = path.rpartition(".")[0]
        if len(paths) > 2 * limits.tensors:
            raise TooLarge(
                f"the tensor names tell of over {2 * limits.tensors:,} modules, the most allowed"
            )
    types = {path: infer_type(path, parameters.get(path, {})) for path in paths}
    for path in list(types):
        parent, _, last = path.rpartition(".")
        if last == "out_proj" and types[parent] == f"{_NN}.activation.MultiheadAttention":
            types[path] = _OUT_PROJECTION
    return tuple(
        Module(name=path, type=types[path], type_source="inferred") for path in _depth_first(types)
    )


def infer_type(path: str, shapes: Shapes) -> str | None:
    """The fully qualified type of a module with these parameters; None when nothing fits."""
    if "in_proj_weight" in shapes or {"q_proj_weight", "k_proj_weight"} <= shapes.keys():
        return f"{_NN}.activation.MultiheadAttention"
    if "running_mean" in shapes:
        return f"{_NN}.batchnorm.BatchNorm2d"
    if (recurrent := _recurrent_type(shapes)) is not None:
        return recurrent
    weight = shapes.get("weight")
    if weight is None:
        return None
    if len(weight) == 1:
        return f"{_NN}.normalization.{'LayerNorm' if 'bias' in shapes else 'RMSNorm'}"
    if len(weight) == 2:
        # An embedding has no bias, so a projection among the embeddings is told from one.
        embedding = _EMBEDDING.search(path) and "bias" not in shapes
        return f"{_NN}.sparse.Embedding" if embedding else f"{_NN}.linear.Linear"
    if 3 <= len(weight) <= 5:
        return f"{_NN}.conv.Conv{_transpose(weight, shapes.get('bias'))}{len(weight) - 2}d"
    return None


def _transpose(weight: tuple[int, ...], bias: tuple[int, ...] | None) -> str:
    """A bias has one entry per output channel, which a transposed convolution has on axis 1."""
    transposed = bias is not None and bias != weight[:1] and bias == weight[1:2]
    return "Transpose" if transposed else ""


def _recurrent_type(shapes: Shapes) -> str | None:
    for name, suffix in (("weight_hh_l0", ""), ("weight_hh", "Cell")):
        hidden = shapes.get(name)
        if hidden is not None and len(hidden) == 2 and hidden[1]:
            kind = _GATES.get(hidden[0] // hidden[1])
            return f"{_NN}.rnn.{kind}{suffix}" if kind else None
    return None


def _depth_first(paths: Iterable[str]) -> Iterator[str]:
    """Every path behind its parent, siblings in the order of their first appearance."""
    children: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path:
            children[path.rpartition(".")[0]].append(path)
    waiting = [""]
    while waiting:
        path = waiting.pop()
        yield path
        waiting += reversed(children[path])
