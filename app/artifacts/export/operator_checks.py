"""Checks of arguments that some operators of torch do not validate, when they are called.

A few common operators read or write out of bounds, or never end, if shapes or sizes are not what
they expect. These are known only while the graph runs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

ATEN = torch.ops.aten
WINDOW_ARGUMENTS = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
LONGEST_WINDOW = 1 << 24
"""Limit of kernel sizes, strides and the like; torch computes some of them in 32 bits."""


class CheckedOperators(TorchFunctionMode):
    """Context in which the arguments of operators are checked before each call.

    Raises:
        ValueError: the arguments of an operator are invalid, and it does not check them itself; the
            operator was not called.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if isinstance(func, OpOverload) and (check := _find_check(func)) is not None:
            arguments = dict(zip(_names(func), args, strict=False)) | kwargs
            try:
                check(arguments)
            except ValueError as error:
                raise ValueError(f"{func} was called with {error}") from error
        return func(*args, **kwargs)


@cache
def _names(operator: OpOverload) -> Sequence[str]:
    return [argument.name for argument in operator._schema.arguments]


@cache
def _find_check(operator: OpOverload) -> Callable[[Mapping[str, Any]], None] | None:
    if (check := CHECKS.get(operator)) is not None:
        return check
    names = _names(operator)
    if "kernel_size" in names or "dilation" in names:
        return partial(_check_windows, WINDOW_ARGUMENTS)
    if scales := [name for name in ("scales_d", "scales_h", "scales_w", "scales") if name in names]:
        return partial(_check_scales, scales)
    return None


def _check(is_valid: bool, problem: str) -> None:
    if not is_valid:
        raise ValueError(problem)


def _check_windows(names: Iterable[str], arguments: Mapping[str, Any]) -> None:
    for name in names:
        value = arguments.get(name)
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int):
                _check(0 <= number < LONGEST_WINDOW, f"{name} {number}; it may be up to 2**24")


