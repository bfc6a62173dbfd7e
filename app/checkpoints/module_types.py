"""Module types inferred from the names and shapes of parameters, where exact types are unknown.

A bias has one entry per output channel, which rules out every type whose weight has its output
channels on another axis. If several types still match, the one with fewer palettized weights is
used. Every module is marked as inferred.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from palettery.app.errors import TooLarge
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Module, StoredTensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Local parameter name -> shape."""

MODULES_PER_NAME, SPARE_MODULES = 4, 1_000
"""Maximum number of modules: for each name of a tensor or module, plus a constant."""

_NN = "torch.nn.modules"
_LINEAR = f"{_NN}.linear.Linear"
_CONV1D = "transformers.pytorch_utils.Conv1D"
"""A linear layer whose weight is [inputs, outputs], as in GPT-2; coreai-opt keeps it."""
_EMBEDDING = re.compile(
    r"embed|token_type|(?<![a-z])(?:emb|wte|wpe)(?![a-z])"
    r"|(?:^|\.)(?:shared|lookup|vocab|codebook|tok(?:en)?s?|pos(?:ition)?s?"
    r"|rel(?:ative)?_(?:attention_|pos(?:ition)?_)?(?:bias|pos(?:ition)?|table))(?:\.\d+)?$",
    re.IGNORECASE,
)
"""Paths of embeddings."""
_NO_CONVOLUTION = re.compile(r"linear|expert|(?<![a-z])moe(?![a-z])|bilin|biaffine", re.IGNORECASE)
"""Paths of modules that have weights with three axes and are not convolutions."""
_CONVOLUTION = re.compile(r"conv|cnn", re.IGNORECASE)
"""Paths of convolutions."""
_TRANSPOSED = re.compile(r"deconv|transpos|conv_?tr(?![a-z])", re.IGNORECASE)
_MAX_KERNEL_LENGTH = 11
"""Longest kernel of a Conv1d whose path does not match `_CONVOLUTION`; a longer axis may be one of
features."""
_RECURRENT_TYPES = {1: "RNN", 3: "GRU", 4: "LSTM"}
"""Gates per hidden unit -> type."""
_ATTENTION = f"{_NN}.activation.MultiheadAttention"
_OUT_PROJECTION = f"{_NN}.linear.NonDynamicallyQuantizableLinear"


def infer_modules(tensors: Sequence[StoredTensor], limits: Limits) -> tuple[Module, ...]:
    """Return the module tree that dotted tensor names imply, parents before children.

    Raises:
        TooLarge: the names are nested so deep that there are far more modules than tensors.
    """
    parameters: dict[str, dict[str, tuple[int, ...]]] = {}
    paths: dict[str, None] = {"": None}
    for tensor in tensors:
        path, _, local = tensor.name.rpartition(".")
        parameters.setdefault(path, {})[local] = tensor.shape
        while path not in paths:
            paths[path] = None
            path = path.rpartition(".")[0]
        check_module_count(len(paths), len(tensors), limits)
    types = {path: infer_type(path, parameters.get(path, {})) for path in paths}
    if _CONV1D in types.values():  # a square weight fits both; such models have no Linear with bias
        types |= {
            path: _CONV1D
            for path, type_ in types.items()
            if type_ == _LINEAR and _is_square_with_bias(parameters[path])
        }
    for path in list(types):
        parent, _, last = path.rpartition(".")
        if last == "out_proj" and types[parent] == _ATTENTION:
            types[path] = _OUT_PROJECTION
    return tuple(
        Module(name=path, type=types[path], type_source="inferred") for path in _depth_first(types)
    )


def check_module_count(num_modules: int, num_names: int, limits: Limits) -> None:
    """Check that a module tree is not far larger than the list of names it was built from.

    Raises:
        TooLarge: over `MODULES_PER_NAME`, or over twice the limit of tensors.
    """
    max_modules = SPARE_MODULES + MODULES_PER_NAME * num_names
    if num_modules > max_modules:
        raise TooLarge(
            f"{num_names:,} names imply over {max_modules:,} modules; {MODULES_PER_NAME} for each "
            f"name and {SPARE_MODULES:,} more are allowed: give the tensors shorter paths"
        )
    if num_modules > 2 * limits.tensors:
        raise TooLarge(
            f"the names imply over {2 * limits.tensors:,} modules; 2 are allowed for each tensor; "
            f"{limits.allowed('tensors')}"
        )


