"""The Python names that the pickle of a state dict may refer to, with inert replacements.

Source: `torch/_utils.py`, `torch/_weights_only_unpickler.py` and `torch/serialization.py` of torch
2.13.
"""

from collections.abc import Mapping

from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.checkpoints.safetensors import MAX_RANK
from palettery.app.checkpoints.torch_records import (
    SAVE_STATE_DICT,
    Builder,
    MalformedPickleError,
    NonTextKey,
    StorageRef,
    StorageType,
    TensorClass,
    TensorRef,
    TorchDtype,
    Unreadable,
    UnsupportedPickleError,
    parse_count,
)

_SAVE_AGAIN = "and save again"

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


def build_parameter(arguments: tuple[object, ...]) -> object:
    """Return the tensor that a tensor class is called with.

    Raises:
        UnsupportedPickleError: there is no tensor, as in pickles of PyTorch before version 0.2.
    """
    match arguments:
        case (TensorRef() | Unreadable() as tensor, *_):
            return tensor
    raise UnsupportedPickleError(
        "a tensor as PyTorch before 0.2 pickled it", f"load it in PyTorch {_SAVE_AGAIN}"
    )


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise MalformedPickleError("a shape or strides that are not a list")
    if len(values) > MAX_RANK:
        raise MalformedPickleError(f"a tensor of {len(values)} axes")
    for value in values:
        parse_count(value)
    return values if isinstance(values, tuple) else tuple(values)


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return {}
        case (dict() as items,):
            return items
        case ([*pairs],):
            return dict(map(_pair, pairs))
    raise MalformedPickleError("an OrderedDict that is not built from pairs")


