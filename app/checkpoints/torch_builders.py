"""Inert replacements of the functions that the pickle of a state dict calls.

Each takes the tuple of arguments, and raises MalformedPickleError if no pickler writes them.
"""

from palettery.app.checkpoints.safetensors import MAX_RANK
from palettery.app.checkpoints.torch_records import (
    MalformedPickleError,
    NonTextKey,
    StorageRef,
    TensorRef,
    TorchDtype,
    Unreadable,
    UnsupportedPickleError,
    parse_count,
)

SAVE_AGAIN = "and save again"


def build_parameter(arguments: tuple[object, ...]) -> object:
    """Return the tensor that is the first argument of a tensor class such as Parameter.

    Raises:
        UnsupportedPickleError: there is no tensor, as in pickles of PyTorch before version 0.2.
    """
    match arguments:
        case (TensorRef() | Unreadable() as tensor, *_):
            return tensor
    raise UnsupportedPickleError(
        "a tensor as PyTorch before 0.2 pickled it", f"load it in PyTorch {SAVE_AGAIN}"
    )


def _parse_axis_values(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise MalformedPickleError("a shape or strides that are not a list")
    if len(values) > MAX_RANK:
        raise MalformedPickleError(f"a tensor of {len(values)} axes")
    for value in values:
        parse_count(value)
    return values if isinstance(values, tuple) else tuple(values)


def build_ordered_dict(arguments: tuple[object, ...]) -> object:
    """Return a dict of the items of an OrderedDict."""
    match arguments:
        case ():
            return {}
        case (dict() as items,):
            return items
        case ([*pairs],):
            return dict(map(_parse_pair, pairs))
    raise MalformedPickleError("an OrderedDict that is not built from pairs")


def _parse_pair(pair: object) -> tuple[str | NonTextKey, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise MalformedPickleError("an OrderedDict with items that are no pairs")
    return dict_key(pair[0]), pair[1]


def dict_key(key: object) -> str | NonTextKey:
    """Return a key of a dict: a string as it is, anything else as a `NonTextKey`."""
    return key if type(key) is str else NonTextKey(key)


def build_counter(arguments: tuple[object, ...]) -> object:
    """Return a dict of the counts of a Counter."""
    match arguments:
        case ():
            return {}
        case (dict() as counts,):
            return counts
    raise MalformedPickleError("a Counter that is not built from a dict")


def build_set(arguments: tuple[object, ...]) -> object:
    """Return a set's items as a list: nothing is looked up in it, and nothing is hashed."""
    match arguments:
        case ():
            return []
        case (list() | tuple() as items,):
            return items
    raise MalformedPickleError("a set that is not built from a list")


def build_complex(arguments: tuple[object, ...]) -> complex:
    """Return a complex number."""
    match arguments:
        case (int() | float() as real, int() | float() as imaginary):
            return complex(real, imaginary)
    raise MalformedPickleError("a complex number that is not built from two numbers")


def build_size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    """Return a tuple of the lengths of a torch.Size."""
    match arguments:
        case (lengths,):
            return _parse_axis_values(lengths)
    raise MalformedPickleError("a torch.Size that is not built from a list")


def build_bytes(arguments: tuple[object, ...]) -> bytes:
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


def build_device(arguments: tuple[object, ...]) -> str:
    """Return the name of a torch.device."""
    match arguments:
        case (str(kind),):
            return kind
        case (str(kind), int(index)) if len(kind) < 100:
            return f"{kind}:{parse_count(index)}"
    raise MalformedPickleError("a torch.device that is not built from a string and a number")


def build_tensor(arguments: tuple[object, ...]) -> object:
    """Build a tensor of a typed storage, as `_rebuild_tensor` and `_rebuild_tensor_v2` do."""
    match arguments:
        case (StorageRef(str(dtype)) as data, offset, shape, strides, *rest) if len(rest) < 4:
            # The first two of the rest are requires_grad and hooks.
            return _build_view(data, dtype, offset, shape, strides, rest[2:])
    raise MalformedPickleError("a tensor with arguments of wrong types")


def build_tensor_v3(arguments: tuple[object, ...]) -> object:
    """Build a tensor of an untyped storage, as `_rebuild_tensor_v3` does."""
    match arguments:
        case (StorageRef(None) as data, offset, shape, strides, _, _, TorchDtype(dtype), *rest):
            return _build_view(data, dtype, offset, shape, strides, rest)
    raise MalformedPickleError("an untyped tensor with arguments of wrong types")


def _build_view(
    data: StorageRef, dtype: str, offset: object, shape: object, strides: object, rest: list[object]
) -> TensorRef | Unreadable:
    """Build a view of a storage; `rest` is metadata that marks lazy conjugation or negation."""
    if len(rest) > 1:
        raise MalformedPickleError("a tensor with too many arguments")
    for metadata in rest:
        if metadata is not None and not isinstance(metadata, dict):
            raise MalformedPickleError("a tensor's metadata is no dict")
        if metadata and any(metadata.values()):
            return Unreadable(
                "a tensor that is conjugated or negated lazily",
                f"call .resolve_conj() or .resolve_neg() on it {SAVE_AGAIN}",
            )
    return TensorRef(
        data,
        dtype,
        data.start + parse_count(offset),
        _parse_axis_values(shape),
        _parse_axis_values(strides),
    )


def build_cpu_copy(arguments: tuple[object, ...]) -> object:
    """Return the CPU copy of a tensor on a device without storages."""
    match arguments:
        case (TensorRef() as tensor, TorchDtype(dtype), str(), _) if dtype == tensor.dtype:
            return tensor
    raise MalformedPickleError("a tensor of another device without its CPU copy")
