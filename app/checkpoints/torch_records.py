"""Inert records that stand in for what a PyTorch state dict's pickle names; none runs any code.

Those of which a checkpoint has many are not frozen, which would double the time to make them.

Source: `torch/_utils.py`, `torch/_weights_only_unpickler.py` and `torch/serialization.py` of torch
2.13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

RANK = 64
"""Most axes of a tensor; numpy and torch can hold no more."""
SAVE_STATE_DICT = (
    "load it where you trust it, and save model.state_dict() instead, with torch.save or as "
    "safetensors"
)
_SAVE_AGAIN = "and save again"

_STORAGES: Mapping[str, str] = {
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
"""Storage classes of `torch` and `torch.cuda`, and the dtype of each."""
_ITEM_BYTES: Mapping[str | None, int] = {
    None: 1,
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8", "quint4x2", "quint2x4"), 1),
    **dict.fromkeys(("int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "float32", "qint32"), 4),
    **dict.fromkeys(("int64", "float64", "complex64"), 8),
    "complex128": 16,
}
"""Bytes of an element of a storage."""

_DTYPES = (
    *_STORAGES.values(),
    *("uint16", "uint32", "uint64", "complex32", "float4_e2m1fn_x2", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
)
_KINDS = ("Byte", "Char", "Short", "Int", "Long", "Half", "Float", "Double", "BFloat16", "Bool")
"""Of the classes that tensors had, such as `torch.FloatTensor`."""


class MalformedPickleError(Exception):
    """A pickle is not what a pickler writes."""


class UnsupportedPickleError(Exception):
    """A pickle holds what cannot be represented as plain data."""

    def __init__(self, what: str, way_out: str = SAVE_STATE_DICT) -> None:
        super().__init__(what, way_out)
        self.what, self.way_out = what, way_out


@dataclass(frozen=True, slots=True)
class TorchDtype:
    """A `torch.dtype`, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class of torch."""

    dtype: str | None
    """None for untyped bytes."""


@dataclass(slots=True)
class StorageRef:
    """Bytes that lie in a member of the archive, or behind the pickles; or a part of them."""

    dtype: str | None
    """None for untyped bytes."""
    key: str
    location: str
    """The device it was saved from."""
    numel: int
    """Elements of the dtype, or bytes, up to the end of this part."""
    start: int = 0
    """Elements in front of this part."""

    def size_bytes(self) -> int:
        """Bytes of all elements, those in front included."""
        return self.numel * _ITEM_BYTES[self.dtype]


@dataclass(slots=True)
class TensorRef:
    """A view of a storage; offset and strides count elements."""

    storage: StorageRef
    dtype: str
    """Its name in torch."""
    offset: int
    """From the storage's first byte."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor whose values do not lie in a storage as they are."""

    what: str
    """What it is, with an article."""
    way_out: str


@dataclass(frozen=True, slots=True)
class TensorClass:
    """A class that says no more than that something is a tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class NonTextKey:
    """A dict's key that is no text; it hashes by identity, whatever numbers a stranger chose."""

    key: object

    def __str__(self) -> str:
        if isinstance(self.key, int | float | None):
            return str(self.key)
        return f"a {type(self.key).__name__}"


@dataclass(frozen=True, slots=True)
class Builder:
    """What stands in for a function or class that a state dict's pickle calls.

    It takes time in proportion to the lengths of its arguments, and not to what lies in them.
    """

    build: Callable[[tuple[object, ...]], object]


