"""The tensors of a pickled state dict, as byte ranges of the checkpoint file.

Each value of the pickle is visited once, however often it is referenced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from palettery.app.checkpoints.dtypes import DTYPE_BITS, NAME_OF_TORCH_DTYPE
from palettery.app.checkpoints.quoting import format_shape, quote_text
from palettery.app.checkpoints.ranged_reads import FileRange
from palettery.app.checkpoints.safetensors import check_name
from palettery.app.checkpoints.torch_records import (
    SAVE_STATE_DICT,
    NonTextKey,
    TensorRef,
    Unreadable,
)
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import StoredTensor

STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict", "module")
"""Keys of the state dict in training checkpoints."""
MAX_VIEW_RATIO = 8
"""Maximum size of all tensors together, as a multiple of the file's: views share bytes."""
BYTES_PER_ALIAS, SPARE_ALIASES = 64, 1_000
"""Limit of aliases: one per `BYTES_PER_ALIAS` of the pickle, plus a constant."""

Warn = Callable[[str], None]
"""Function that is called with each warning for the user."""


@dataclass(frozen=True)
class PickledCheckpoint:
    """A checkpoint whose pickle was read."""

    name: str
    """Name of the file in messages."""
    root: object
    """The value of its pickle."""
    pickle_bytes: int
    storages: Mapping[str, FileRange]
    """Key in the pickle -> byte range in the file."""
    file_bytes: int


def read_state_dict(
    pickled: PickledCheckpoint, limits: Limits, file: int, warn: Warn
) -> tuple[StoredTensor, ...]:
    """Return the tensors of a state dict, in its order; tied tensors are one with aliases.

    `file` is the number of the file in the upload.

    Raises:
        InvalidModel: damaged, or with tensors outside of their storages.
        UnsupportedFormat: anything but a state dict, with advice.
        TooLarge: over a limit.
    """
    name = pickled.name
    state_dict = _find_state_dict(pickled.root, name, warn)
    if len(state_dict) > limits.tensors:
        raise TooLarge(f"{name} holds {len(state_dict):,} tensors; {limits.allowed('tensors')}")
    tensors = _merge_tied(state_dict, pickled, file)
    aliases = len(state_dict) - len(tensors)
    max_aliases = SPARE_ALIASES + pickled.pickle_bytes // BYTES_PER_ALIAS
    if aliases > max_aliases:
        raise TooLarge(
            f"{name} holds {len(tensors):,} tensors under {len(state_dict):,} names; a pickle of "
            f"{pickled.pickle_bytes:,} bytes may have {max_aliases:,} aliases: save each "
            "tensor once"
        )
    total = sum(stored.size_bytes for stored in tensors)
    if total > MAX_VIEW_RATIO * pickled.file_bytes:
        raise TooLarge(
            f"{name} of {pickled.file_bytes:,} bytes holds tensors of {total:,}, as views of the "
            f"same bytes; {MAX_VIEW_RATIO} times the file's size is allowed: save clones of the "
            "ones that are needed"
        )
    return tensors


def _find_state_dict(root: object, name: str, warn: Warn) -> Mapping[str, TensorRef]:
    """Return the one state dict in a pickle's value: under a usual key, or the value itself."""
    if not isinstance(root, dict):
        raise UnsupportedFormat(
            f"{name} holds a single {_type_name(root)}, but must hold a dict of tensors; "
            f"{SAVE_STATE_DICT}"
        )
    nested = [key for key in STATE_DICT_KEYS if _is_state_dict(root.get(key))]
    if len(nested) > 1:
        raise UnsupportedFormat(
            f"{name} holds state dicts under both {nested[0]!r} and {nested[1]!r}; save the one "
            "to palettize by itself"
        )
    state_dict = root[nested[0]] if nested else root
    others = [
        key for key, value in root.items() if _is_state_dict(value) and value is not state_dict
    ]
    if nested and others:
        keys = ", ".join(quote_text(str(key)) for key in others[:5])
        warn(
            f"of {name} only the tensors under {nested[0]!r} are palettized, not those under "
            f"{keys}; to palettize those, save them as a checkpoint of their own"
        )
    if not _is_state_dict(state_dict):
        keys = ", ".join(quote_text(str(key)) for key in list(root)[:5]) or "nothing"
        raise UnsupportedFormat(
            f"{name} holds a dict of {keys}, but no tensors in it or in a dict under "
            f"{', '.join(map(repr, STATE_DICT_KEYS))}; {SAVE_STATE_DICT}"
        )
    tensors: dict[str, TensorRef] = {}
    seen = set[int]()
    for key, value in state_dict.items():
        if isinstance(value, TensorRef | Unreadable):
            tensors[_check_key(key, name)] = _check_readable(value, key, name)
        elif _contains_tensors(value, seen):
            raise UnsupportedFormat(
                f"{name}: {quote_text(str(key))} in the state dict is a {_type_name(value)} that "
                f"holds tensors, but a state dict must hold its tensors directly; {SAVE_STATE_DICT}"
            )
    return tensors


def _check_key(key: str | NonTextKey, name: str) -> str:
    if isinstance(key, str):
        return key
    raise UnsupportedFormat(
        f"{name} holds a tensor under {quote_text(str(key))}, but names must be strings; "
        f"{SAVE_STATE_DICT}"
    )