def _check_scales(names: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """Check that the scales of an image match its input and output size."""
    lengths, sizes = arguments["self"].shape[2:], arguments["output_size"]
    _check(len(lengths) == len(sizes) == len(names), f"an output of {len(sizes)} dimensions")
    for name, length, size in zip(names, lengths, sizes, strict=True):
        scale = arguments.get(name)
        is_valid = scale is None or -0.01 <= length * scale - size <= 1.01  # sizes are rounded down
        _check(is_valid, f"{name} {scale} to make {size} out of {length}")


def _check_attention(arguments: Mapping[str, Any]) -> None:
    """Check that every key has a value."""
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    _check(min(query.dim(), key.dim(), value.dim()) > 1, "tensors of less than two dimensions")
    _check_shape("value", value, (*key.shape[:-1], value.shape[-1]))
    _check_shape("query", query, (*query.shape[:-1], key.shape[-1]))


def _check_max_pool1d(arguments: Mapping[str, Any]) -> None:
    _check_windows(WINDOW_ARGUMENTS, arguments)
    (kernel,), (padding,), (dilation,) = (
        arguments.get(name, [default])
        for name, default in (("kernel_size", 1), ("padding", 0), ("dilation", 1))
    )
    length = arguments["self"].shape[-1] + 2 * padding
    _check(dilation * (kernel - 1) < length, f"a kernel of {kernel} for a length of {length}")


def _check_weight_norm(arguments: Mapping[str, Any]) -> None:
    v, g, dim = arguments["v"], arguments["g"], arguments.get("dim", 0)
    _check(-v.dim() <= dim < v.dim(), f"dim {dim} for a weight of {v.dim()} dimensions")
    shape = [length if at == dim % v.dim() else 1 for at, length in enumerate(v.shape)]
    _check_shape("g", g, shape)
    _check(v.dtype == g.dtype, f"v of {v.dtype} and g of {g.dtype}; they must be the same")


def _check_statistics(arguments: Mapping[str, Any]) -> None:
    """Check that weight, bias and running statistics have one value per channel."""
    data = arguments["input"]
    _check(data.dim() > 1, f"an input of {data.dim()} dimensions; it must have two or more")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arguments.get(name) is not None:
            _check_shape(name, arguments[name], data.shape[1:2])
    has_statistics = (
        arguments.get("running_mean") is not None and arguments.get("running_var") is not None
    )
    _check(
        has_statistics or bool(arguments.get("training")), "no running statistics, which it needs"
    )


def _check_fft(arguments: Mapping[str, Any]) -> None:
    """Check that dimensions exist, each given once, and that the output is not too long."""
    data, dims = arguments["self"], arguments["dim"]
    _check(len(set(dims)) == len(dims) > 0, f"dim {dims}; each dimension may occur once")
    _check(all(0 <= dim < data.dim() for dim in dims), f"dim {dims} for {data.dim()} dimensions")
    length = arguments.get("last_dim_size")
    if length is not None:
        longest = 2 * data.shape[dims[-1]] - 1
        _check(0 < length <= longest, f"last_dim_size {length}; it may be up to {longest}")


def _check_recurrent(gates: int, arguments: Mapping[str, Any]) -> None:
    """Check that states and weights have the shapes that the input and the first weights imply."""
    data, weights, states = arguments["input"], arguments["params"], arguments["hx"]
    hidden, *cells = [states] if isinstance(states, Tensor) else states
    _check(len(cells) == (gates == 4), f"{1 + len(cells)} states")
    _check(data.dim() == 3, f"an input of {data.dim()} dimensions; it must have three")
    directions, layers = 1 + bool(arguments["bidirectional"]), arguments["num_layers"]
    _check(0 < layers * directions <= len(weights), f"{layers} layers and {len(weights)} weights")
    per_layer = len(weights) // (layers * directions)
    _check(per_layer * layers * directions == len(weights), f"{len(weights)} weights")
    biases = 2 * bool(arguments["has_biases"])
    projections = per_layer - 2 - biases
    _check(projections in ((0, 1) if gates == 4 else (0,)), f"{per_layer} weights per layer")
    _check(weights[1].dim() == 2, f"weights of {weights[1].dim()} dimensions")
    size = weights[1].shape[0] // gates
    output_size = weights[per_layer - 1].shape[0] if projections else size
    batch = data.shape[0 if arguments["batch_first"] else 1]
    _check_shape("hx", hidden, (layers * directions, batch, output_size))
    for cell in cells:
        _check_shape("cx", cell, (layers * directions, batch, size))
    for number in range(0, len(weights), per_layer):
        input_size = data.shape[2] if number < per_layer * directions else output_size * directions
        shapes = [
            (gates * size, input_size),
            (gates * size, output_size),
            *[(gates * size,)] * biases,
        ]
        shapes += [(output_size, size)] * projections
        for weight, shape in zip(weights[number : number + per_layer], shapes, strict=True):
            _check_shape("a weight", weight, shape)
    dtypes = {each.dtype for each in (data, hidden, *cells, *weights)}
    _check(len(dtypes) == 1, f"several dtypes ({', '.join(map(str, dtypes))}); they must be one")


def _check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    _check(
        list(tensor.shape) == list(shape),
        f"{name} of shape {list(tensor.shape)}; it must be {list(shape)}",
    )


CHECKS: Mapping[OpOverload, Callable[[Mapping[str, Any]], None]] = {
    ATEN._fft_c2c.default: _check_fft,
    ATEN._fft_c2r.default: _check_fft,
    ATEN._fft_r2c.default: _check_fft,
    ATEN.scaled_dot_product_attention.default: _check_attention,
    ATEN._weight_norm.default: _check_weight_norm,
    ATEN._native_batch_norm_legit.default: _check_statistics,
    ATEN._native_batch_norm_legit.no_stats: _check_statistics,
    ATEN._native_batch_norm_legit_functional.default: _check_statistics,
    ATEN._native_batch_norm_legit_no_training.default: _check_statistics,
    ATEN.max_pool1d.default: _check_max_pool1d,
    ATEN.lstm.input: partial(_check_recurrent, 4),
    ATEN.gru.input: partial(_check_recurrent, 3),
    ATEN.rnn_tanh.input: partial(_check_recurrent, 1),
    ATEN.rnn_relu.input: partial(_check_recurrent, 1),
}
