"""Byte ranges of the weights of a `.pt2`, from their shapes, strides and storages."""

from collections.abc import Mapping, Sequence

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.dtypes import DTYPE_BITS, DTYPES
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.quoting import format_shape, quote_json, quote_text
from palettery.app.checkpoints.safetensors import MAX_RANK
from palettery.app.checkpoints.state_dict import is_row_major
from palettery.app.checkpoints.zip_members import ZipMember
from palettery.app.errors import InvalidModel, UnsupportedFormat
from palettery.schemas.checkpoint import StoredTensor

DTYPE_OF_NUMBER: Mapping[int, str] = {
    dtype.number: name for name, dtype in DTYPES.items() if dtype.number is not None
}
"""Number of a dtype in the graph schema -> safetensors name."""

_STRIDED = 7
"""Number of the strided layout in the graph schema."""


def locate_tensor(
    name: str, meta: Mapping[str, object], member: ZipMember, what: str
) -> StoredTensor:
    """Return a tensor with the byte range that its shape and strides span in a member.

    Raises:
        InvalidModel: sizes that are not plain numbers, or exceed the member.
        UnsupportedFormat: a dtype or layout that artifacts do not support.
    """
    dtype = _dtype(meta, what)
    if pt2_json.field(meta, "layout", int, what) != _STRIDED:
        raise UnsupportedFormat(f"{what} is sparse; make it dense and export the model again")
    shape = _parse_counts(pt2_json.field(meta, "sizes", list, what), "sizes", what)
    strides = _parse_counts(pt2_json.field(meta, "strides", list, what), "strides", what)
    (storage_offset,) = _parse_counts([meta.get("storage_offset")], "storage_offset", what)
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise InvalidModel(
            f"{what} has {len(shape)} sizes and {len(strides)} strides; their numbers must be "
            f"equal, and at most {MAX_RANK}: {EXPORT_AGAIN}"
        )
    item_bytes = DTYPE_BITS[dtype] // 8
    # The stride of an axis of length 1 is unused, and may have any value.
    used = tuple(stride if length > 1 else 1 for stride, length in zip(strides, shape, strict=True))
    span = _span(shape, used, what)
    if (storage_offset + span) * item_bytes > member.size_bytes:
        raise InvalidModel(
            f"{what} of shape {format_shape(shape)} and strides {format_shape(strides)} exceeds "
            f"the {member.size_bytes:,} bytes of its storage; {EXPORT_AGAIN}"
        )
    return StoredTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        strides=None if not span or is_row_major(shape, used) else used,
        file=0,
        offset=member.offset + (storage_offset * item_bytes if span else 0),
        size_bytes=span * item_bytes,
    )


def _dtype(meta: Mapping[str, object], what: str) -> str:
    code = pt2_json.field(meta, "dtype", int, what)
    if code not in DTYPE_OF_NUMBER:
        raise UnsupportedFormat(
            f"{what} has the dtype with number {quote_text(str(code))}, which safetensors lacks; "
            f"convert it to one of {', '.join(DTYPE_OF_NUMBER.values())}"
        )
    return DTYPE_OF_NUMBER[code]


def _parse_counts(values: Sequence[object], key: str, what: str) -> tuple[int, ...]:
    """Return non-negative whole numbers, each of which is written as {"as_int": n}."""
    numbers = []
    for value in values:
        number = value.get("as_int") if isinstance(value, dict) and len(value) == 1 else None
        if type(number) is not int or not 0 <= number < 1 << 63:
            symbolic = isinstance(value, dict) and "as_expr" in value
            raise InvalidModel(
                f"{what} has {key} with {'a symbolic expression' if symbolic else 'no number'} in "
                f"it ({quote_json(value)}); those of a weight must be plain whole numbers, "
                f"and expressions are never evaluated: {EXPORT_AGAIN}"
            )
        numbers.append(number)
    return tuple(numbers)


def _span(shape: Sequence[int], strides: Sequence[int], what: str) -> int:
    """Return the number of elements from a tensor's first to its last; none may share bytes."""
    if 0 in shape:
        return 0
    span = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length > 1 and stride < span:
            raise InvalidModel(
                f"{what} of shape {format_shape(shape)} has strides {format_shape(strides)}, so "
                "that its elements share bytes; call .contiguous() on it and export the model again"
            )
        span += stride * (length - 1)
    return span
