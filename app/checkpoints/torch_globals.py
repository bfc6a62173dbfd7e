"""The Python names that the pickle of a state dict may refer to, with inert replacements.

Source: `torch/_utils.py`, `torch/_weights_only_unpickler.py` and `torch/serialization.py` of torch
2.13.
"""

import re
from collections.abc import Mapping

from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.torch_builders import (
    SAVE_AGAIN,
    build_bytes,
    build_complex,
    build_counter,
    build_cpu_copy,
    build_device,
    build_ordered_dict,
    build_parameter,
    build_set,
    build_size,
    build_tensor,
    build_tensor_v3,
)
from palettery.app.checkpoints.torch_records import (
    SAVE_STATE_DICT,
    Builder,
    MalformedPickleError,
    StorageType,
    TensorClass,
    TorchDtype,
    Unreadable,
    UnsupportedPickleError,
)

_DOTTED_NAME = re.compile(r"[A-Za-z_][\w.]{0,199}", re.ASCII)
_STORAGE_DTYPES: Mapping[str, str] = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""Storage class of `torch` and `torch.cuda` -> torch name of its dtype."""
_TORCH_DTYPES = (
    *(dtype.torch for dtype in DTYPES.values() if dtype.torch),
    *("complex32", "complex128", "qint8", "qint32", "quint8", "quint4x2", "quint2x4"),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)
_TENSOR_CLASSES = (
    *("Byte", "Char", "Short", "Int", "Long"),
    *("Half", "Float", "Double", "BFloat16", "Bool"),
)
"""Prefixes of the tensor classes of torch and torch.cuda, such as `torch.FloatTensor`."""


def parse_typed_call(arguments: tuple[object, ...]) -> tuple[object, tuple[object, ...]]:
    """Return the inner function and arguments of a `FROM_TYPE` call; attributes are dropped."""
    match arguments:
        case (Builder() as builder, TensorClass(), tuple(inner), _) if builder in _TENSOR_BUILDERS:
            return builder, inner
    raise MalformedPickleError("a tensor built by an unknown function")


def _unreadable_builder(what: str, advice: str) -> Builder:
    tensor = Unreadable(what, advice)
    return Builder(lambda _: tensor)


FROM_TYPE = object()
"""Replacement of `torch._tensor._rebuild_from_type_v2`, which calls its first argument."""

_SPARSE = _unreadable_builder("a sparse tensor", f"call .to_dense() on it {SAVE_AGAIN}")
_TENSOR_BUILDERS = (
    Builder(build_tensor),
    Builder(build_tensor_v3),
    Builder(build_parameter),
    _SPARSE,
)

_FUNCTIONS: Mapping[str, object] = {
    "collections.OrderedDict": Builder(build_ordered_dict),
    "collections.Counter": Builder(build_counter),
    "_codecs.encode": Builder(build_bytes),
    **{
        f"{module}.{name}": Builder(build)
        for module in ("builtins", "__builtin__")
        for name, build in (
            ("set", build_set),
            ("bytearray", build_bytes),
            ("complex", build_complex),
        )
    },
    "torch.Size": Builder(build_size),
    "torch.device": Builder(build_device),
    "torch._utils._rebuild_tensor": Builder(build_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(build_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(build_tensor_v3),
    "torch._utils._rebuild_parameter": Builder(build_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(build_parameter),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Builder(build_cpu_copy),
    "torch._tensor._rebuild_from_type_v2": FROM_TYPE,
    "torch._utils._rebuild_sparse_tensor": _SPARSE,
    "torch.serialization._get_layout": Builder(lambda _: None),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable_builder(
        "a tensor on the meta device, which has no values", "save the model with its weights"
    ),
    "torch._utils._rebuild_wrapper_subclass": _unreadable_builder(
        "a tensor of a class that wraps others", f"unwrap it {SAVE_AGAIN}"
    ),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable_builder(
        "a tensor pickled by way of numpy", f"move it to the CPU {SAVE_AGAIN}"
    ),
    "torch.storage.TypedStorage": _unreadable_builder(
        "a storage without its tensor", f"make it a tensor {SAVE_AGAIN}"
    ),
    **{
        f"torch.{submodule}sparse.{kind}Tensor": _SPARSE
        for submodule in ("", "cuda.")
        for kind in _TENSOR_CLASSES
    },
    "torch._utils._rebuild_nested_tensor": _unreadable_builder(
        "a nested tensor", f"call .unbind() on it, for the tensors in it, {SAVE_AGAIN}"
    ),
    "torch._utils._rebuild_qtensor": _unreadable_builder(
        "a quantized tensor, and only weights as they were before can be palettized",
        f"send the model as it was before quantization, or call .dequantize() {SAVE_AGAIN}",
    ),
}
_QSCHEMES = ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")

GLOBALS: Mapping[str, object] = {
    **_FUNCTIONS,
    **dict.fromkeys(("torch.Tensor", "torch.nn.parameter.Parameter"), TensorClass()),
    "torch.nn.parameter.Buffer": TensorClass(),
    **{
        f"torch.{submodule}{kind}Tensor": TensorClass()
        for submodule in ("", "cuda.")
        for kind in _TENSOR_CLASSES
    },
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.UntypedStorage": StorageType(None),
    **{
        f"torch.{submodule}{name}": StorageType(dtype)
        for submodule in ("", "cuda.")
        for name, dtype in _STORAGE_DTYPES.items()
    },
    **{f"torch.{dtype}": TorchDtype(dtype) for dtype in _TORCH_DTYPES},
    **{f"torch.per_{name}": None for name in (*_QSCHEMES, "channel_affine_float_qparams")},
}
"""Every allowed name, fully qualified -> its replacement."""

_ADVICE: Mapping[str, str] = {
    "numpy": f"make tensors or plain numbers of numpy's {SAVE_AGAIN}, or {SAVE_STATE_DICT}",
    "torch.distributed": f"call .full_tensor() on distributed tensors {SAVE_AGAIN}",
    "torch.nested": f"call .unbind() on nested tensors {SAVE_AGAIN}",
}


def _advice_for(name: str) -> str:
    """Return advice for a name that has no replacement."""
    for package, advice in _ADVICE.items():
        if name.startswith(f"{package}."):
            return advice
    return SAVE_STATE_DICT


def resolve_global(name: str) -> object:
    """Return the inert replacement of a global, never the global itself.

    Raises:
        UnsupportedPickleError: it has none.
    """
    if name in GLOBALS:
        return GLOBALS[name]
    label = name if _DOTTED_NAME.fullmatch(name) else quote_text(name)
    raise UnsupportedPickleError(f"a pickled {label}: loading it would run code", _advice_for(name))
