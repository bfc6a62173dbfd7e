"""Inert records that stand in for what a PyTorch state dict's pickle names; none runs any code.

Source: `torch/_utils.py` and `torch/serialization.py` of torch 2.13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

RANK = 64
"""Most axes of a tensor; numpy and torch can hold no more."""
KEY_BOUND = 1 << 60
"""Whole numbers below it hash to themselves, so that no pickle can make all its keys collide."""

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
}
"""Storage classes of `torch`, and the dtype of each."""

_DTYPES = (
    *_STORAGES.values(),
    *("uint16", "uint32", "uint64", "complex32", "float4_e2m1fn_x2", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *("qint8", "qint32", "quint8", "quint4x2", "quint2x4"),
)


class Malformed(Exception):
    """A pickle is not what a pickler writes."""


class NotPlain(Exception):
    """A pickle holds what cannot be represented as plain data."""


@dataclass(frozen=True, slots=True)
class DType:
    """A `torch.dtype`, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class of torch."""

    dtype: str | None
    """None for untyped bytes."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Bytes that lie in a member of the archive."""

    dtype: str | None
    """None for untyped bytes."""
    key: str
    """The member is called `data/<key>`."""
    location: str
    """The device it was saved from."""
    numel: int
    """Elements of the dtype, or bytes."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view of a storage; offset and strides count elements."""

    storage: StorageRef
    dtype: str
    """Its name in torch."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorClass:
    """A class that says no more than that something is a tensor."""


@dataclass(frozen=True, slots=True)
class Builder:
    """What stands in for a function or class that a state dict's pickle calls."""

    build: Callable[[tuple[object, ...]], object]


def count(value: object) -> int:
    """A whole number from 0, as it is.

    Raises:
        Malformed: anything else; True is no number here.
    """
    if type(value) is not int or value < 0:
        raise Malformed("something else where a whole number from 0 must stand")
    return value


def checked_key(key: object) -> str | int | None:
    """A dict key that costs no more to hash and compare than its bytes.

    Raises:
        NotPlain: a key of another type, or a huge number.
    """
    if key is None or type(key) is str:
        return key
    if isinstance(key, int) and abs(key) < KEY_BOUND:
        return key
    raise NotPlain(f"a dict key of type {type(key).__name__}, neither text nor a small number")


def storage(persistent_id: object) -> StorageRef:
    """The storage that a persistent id refers to."""
    match persistent_id:
        case ("storage", StorageType(dtype), str(key), str(location), numel):
            return StorageRef(dtype, key, location, count(numel))
    raise Malformed("it refers to bytes that are no storage")


def _counts(values: tuple[object, ...]) -> tuple[int, ...]:
    if len(values) > RANK:
        raise Malformed(f"a tensor of {len(values)} axes")
    return tuple(count(value) for value in values)


def _check_metadata(rest: tuple[object, ...]) -> None:
    """Refuse lazily conjugated or negated tensors: their bytes are not their values."""
    if len(rest) > 1:
        raise Malformed("a tensor with too many arguments")
    for metadata in rest:
        if metadata is not None and not isinstance(metadata, dict):
            raise Malformed("a tensor's metadata is no dict")
        if metadata and any(metadata.values()):
            raise NotPlain("a tensor that is conjugated or negated lazily; call .resolve_conj()")


def _ordered_dict(arguments: tuple[object, ...]) -> dict[str | int | None, object]:
    found: dict[str | int | None, object] = {}
    match arguments:
        case ():
            return found
        case ([*pairs],):
            for pair in pairs:
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise Malformed("an OrderedDict of items that are no pairs")
                found[checked_key(pair[0])] = pair[1]
            return found
    raise Malformed("an OrderedDict of something else than pairs")


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    match arguments:
        case ((*lengths,),):
            return _counts(tuple(lengths))
    raise Malformed("a torch.Size of something else than a list")


def _encoded(arguments: tuple[object, ...]) -> bytes:
    """Bytes, which protocol 2 writes as text; one too wide for latin1 is a ValueError."""
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin1")
    raise Malformed("bytes that are no latin1 text")


def _device(arguments: tuple[object, ...]) -> str:
    return ":".join(str(part) for part in arguments if isinstance(part, str | int))


def _tensor_v2(arguments: tuple[object, ...]) -> TensorRef:
    match arguments:
        case (StorageRef(str(dtype)) as data, offset, tuple(shape), tuple(strides), _, _, *rest):
            _check_metadata(tuple(rest))
            return TensorRef(data, dtype, count(offset), _counts(shape), _counts(strides))
    raise Malformed("a tensor with arguments of wrong types")


def _tensor_v3(arguments: tuple[object, ...]) -> TensorRef:
    match arguments:
        case (
            StorageRef(None) as data,
            offset,
            tuple(shape),
            tuple(strides),
            _,
            _,
            DType(dtype),
            *rest,
        ):
            _check_metadata(tuple(rest))
            return TensorRef(data, dtype, count(offset), _counts(shape), _counts(strides))
    raise Malformed("an untyped tensor with arguments of wrong types")


def _parameter(arguments: tuple[object, ...]) -> TensorRef:
    match arguments:
        case (TensorRef() as tensor, _, _) | (TensorRef() as tensor, _, _, _):
            return tensor
    raise Malformed("a parameter that is no tensor")


def _tensor_of_type(arguments: tuple[object, ...]) -> object:
    """A tensor with attributes of its own, which are dropped."""
    match arguments:
        case (Builder() as builder, TensorClass(), tuple(inner), _) if builder in _TENSOR_BUILDERS:
            return builder.build(inner)
    raise Malformed("a tensor built by something else")


_TENSOR_BUILDERS = (Builder(_tensor_v2), Builder(_tensor_v3))

GLOBALS: Mapping[str, object] = {
    "collections.OrderedDict": Builder(_ordered_dict),
    "_codecs.encode": Builder(_encoded),
    "torch.Size": Builder(_size),
    "torch.device": Builder(_device),
    "torch._utils._rebuild_tensor_v2": Builder(_tensor_v2),
    "torch._utils._rebuild_tensor_v3": Builder(_tensor_v3),
    "torch._utils._rebuild_parameter": Builder(_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(_parameter),
    "torch._tensor._rebuild_from_type_v2": Builder(_tensor_of_type),
    "torch.Tensor": TensorClass(),
    "torch.nn.parameter.Parameter": TensorClass(),
    "torch.nn.parameter.Buffer": TensorClass(),
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.UntypedStorage": StorageType(None),
    **{f"torch.{name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{dtype}": DType(dtype) for dtype in _DTYPES},
}
"""Every name that may occur, and what stands in for it."""