def _pair(pair: object) -> tuple[str | NonTextKey, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise MalformedPickleError("an OrderedDict with items that are no pairs")
    return dict_key(pair[0]), pair[1]


def dict_key(key: object) -> str | NonTextKey:
    """Return a key of a dict: a string as it is, anything else as a `NonTextKey`."""
    return key if type(key) is str else NonTextKey(key)


def _counter(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return {}
        case (dict() as counts,):
            return counts
    raise MalformedPickleError("a Counter that is not built from a dict")


def _set(arguments: tuple[object, ...]) -> object:
    """Return a set's items as a list: nothing is looked up in it, and nothing is hashed."""
    match arguments:
        case ():
            return []
        case (list() | tuple() as items,):
            return items
    raise MalformedPickleError("a set that is not built from a list")


def _complex(arguments: tuple[object, ...]) -> complex:
    match arguments:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(real, imaginary)
    raise MalformedPickleError("a complex number that is not built from two numbers")


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    match arguments:
        case (lengths,):
            return _counts(lengths)
    raise MalformedPickleError("a torch.Size that is not built from a list")


def _bytes(arguments: tuple[object, ...]) -> bytes:
    """Return bytes, which protocol 2 writes as latin1 text.

    Raises:
        MalformedPickleError, ValueError: no latin1 text.
    """
    match arguments:
        case ():
            return b""
        case (bytes() as data,):
            return data
        case (str(text), "latin1" | "latin-1"):
            return text.encode("latin1")
    raise MalformedPickleError("bytes that are no latin1 text")


def _device(arguments: tuple[object, ...]) -> str:
    match arguments:
        case (str(kind),):
            return kind
        case (str(kind), int(index)) if len(kind) < 100:
            return f"{kind}:{parse_count(index)}"
    raise MalformedPickleError("a torch.device that is not built from a string and a number")


def _tensor(arguments: tuple[object, ...]) -> object:
    """Build a tensor of a typed storage, as `_rebuild_tensor` and `_rebuild_tensor_v2` do."""
    match arguments:
        case (StorageRef(str(dtype)) as data, offset, shape, strides, *rest) if len(rest) < 4:
            return _view(data, dtype, offset, shape, strides, rest[2:])
    raise MalformedPickleError("a tensor with arguments of wrong types")


def _tensor_v3(arguments: tuple[object, ...]) -> object:
    match arguments:
        case (StorageRef(None) as data, offset, shape, strides, _, _, TorchDtype(dtype), *rest):
            return _view(data, dtype, offset, shape, strides, rest)
    raise MalformedPickleError("an untyped tensor with arguments of wrong types")


def _view(
    data: StorageRef, dtype: str, offset: object, shape: object, strides: object, rest: list[object]
) -> TensorRef | Unreadable:
    """Build a tensor; one that is conjugated or negated lazily has other values than its bytes."""
    if len(rest) > 1:
        raise MalformedPickleError("a tensor with too many arguments")
    for metadata in rest:
        if metadata is not None and not isinstance(metadata, dict):
            raise MalformedPickleError("a tensor's metadata is no dict")
        if metadata and any(metadata.values()):
            return Unreadable(
                "a tensor that is conjugated or negated lazily",
                f"call .resolve_conj() or .resolve_neg() on it {_SAVE_AGAIN}",
            )
    return TensorRef(
        data, dtype, data.start + parse_count(offset), _counts(shape), _counts(strides)
    )


def _cpu_copy(arguments: tuple[object, ...]) -> object:
    """Return the CPU copy of a tensor on a device without storages."""
    match arguments:
        case (TensorRef() as tensor, TorchDtype(dtype), str(), _) if dtype == tensor.dtype:
            return tensor
    raise MalformedPickleError("a tensor of another device without its CPU copy")


def _unreadable(what: str, advice: str) -> Builder:
    tensor = Unreadable(what, advice)
    return Builder(lambda _: tensor)


FROM_TYPE = object()
"""Replacement of `torch._tensor._rebuild_from_type_v2`, which calls its first argument."""

_SPARSE = _unreadable("a sparse tensor", f"call .to_dense() on it {_SAVE_AGAIN}")
_TENSOR_BUILDERS = (Builder(_tensor), Builder(_tensor_v3), Builder(build_parameter), _SPARSE)

_FUNCTIONS: Mapping[str, object] = {
    "collections.OrderedDict": Builder(_ordered_dict),
    "collections.Counter": Builder(_counter),
    "_codecs.encode": Builder(_bytes),
    **{
        f"{module}.{name}": Builder(build)
        for module in ("builtins", "__builtin__")
        for name, build in (("set", _set), ("bytearray", _bytes), ("complex", _complex))
    },
    "torch.Size": Builder(_size),
    "torch.device": Builder(_device),
    "torch._utils._rebuild_tensor": Builder(_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor),
    "torch._utils._rebuild_tensor_v3": Builder(_tensor_v3),
    "torch._utils._rebuild_parameter": Builder(build_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(build_parameter),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Builder(_cpu_copy),
    "torch._tensor._rebuild_from_type_v2": FROM_TYPE,
    "torch._utils._rebuild_sparse_tensor": _SPARSE,
    "torch.serialization._get_layout": Builder(lambda _: None),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable(
        "a tensor on the meta device, which has no values", "save the model with its weights"
    ),
    "torch._utils._rebuild_wrapper_subclass": _unreadable(
        "a tensor of a class that wraps others", f"unwrap it {_SAVE_AGAIN}"
    ),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable(
        "a tensor pickled by way of numpy", f"move it to the CPU {_SAVE_AGAIN}"
    ),
    "torch.storage.TypedStorage": _unreadable(
        "a storage without its tensor", f"make it a tensor {_SAVE_AGAIN}"
    ),
    **{
        f"torch.{submodule}sparse.{kind}Tensor": _SPARSE
        for submodule in ("", "cuda.")
        for kind in _TENSOR_CLASSES
    },
    "torch._utils._rebuild_nested_tensor": _unreadable(
        "a nested tensor", f"call .unbind() on it, for the tensors in it, {_SAVE_AGAIN}"
    ),
    "torch._utils._rebuild_qtensor": _unreadable(
        "a quantized tensor, and only weights as they were before can be palettized",
        f"send the model as it was before quantization, or call .dequantize() {_SAVE_AGAIN}",
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
    "numpy": f"make tensors or plain numbers of numpy's {_SAVE_AGAIN}, or {SAVE_STATE_DICT}",
    "torch.distributed": f"call .full_tensor() on distributed tensors {_SAVE_AGAIN}",
    "torch.nested": f"call .unbind() on nested tensors {_SAVE_AGAIN}",
}


def advice_for(name: str) -> str:
    """Return advice for a name that has no replacement."""
    for package, advice in _ADVICE.items():
        if name.startswith(f"{package}."):
            return advice
    return SAVE_STATE_DICT