def count(value: object) -> int:
    """A whole number from 0, as it is.

    Raises:
        Malformed: anything else; True is no number here, nor is one of over 63 bits.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise MalformedPickleError("something else where a whole number from 0 to 2**63 must stand")
    return value


def storage(persistent_id: object) -> tuple[StorageRef, StorageRef]:
    """The whole storage that a persistent id refers to, and the part that it means."""
    match persistent_id:
        case ("storage", StorageType(dtype), str(key), str(location), numel):
            whole = StorageRef(dtype, key, location, count(numel))
            return whole, whole
        case ("storage", StorageType(dtype), str(key), str(location), numel, view):
            whole = StorageRef(dtype, key, location, count(numel))
            return whole, whole if view is None else _part(whole, view)
    raise MalformedPickleError("it refers to bytes that are no storage")


def _part(whole: StorageRef, view: object) -> StorageRef:
    match view:
        case (str(), start, numel) if (end := count(start) + count(numel)) <= whole.numel:
            return StorageRef(whole.dtype, whole.key, whole.location, end, count(start))
    raise MalformedPickleError("it refers to a part of a storage that reaches out of it")


def parse_typed_call(arguments: tuple[object, ...]) -> tuple[object, tuple[object, ...]]:
    """What `FROM_TYPE` calls, for a tensor with attributes of its own, which are dropped."""
    match arguments:
        case (Builder() as builder, TensorClass(), tuple(inner), _) if builder in _TENSOR_BUILDERS:
            return builder, inner
    raise MalformedPickleError("a tensor built by something else")


def parameter(arguments: tuple[object, ...]) -> object:
    """The tensor that a class of tensors is called with.

    Raises:
        NotPlain: with none, as PyTorch pickled tensors before version 0.2.
    """
    match arguments:
        case (TensorRef() | Unreadable() as tensor, *_):
            return tensor
    raise UnsupportedPickleError(
        "a tensor as PyTorch before 0.2 pickled it", f"load it in PyTorch {_SAVE_AGAIN}"
    )


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise MalformedPickleError("something else where a shape or strides must stand")
    if len(values) > RANK:
        raise MalformedPickleError(f"a tensor of {len(values)} axes")
    for value in values:
        count(value)
    return values if isinstance(values, tuple) else tuple(values)


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return {}
        case (dict() as found,):
            return found
        case ([*pairs],):
            return dict(map(_pair, pairs))
    raise MalformedPickleError("an OrderedDict of something else than pairs")


def _pair(pair: object) -> tuple[str | NonTextKey, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise MalformedPickleError("an OrderedDict of items that are no pairs")
    return dict_key(pair[0]), pair[1]


def dict_key(key: object) -> str | NonTextKey:
    """A key as it stands in a dict here."""
    return key if type(key) is str else NonTextKey(key)


def _counter(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return {}
        case (dict() as counts,):
            return counts
    raise MalformedPickleError("a Counter of something else than a dict")


def _set(arguments: tuple[object, ...]) -> object:
    """The list of a set's items, for nothing here asks whether one is in it."""
    match arguments:
        case ():
            return []
        case (list() | tuple() as items,):
            return items
    raise MalformedPickleError("a set of something else than a list")


def _complex(arguments: tuple[object, ...]) -> complex:
    match arguments:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(real, imaginary)
    raise MalformedPickleError("a complex number of something else than two numbers")


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    match arguments:
        case (lengths,):
            return _counts(lengths)
    raise MalformedPickleError("a torch.Size of something else than a list")


def _bytes(arguments: tuple[object, ...]) -> bytes:
    """Bytes, which protocol 2 writes as text; one too wide for latin1 is a ValueError."""
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
            return f"{kind}:{count(index)}"
    raise MalformedPickleError("a torch.device of something else than a text and a number")


def _tensor(arguments: tuple[object, ...]) -> object:
    """A tensor of a typed storage, as `_rebuild_tensor` and `_rebuild_tensor_v2` make them."""
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
    """A tensor, unless it is conjugated or negated lazily: then its bytes are not its values."""
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
    return TensorRef(data, dtype, data.start + count(offset), _counts(shape), _counts(strides))


def _cpu_copy(arguments: tuple[object, ...]) -> object:
    """A tensor of a device without storages, saved as one of the CPU."""
    match arguments:
        case (TensorRef() as tensor, TorchDtype(dtype), str(), _) if dtype == tensor.dtype:
            return tensor
    raise MalformedPickleError("a tensor of another device that is no tensor of the CPU")


def _unreadable(what: str, way_out: str) -> Builder:
    found = Unreadable(what, way_out)
    return Builder(lambda _: found)


FROM_TYPE = object()
"""`torch._tensor._rebuild_from_type_v2`, which calls another function."""

_SPARSE = _unreadable("a sparse tensor", f"call .to_dense() on it {_SAVE_AGAIN}")
_TENSOR_BUILDERS = (Builder(_tensor), Builder(_tensor_v3), Builder(parameter), _SPARSE)

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
    "torch._utils._rebuild_parameter": Builder(parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(parameter),
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
    **{f"torch.{place}sparse.{kind}Tensor": _SPARSE for place in ("", "cuda.") for kind in _KINDS},
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
    **{f"torch.{place}{kind}Tensor": TensorClass() for place in ("", "cuda.") for kind in _KINDS},
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.UntypedStorage": StorageType(None),
    **{
        f"torch.{place}{name}": StorageType(dtype)
        for place in ("", "cuda.")
        for name, dtype in _STORAGES.items()
    },
    **{f"torch.{dtype}": TorchDtype(dtype) for dtype in _DTYPES},
    **{f"torch.per_{name}": None for name in (*_QSCHEMES, "channel_affine_float_qparams")},
}
"""Every name that may occur, and what stands in for it."""

_ADVICE: Mapping[str, str] = {
    "numpy": f"make tensors or plain numbers of numpy's {_SAVE_AGAIN}, or {SAVE_STATE_DICT}",
    "torch.distributed": f"call .full_tensor() on distributed tensors {_SAVE_AGAIN}",
    "torch.nested": f"call .unbind() on nested tensors {_SAVE_AGAIN}",
}


def advice_for(name: str) -> str:
    """What to do about a name that nothing stands in for."""
    for package, way_out in _ADVICE.items():
        if name.startswith(f"{package}."):
            return way_out
    return SAVE_STATE_DICT
