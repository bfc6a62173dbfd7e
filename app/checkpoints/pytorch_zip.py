"""PyTorch's zip checkpoints: state dicts of `torch.save`, read without torch and without loading.

Source: `torch/serialization.py` of torch 2.13; such an archive holds `data.pkl`, which tells of the
tensors, and one stored member `data/<key>` per storage.
"""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

from app.checkpoints.dtypes import DTYPE_BITS, DTYPES
from app.checkpoints.json_scan import shown
from app.checkpoints.restricted_pickle import WAY_OUT, read_pickle
from app.checkpoints.safetensors import check_name, shown_shape
from app.checkpoints.torch_records import TensorRef
from app.checkpoints.zip_members import Member, below_root, read_member, read_members
from app.errors import InvalidModel, TooLarge, UnsupportedFormat
from app.settings import Limits
from app.storage import Storage
from schemas.checkpoint import StoredTensor

Archive: TypeAlias = Literal["state_dict", "pt2", "torchscript"]

NESTED = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which training checkpoints keep their state dict."""
BYTEORDER_BYTES = 16
"""Most bytes of the member that tells the byte order."""

VIEWS = 8
"""Most bytes that all tensors together may take, in files: views of one storage add up."""

_DTYPES: Mapping[str, str] = {
    dtype.torch: name for name, dtype in DTYPES.items() if dtype.torch and dtype.bits >= 8
}
"""Dtypes of torch, and what safetensors calls them."""


def tell_archive(members: Mapping[str, Member], name: str = "the archive") -> Archive:
    """What kind of archive PyTorch wrote, from its members as `read_members` names them.

    Raises:
        UnsupportedFormat: a torch.export program of an old version, or no archive of PyTorch.
    """
    inner = {key.partition("/")[2] or key for key in members}
    if "serialized_exported_program.json" in inner:
        raise UnsupportedFormat(
            f"{name} is a torch.export program in the format of an old PyTorch, with pickled "
            "weights; load it there and export the model again with torch.export.save of torch 2.13"
        )
    if "models/model.json" in inner and "archive_format" in inner:
        return "pt2"
    if "constants.pkl" in inner or any(key.startswith("code/") for key in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "state_dict"
    raise UnsupportedFormat(
        f"{name} is a zip archive that PyTorch did not write: it holds neither data.pkl nor "
        f"models/model.json, but {shown(next(iter(members), 'nothing'))}; send a checkpoint"
    )


def read_pytorch_zip(
    storage: Storage, path: str, limits: Limits, *, name: str, file: int
) -> tuple[StoredTensor, ...]:
    """The tensors of a state dict, in its order; one that goes by several names has aliases.

    `name` is what messages call the file; `file` is the number its tensors point to.

    Raises:
        InvalidModel: damaged, or telling of bytes that it does not hold.
        UnsupportedFormat: anything but a state dict, with the way out.
        TooLarge: over a limit.
    """
    archive = read_members(storage, path, limits, name=name)
    kind = tell_archive(archive, name)
    if kind == "torchscript":
        raise UnsupportedFormat(f"{name} is a TorchScript module, which is code; {WAY_OUT}")
    if kind == "pt2":
        raise InvalidModel(
            f"{name} is a torch.export program, a whole model and no shard; send it alone"
        )
    members = below_root(archive, name)
    if "data.pkl" not in members:
        raise InvalidModel(f"{name}: its data.pkl does not lie where it must; {WAY_OUT}")
    _check_byteorder(storage, path, members, name)
    pickle = read_member(storage, path, members["data.pkl"], limits.header_bytes, name=name)
    found = _find_state_dict(read_pickle(pickle, limits, name=name), name)
    if len(found) > limits.tensors:
        raise TooLarge(f"{name} holds {len(found):,} tensors; {limits.tensors:,} are allowed")
    tensors = _untied(found, members, name, file)
    total, held = sum(stored.size_bytes for stored in tensors), storage.size_bytes(path)
    if total > VIEWS * held:
        raise TooLarge(
            f"{name} of {held:,} bytes holds tensors of {total:,}, as views of the same bytes; "
            f"{VIEWS} times the file's size is allowed: save clones of the ones that are needed"
        )
    return tensors


def _untied(
    found: Mapping[str, TensorRef], members: Mapping[str, Member], name: str, file: int
) -> tuple[StoredTensor, ...]:
    """The tensors, those of one place made one."""
    names: dict[object, list[str]] = {}
    first: dict[object, StoredTensor] = {}
    for key, tensor in found.items():
        stored = _stored(check_name(key, name), tensor, members, name, file)
        place = (tensor.storage.key, stored.offset, stored.dtype, stored.shape, stored.strides)
        first.setdefault(place, stored)
        names.setdefault(place, []).append(key)
    return tuple(
        stored.model_copy(update={"aliases": tuple(names[place][1:])})
        for place, stored in first.items()
    )


def _check_byteorder(storage: Storage, path: str, members: Mapping[str, Member], name: str) -> None:
    member = members.get("byteorder")
    if member is None:  # torch < 2.1, which knew little-endian machines only
        return
    order = read_member(storage, path, member, BYTEORDER_BYTES, name=name)
    if order == b"big":
        raise UnsupportedFormat(
            f"{name} was saved on a big-endian machine; load it on a little-endian one and save "
            "it again"
        )
    if order != b"little":
        raise InvalidModel(
            f"{name}: its byteorder is {order!r}, and must be 'little'; fetch the file again"
        )


def _find_state_dict(top: object, name: str) -> Mapping[str, TensorRef]:
    """The one state dict in what was pickled: under a usual key, or all of it."""
    if not isinstance(top, dict):
        raise UnsupportedFormat(
            f"{name} holds a single {_kind(top)}, but must hold a dict of tensors; {WAY_OUT}"
        )
    nested = [key for key in NESTED if _is_state_dict(top.get(key))]
    if len(nested) > 1:
        raise UnsupportedFormat(
            f"{name} holds state dicts under both {nested[0]!r} and {nested[1]!r}; save the one "
            "to palettize by itself"
        )
    chosen = top[nested[0]] if nested else top
    if not _is_state_dict(chosen):
        keys = ", ".join(shown(str(key)) for key in list(top)[:5]) or "nothing"
        raise UnsupportedFormat(
            f"{name} holds a dict of {keys}, but no tensors in it or in a dict under "
            f"{', '.join(map(repr, NESTED))}; {WAY_OUT}"
        )
    found: dict[str, TensorRef] = {}
    for key, value in chosen.items():
        if isinstance(value, TensorRef):
            if not isinstance(key, str):
                raise UnsupportedFormat(
                    f"{name} holds a tensor under {key!r}, but names must be text; {WAY_OUT}"
                )
            found[key] = value
        elif _holds_tensors(value):
            raise UnsupportedFormat(
                f"{name}: {shown(str(key))} in the state dict is a {_kind(value)} with tensors of "
                f"its own, and only tensors with a name of their own are taken; {WAY_OUT}"
            )
    return found


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(one, TensorRef) for one in value.values())


def _holds_tensors(value: object) -> bool:
    """Whether a tensor lies in it at any depth; it may be cyclic, and share parts."""
    waiting, seen = [value], set[int]()
    while waiting:
        here = waiting.pop()
        if isinstance(here, TensorRef):
            return True
        if isinstance(here, dict | list | tuple) and id(here) not in seen:
            seen.add(id(here))
            waiting.extend(here.values() if isinstance(here, dict) else here)
    return False


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, TensorRef) else type(value).__name__


def _stored(
    key: str, tensor: TensorRef, members: Mapping[str, Member], name: str, file: int
) -> StoredTensor:
    """A tensor's bytes in the file, which it must have."""

    def broken(complaint: str) -> InvalidModel:
        return InvalidModel(f"{name}: tensor {shown(key)} {complaint}; save the file again")

    dtype, data = _DTYPES.get(tensor.dtype), tensor.storage
    if dtype is None:
        raise UnsupportedFormat(
            f"{name}: tensor {shown(key)} has dtype {tensor.dtype}; allowed are "
            f"{', '.join(_DTYPES)}: convert it, or leave it out"
        )
    member = members.get(f"data/{data.key}")
    if member is None:
        raise broken(f"lies in the storage {shown(data.key)}, which the archive lacks")
    item_bytes = DTYPE_BITS[dtype] // 8
    # An untyped storage counts bytes; a typed one has the dtype of its tensors.
    claimed = data.numel * (1 if data.dtype is None else item_bytes)
    if claimed > member.size_bytes:
        raise broken(
            f"lies in the storage {shown(data.key)}, which should have {_shown(claimed)} bytes "
            f"and has {member.size_bytes:,}"
        )
    strides, span = _layout(tensor, key, name)
    if (tensor.offset + span) * item_bytes > claimed:
        raise broken(
            f"of shape {shown_shape(tensor.shape)} ends at byte "
            f"{_shown((tensor.offset + span) * item_bytes)} of a storage of {claimed:,}"
        )
    return StoredTensor(
        name=key,
        dtype=dtype,
        shape=tensor.shape,
        strides=strides,
        file=file,
        offset=member.offset + tensor.offset * item_bytes,
        size_bytes=span * item_bytes,
    )


def _layout(tensor: TensorRef, key: str, name: str) -> tuple[tuple[int, ...] | None, int]:
    """Strides, None for row-major, and the elements from the first to behind the last.

    Raises:
        InvalidModel: not one stride per axis, or elements that share bytes.
    """
    if len(tensor.strides) != len(tensor.shape):
        raise InvalidModel(
            f"{name}: tensor {shown(key)} has {len(tensor.shape)} axes and "
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
                f"{name}: tensor {shown(key)} of shape {shown_shape(tensor.shape)} has elements "
                "that share bytes (an expanded or unfolded view); call .contiguous() on it and "
                "save again"
            )
        behind = stride * (length - 1) + behind
    contiguous = all(
        n == 1 or stride == math.prod(tensor.shape[axis + 1 :])
        for axis, (n, stride) in enumerate(zip(tensor.shape, strides, strict=True))
    )
    return (None if contiguous else strides), behind


def _shown(size_bytes: int) -> str:
    return f"{size_bytes:,}" if size_bytes < 1 << 60 else "more than 2**60"
