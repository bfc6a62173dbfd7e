"""Module types inferred from the names and shapes of parameters; the fallback of exact types.

A bias has one entry per output channel, which rules out every type whose weight has its output
channels on another axis. If several types still match, the one that palettizes less is used. Every
module is marked as inferred.
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
_KERNEL_LENGTH = 11
"""Longest kernel of a Conv1d whose path does not match `_CONVOLUTION`; a longer axis may be one of
features."""
_GATES = {1: "RNN", 3: "GRU", 4: "LSTM"}
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
    if _CONV1D in types.values():
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


def check_module_count(modules: int, names: int, limits: Limits) -> None:
    """Check that a module tree is not far larger than the list of names it was built from.

    Raises:
        TooLarge: over `MODULES_PER_NAME`, or over twice the limit of tensors.
    """
    most = SPARE_MODULES + MODULES_PER_NAME * names
    if modules > most:
        raise TooLarge(
            f"{names:,} names imply over {most:,} modules; {MODULES_PER_NAME} for each name and "
            f"{SPARE_MODULES:,} more are allowed: give the tensors shorter paths"
        )
    if modules > 2 * limits.tensors:
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
    """Return whether the projections are stacked, with a bias of the same length, or separate."""
    joined = shapes.get("in_proj_weight")
    if joined is None:
        return True
    rows = joined[0] if len(joined) == 2 else 0
    fits = len(joined) == 2 and rows == 3 * joined[1]
    return fits and shapes.get("in_proj_bias", (rows,)) == (rows,)


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
    plain, transposed = (f"{_NN}.conv.Conv{kind}{len(weight) - 2}d" for kind in ("", "Transpose"))
    fits_plain = bias is None or bias == weight[:1]
    if fits_plain and not (_TRANSPOSED.search(path) and _fits_transposed(weight, bias)):
        return plain
    return transposed if _fits_transposed(weight, bias) else None


def _may_be_conv1d(path: str, weight: Shape) -> bool:
    """Return whether three axes look like a kernel, and not like experts or a bilinear map."""
    if _NO_CONVOLUTION.search(path):
        return False
    is_short = weight[2] <= _KERNEL_LENGTH or weight[1] == 1
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
            kind = _GATES.get(hidden[0] // hidden[1])
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