def infer_type(path: str, shapes: Shapes) -> str | None:
    """Return the fully qualified type of a module with these parameters; None if unsure."""
    if "in_proj_weight" in shapes or {"q_proj_weight", "k_proj_weight"} <= shapes.keys():
        return _ATTENTION if _is_attention(shapes) else None
    if "running_mean" in shapes:
        return f"{_NN}.batchnorm.BatchNorm2d"
    if (recurrent := _recurrent_type(shapes)) is not None:
        return recurrent
    weight, bias = shapes.get("weight"), shapes.get("bias")
    if weight is None:
        return None
    if len(weight) == 1:
        return f"{_NN}.normalization.{'RMSNorm' if bias is None else 'LayerNorm'}"
    if len(weight) == 2:
        return _matrix_type(path, weight, bias)
    if 3 <= len(weight) <= 5:
        return _convolution_type(path, weight, bias)
    return None


def _is_attention(shapes: Shapes) -> bool:
    """Return whether the query, key and value projections are separate, or stacked consistently."""
    stacked = shapes.get("in_proj_weight")
    if stacked is None:
        return True
    rows = stacked[0] if len(stacked) == 2 else 0
    is_stacked = len(stacked) == 2 and rows == 3 * stacked[1]
    return is_stacked and shapes.get("in_proj_bias", (rows,)) == (rows,)


def _matrix_type(path: str, weight: Shape, bias: Shape | None) -> str | None:
    if bias is None:
        return f"{_NN}.sparse.Embedding" if _EMBEDDING.search(path) else _LINEAR
    if bias == weight[:1]:
        return _LINEAR
    return _CONV1D if bias == weight[1:] else None


def _is_square_with_bias(shapes: Shapes) -> bool:
    weight = shapes["weight"]
    return "bias" in shapes and weight[0] == weight[1]


def _convolution_type(path: str, weight: Shape, bias: Shape | None) -> str | None:
    if len(weight) == 3 and not _may_be_conv1d(path, weight):
        return None
    dimensions = len(weight) - 2
    fits_forward = bias is None or bias == weight[:1]
    fits_transposed = _fits_transposed(weight, bias)
    if fits_forward and not (fits_transposed and _TRANSPOSED.search(path)):
        return f"{_NN}.conv.Conv{dimensions}d"
    return f"{_NN}.conv.ConvTranspose{dimensions}d" if fits_transposed else None


def _may_be_conv1d(path: str, weight: Shape) -> bool:
    """Return whether three axes look like a kernel, and not like experts or a bilinear map."""
    if _NO_CONVOLUTION.search(path):
        return False
    is_short = weight[2] <= _MAX_KERNEL_LENGTH or weight[1] == 1
    return is_short or _CONVOLUTION.search(path) is not None


def _fits_transposed(weight: Shape, bias: Shape | None) -> bool:
    """Return whether the shapes match a weight of [inputs, outputs / groups, kernel]."""
    if bias is None:
        return True
    inputs, outputs_of_a_group = weight[:2]
    if len(bias) != 1 or not outputs_of_a_group or bias[0] % outputs_of_a_group:
        return False
    groups = bias[0] // outputs_of_a_group
    return groups > 0 and inputs % groups == 0


def _recurrent_type(shapes: Shapes) -> str | None:
    for name, suffix in (("weight_hh_l0", ""), ("weight_hh", "Cell")):
        hidden = shapes.get(name)
        if hidden is not None and len(hidden) == 2 and hidden[1]:
            kind = _RECURRENT_TYPES.get(hidden[0] // hidden[1])
            return f"{_NN}.rnn.{kind}{suffix}" if kind else None
    return None


def _depth_first(paths: Iterable[str]) -> Iterator[str]:
    """Yield every path after its parent, siblings in the order of their first appearance."""
    children: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path:
            children[path.rpartition(".")[0]].append(path)
    stack = [""]
    while stack:
        path = stack.pop()
        yield path
        stack += reversed(children[path])