def _check_readable(value: TensorRef | Unreadable, key: str | NonTextKey, name: str) -> TensorRef:
    if isinstance(value, TensorRef):
        return value
    raise UnsupportedFormat(f"{name}: {quote_text(str(key))} is {value.what}; {value.advice}")


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(item, TensorRef | Unreadable) for item in value.values()
    )


def _contains_tensors(value: object, seen: set[int]) -> bool:
    """Return whether a value, which may be cyclic, contains a tensor at any depth.

    `seen` are the ids of containers that were searched before, and contain none.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, TensorRef | Unreadable):
            return True
        if isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.values() if isinstance(item, dict) else item)
    return False


def _type_name(value: object) -> str:
    return "tensor" if isinstance(value, TensorRef | Unreadable) else type(value).__name__


def _merge_tied(
    state_dict: Mapping[str, TensorRef], pickled: PickledCheckpoint, file: int
) -> tuple[StoredTensor, ...]:
    """Return each tensor once: those with the same bytes and layout are aliases of the first.

    Tensors without elements are never tied.
    """
    names: dict[object, list[str]] = {}
    first: dict[object, StoredTensor] = {}
    identity_of_object: dict[int, object] = {}
    for key, tensor in state_dict.items():
        check_name(key, pickled.name)
        identity = identity_of_object.get(id(tensor))
        if identity is None:
            stored = _locate_tensor(key, tensor, pickled, file)
            identity = identity_of_object[id(tensor)] = (
                (tensor.storage.key, stored.offset, stored.dtype, stored.shape, stored.strides)
                if stored.size_bytes
                else key
            )
            first.setdefault(identity, stored)
        names.setdefault(identity, []).append(key)
    aliases = {identity: tuple(others) for identity, (_, *others) in names.items()}
    return tuple(
        stored.model_copy(update={"aliases": aliases[identity]}) if aliases[identity] else stored
        for identity, stored in first.items()
    )


def _locate_tensor(
    key: str, tensor: TensorRef, pickled: PickledCheckpoint, file: int
) -> StoredTensor:
    """Return a tensor with its byte range in the file.

    Raises:
        InvalidModel: it exceeds its storage, or the storage is missing.
        UnsupportedFormat: a dtype that safetensors lacks.
    """
    name = pickled.name

    def tensor_error(problem: str) -> InvalidModel:
        return InvalidModel(f"{name}: tensor {quote_text(key)} {problem}; save the file again")

    dtype, storage = NAME_OF_TORCH_DTYPE.get(tensor.dtype), tensor.storage
    if dtype is None:
        raise UnsupportedFormat(
            f"{name}: tensor {quote_text(key)} has dtype {tensor.dtype}; allowed are "
            f"{', '.join(NAME_OF_TORCH_DTYPE)}: convert it, or leave it out"
        )
    storage_range = pickled.storages.get(storage.key)
    if storage_range is None:
        raise tensor_error(
            f"lies in the storage {quote_text(storage.key)}, which the archive lacks"
        )
    item_bytes = DTYPE_BITS[dtype] // 8
    # An untyped storage counts bytes; a typed one has the dtype of its tensors.
    declared_bytes = storage.size_bytes()
    if declared_bytes > storage_range.size_bytes:
        raise tensor_error(
            f"lies in the storage {quote_text(storage.key)}, which should have "
            f"{_format_count(declared_bytes)} bytes and has {storage_range.size_bytes:,}"
        )
    strides, span = _layout(tensor, key, name)
    if (tensor.offset + span) * item_bytes > declared_bytes:
        raise tensor_error(
            f"of shape {format_shape(tensor.shape)} ends at byte "
            f"{_format_count((tensor.offset + span) * item_bytes)} of a storage of "
            f"{declared_bytes:,}"
        )
    return StoredTensor(
        name=key,
        dtype=dtype,
        shape=tensor.shape,
        strides=strides,
        file=file,
        offset=storage_range.offset + tensor.offset * item_bytes,
        size_bytes=span * item_bytes,
    )


def _layout(tensor: TensorRef, key: str, name: str) -> tuple[tuple[int, ...] | None, int]:
    """Return strides, None for row-major, and the number of elements that the tensor spans.

    Raises:
        InvalidModel: not one stride per axis, or elements that share bytes.
    """
    if len(tensor.strides) != len(tensor.shape):
        raise InvalidModel(
            f"{name}: tensor {quote_text(key)} has {len(tensor.shape)} axes and "
            f"{len(tensor.strides)} strides; save the file again"
        )
    if 0 in tensor.shape:
        return None, 0
    # The stride of an axis of length 1 is unused, and may have any value.
    strides = tuple(s if n > 1 else 1 for n, s in zip(tensor.shape, tensor.strides, strict=True))
    span = 1
    for stride, length in sorted(zip(strides, tensor.shape, strict=True)):
        if length == 1:
            continue
        if stride < span:
            raise InvalidModel(
                f"{name}: tensor {quote_text(key)} of shape {format_shape(tensor.shape)} has "
                "elements that share bytes (an expanded or unfolded view); call .contiguous() on "
                "it and save again"
            )
        span = stride * (length - 1) + span
    return (None if is_row_major(tensor.shape, strides) else strides), span


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements are stored in the order of their indices, without gaps."""
    expected = 1
    for stride, length in zip(reversed(strides), reversed(shape), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True


def _format_count(size_bytes: int) -> str:
    return f"{size_bytes:,}" if size_bytes < 1 << 60 else "more than 2**60"
