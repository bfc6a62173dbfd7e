"""The state dict in what a checkpoint's pickle holds: its tensors, as byte ranges of a file.

Each value of the pickle is looked at once, however many places it is in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from palettery.app.checkpoints.dtypes import DTYPE_BITS, DTYPES
from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.safetensors import check_name, format_shape
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
"""Keys under which training checkpoints keep their state dict."""
MAX_VIEW_RATIO = 8
"""Most bytes that all tensors together may take, in files: views of one storage add up."""
BYTES_PER_ALIAS, SPARE_ALIASES = 64, 1_000
"""A pickle may give one further name to its tensors for so many of its bytes, beside some."""

Warn = Callable[[str], None]
"""Called with what the user should know about how a file was read."""

_DTYPES: Mapping[str, str] = {
    dtype.torch: name for name, dtype in DTYPES.items() if dtype.torch and dtype.bits >= 8
}
"""Dtypes of torch, and what safetensors calls them."""


@dataclass(frozen=True)
class FileRange:
    """Where the bytes of a storage lie in the file."""

    offset: int
    size_bytes: int


@dataclass(frozen=True)
class PickledCheckpoint:
    """What was read of a checkpoint."""

    name: str
    """Of the file, in messages."""
    top: object
    """The value of its pickle."""
    pickle_bytes: int
    storages: Mapping[str, FileRange]
    """By the keys that the pickle uses."""
    file_bytes: int


def read_state_dict(
    pickled: PickledCheckpoint, limits: Limits, file: int, warn: Warn
) -> tuple[StoredTensor, ...]:
    """The tensors of a state dict, in its order; one that goes by several names has aliases.

    `file` is the number that the tensors point to.

    Raises:
        InvalidModel: damaged, or telling of bytes that it does not hold.
        UnsupportedFormat: anything but a state dict, with the way out.
        TooLarge: over a limit.
    """
    name = pickled.name
    found = _find_state_dict(pickled.top, name, warn)
    if len(found) > limits.tensors:
        raise TooLarge(f"{name} holds {len(found):,} tensors; {limits.allowed('tensors')}")
    tensors = _merge_tied(found, pickled, file)
    aliases, most = (
        len(found) - len(tensors),
        SPARE_ALIASES + pickled.pickle_bytes // BYTES_PER_ALIAS,
    )
    if aliases > most:
        raise TooLarge(
            f"{name} holds {len(tensors):,} tensors under {len(found):,} names; its pickle of "
            f"{pickled.pickle_bytes:,} bytes may give {most:,} further names: save each tensor once"
        )
    total = sum(stored.size_bytes for stored in tensors)
    if total > MAX_VIEW_RATIO * pickled.file_bytes:
        raise TooLarge(
            f"{name} of {pickled.file_bytes:,} bytes holds tensors of {total:,}, as views of the "
            f"same bytes; {MAX_VIEW_RATIO} times the file's size is allowed: save clones of the ones that "
            "are needed"
        )
    return tensors


def _find_state_dict(top: object, name: str, warn: Warn) -> Mapping[str, TensorRef]:
    """The one state dict in what was pickled: under a usual key, or all of it."""
    if not isinstance(top, dict):
        raise UnsupportedFormat(
            f"{name} holds a single {_kind(top)}, but must hold a dict of tensors; {SAVE_STATE_DICT}"
        )
    nested = [key for key in STATE_DICT_KEYS if _is_state_dict(top.get(key))]
    if len(nested) > 1:
        raise UnsupportedFormat(
            f"{name} holds state dicts under both {nested[0]!r} and {nested[1]!r}; save the one "
            "to palettize by itself"
        )
    chosen = top[nested[0]] if nested else top
    others = [key for key, value in top.items() if _is_state_dict(value) and value is not chosen]
    if nested and others:
        keys = ", ".join(quote_text(str(key)) for key in others[:5])
        warn(
            f"of {name} the tensors under {nested[0]!r} are palettized, and those under {keys} are "
            "left out; for those, save them by themselves"
        )
    if not _is_state_dict(chosen):
        keys = ", ".join(quote_text(str(key)) for key in list(top)[:5]) or "nothing"
        raise UnsupportedFormat(
            f"{name} holds a dict of {keys}, but no tensors in it or in a dict under "
            f"{', '.join(map(repr, STATE_DICT_KEYS))}; {SAVE_STATE_DICT}"
        )
    found: dict[str, TensorRef] = {}
    seen = set[int]()
    for key, value in chosen.items():
        if isinstance(value, TensorRef | Unreadable):
            found[_text(key, name)] = _readable(value, key, name)
        elif _holds_tensors(value, seen):
            raise UnsupportedFormat(
                f"{name}: {quote_text(str(key))} in the state dict is a {_kind(value)} with tensors of "
                f"its own, and only tensors with a name of their own are taken; {SAVE_STATE_DICT}"
            )
    return found


def _text(key: str | NonTextKey, name: str) -> str:
    if isinstance(key, str):
        return key
    raise UnsupportedFormat(
        f"{name} holds a tensor under {quote_text(str(key))}, but names must be text; {SAVE_STATE_DICT}"
    )


def _readable(value: TensorRef | Unreadable, key: str | NonTextKey, name: str) -> TensorRef:
    if isinstance(value, TensorRef):
        return value
    raise UnsupportedFormat(f"{name}: {quote_text(str(key))} is {value.what}; {value.way_out}")


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(one, TensorRef | Unreadable) for one in value.values()
    )


def _holds_tensors(value: object, seen: set[int]) -> bool:
    """Whether a tensor lies in it at any depth; it may be cyclic, and share parts.

    `seen` are containers that were looked into for other values, and held none.
    """
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, TensorRef | Unreadable):
            return True
        if isinstance(here, dict | list | tuple) and id(here) not in seen:
            seen.add(id(here))
            waiting.extend(here.values() if isinstance(here, dict) else here)
    return False


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, TensorRef | Unreadable) else type(value).__name__


def _merge_tied(
    found: Mapping[str, TensorRef], pickled: PickledCheckpoint, file: int
) -> tuple[StoredTensor, ...]:
    """The tensors, those of one place made one; those without elements lie nowhere."""
    names: dict[object, list[str]] = {}
    first: dict[object, StoredTensor] = {}
    places: dict[int, object] = {}
    for key, tensor in found.items():
        check_name(key, pickled.name)
        place = places.get(id(tensor))
        if place is None:
            stored = _stored(key, tensor, pickled, file)
            place = places[id(tensor)] = (
                (tensor.storage.key, stored.offset, stored.dtype, stored.shape, stored.strides)
                if stored.size_bytes
                else key
            )
            first.setdefault(place, stored)
        names.setdefault(place, []).append(key)
    aliases = {place: tuple(others) for place, (_, *others) in names.items()}
    return tuple(
        stored.model_copy(update={"aliases": aliases[place]}) if aliases[place] else stored
        for place, stored in first.items()
    )


def _stored(key: str, tensor: TensorRef, pickled: PickledCheckpoint, file: int) -> StoredTensor:
    """A tensor's bytes in the file, which it must have."""
    name = pickled.name

    def broken(complaint: str) -> InvalidModel:
        return InvalidModel(f"{name}: tensor {quote_text(key)} {complaint}; save the file again")

    dtype, data = _DTYPES.get(tensor.dtype), tensor.storage
    if dtype is None:
        raise UnsupportedFormat(
            f"{name}: tensor {quote_text(key)} has dtype {tensor.dtype}; allowed are "
            f"{', '.join(_DTYPES)}: convert it, or leave it out"
        )
    place = pickled.storages.get(data.key)
    if place is None:
        raise broken(f"lies in the storage {quote_text(data.key)}, which the archive lacks")
    item_bytes = DTYPE_BITS[dtype] // 8
    # An untyped storage counts bytes; a typed one has the dtype of its tensors.
    claimed = data.size_bytes()
    if claimed > place.size_bytes:
        raise broken(
            f"lies in the storage {quote_text(data.key)}, which should have {_format_count(claimed)} bytes "
            f"and has {place.size_bytes:,}"
        )
    strides, span = _layout(tensor, key, name)
    if (tensor.offset + span) * item_bytes > claimed:
        raise broken(
            f"of shape {format_shape(tensor.shape)} ends at byte "
            f"{_format_count((tensor.offset + span) * item_bytes)} of a storage of {claimed:,}"
        )
    return StoredTensor(
        name=key,
        dtype=dtype,
        shape=tensor.shape,
        strides=strides,
        file=file,
        offset=place.offset + tensor.offset * item_bytes,
        size_bytes=span * item_bytes,
    )


def _layout(tensor: TensorRef, key: str, name: str) -> tuple[tuple[int, ...] | None, int]:
    """Strides, None for row-major, and the elements from the first to behind the last.

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
    # The stride of an axis of length 1 is never used, and may be anything.
    strides = tuple(s if n > 1 else 1 for n, s in zip(tensor.shape, tensor.strides, strict=True))
    behind = 1
    for stride, length in sorted(zip(strides, tensor.shape, strict=True)):
        if length == 1:
            continue
        if stride < behind:
            raise InvalidModel(
                f"{name}: tensor {quote_text(key)} of shape {format_shape(tensor.shape)} has elements "
                "that share bytes (an expanded or unfolded view); call .contiguous() on it and "
                "save again"
            )
        behind = stride * (length - 1) + behind
    return (None if is_row_major(tensor.shape, strides) else strides), behind


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements lie in the order of their indices, without gaps."""
    wanted = 1
    for stride, length in zip(reversed(strides), reversed(shape), strict=True):
        if length > 1 and stride != wanted:
            return False
        wanted *= length
    return True


def _format_count(size_bytes: int) -> str:
    return f"{size_bytes:,}" if size_bytes < 1 << 60 else "more than 2**60"
