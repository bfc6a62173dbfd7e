"""Where a weight of a `.pt2` lies: its shape, strides and storage as a byte range of the file."""

from collections.abc import Mapping, Sequence

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.dtypes import DTYPE_BITS, DTYPES
from palettery.app.checkpoints.json_scanner import quote_json, quote_text
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.safetensors import RANK, format_shape
from palettery.app.checkpoints.state_dict import is_row_major
from palettery.app.checkpoints.zip_members import ZipMember
from palettery.app.errors import InvalidModel, UnsupportedFormat
from palettery.schemas.checkpoint import StoredTensor

DTYPE_OF_NUMBER: Mapping[int, str] = {
    dtype.number: name for name, dtype in DTYPES.items() if dtype.number is not None
}
"""Number of a dtype in the graph schema -> its safetensors name, of those that have one."""

_STRIDED = 7


def place(name: str, meta: Mapping[str, object], member: ZipMember, what: str) -> StoredTensor:
    """A tensor as the byte range that its shape and strides reach in a member.

    Raises:
        InvalidModel: sizes that are no plain numbers, or reach beyond the member.
        UnsupportedFormat: a dtype or layout that no artifact can hold.
    """
    dtype = _dtype(meta, what)
    if pt2_json.field(meta, "layout", int, what) != _STRIDED:
        raise UnsupportedFormat(f"{what} is sparse; make it dense and export the model again")
    shape = _counts(pt2_json.field(meta, "sizes", list, what), "sizes", what)
    strides = _counts(pt2_json.field(meta, "strides", list, what), "strides", what)
    (skipped,) = _counts([meta.get("storage_offset")], "storage_offset", what)
    if len(shape) != len(strides) or len(shape) > RANK:
        raise InvalidModel(
            f"{what} has {len(shape)} sizes and {len(strides)} strides; there must be as many "
            f"of both, {RANK} at most: {EXPORT_AGAIN}"
        )
    item_bytes = DTYPE_BITS[dtype] // 8
    steps = tuple(step if length > 1 else 1 for step, length in zip(strides, shape, strict=True))
    reach = _reach(shape, steps, what)
    if (skipped + reach) * item_bytes > member.size_bytes:
        raise InvalidModel(
            f"{what} of shape {format_shape(shape)} and strides {format_shape(strides)} reaches "
            f"beyond the {member.size_bytes:,} bytes of its storage; {EXPORT_AGAIN}"
        )
    return StoredTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        strides=None if not reach or is_row_major(shape, steps) else steps,
        file=0,
        offset=member.offset + (skipped * item_bytes if reach else 0),
        size_bytes=reach * item_bytes,
    )


def _dtype(meta: Mapping[str, object], what: str) -> str:
    code = pt2_json.field(meta, "dtype", int, what)
    if code not in DTYPE_OF_NUMBER:
        raise UnsupportedFormat(
            f"{what} has the dtype with number {quote_text(str(code))}, which safetensors lacks; "
            f"convert it to one of {', '.join(DTYPE_OF_NUMBER.values())}"
        )
    return DTYPE_OF_NUMBER[code]


def _counts(said: Sequence[object], key: str, what: str) -> tuple[int, ...]:
    """Plain whole numbers from 0, each written as {"as_int": n}."""
    found = []
    for value in said:
        number = value.get("as_int") if isinstance(value, dict) and len(value) == 1 else None
        if type(number) is not int or not 0 <= number < 1 << 63:
            symbolic = isinstance(value, dict) and "as_expr" in value
            raise InvalidModel(
                f"{what} has {key} with {'a symbolic expression' if symbolic else 'no number'} in "
                f"it ({quote_json(value)}); a weight's must be plain whole numbers from 0, "
                f"and expressions are never evaluated: {EXPORT_AGAIN}"
            )
        found.append(number)
    return tuple(found)


def _reach(shape: Sequence[int], steps: Sequence[int], what: str) -> int:
    """Elements from the first to the last of a tensor, of which none may lie on another."""
    if 0 in shape:
        return 0
    reach = 1
    for step, length in sorted(zip(steps, shape, strict=True)):
        if length > 1 and step < reach:
            raise InvalidModel(
                f"{what} of shape {format_shape(shape)} has strides {format_shape(steps)}, so that "
                "its elements share bytes; call .contiguous() on it and export the model again"
            )
        reach += step * (length - 1)
    return reach
