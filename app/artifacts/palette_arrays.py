"""Arrays of a palettized weight: their names, shapes and dtypes, and blocks of rows of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.errors import InvalidArtifact
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.checkpoint import StoredTensor

BLOCK_BYTES = 16 << 20
"""Dense bytes decoded at a time."""


@dataclass(frozen=True)
class LocatedTensor:
    """A tensor of an artifact, and the path of its file."""

    path: str
    tensor: StoredTensor


def take_palette(
    tensors: dict[str, LocatedTensor], name: str, weight: PalettizedWeight
) -> dict[str, LocatedTensor]:
    """Remove a weight's arrays from the tensors, and check them against the metadata."""
    shapes = _shapes(name, weight)
    parts = {key: tensors.pop(f"{name}.{key}") for key in shapes if f"{name}.{key}" in tensors}
    quantized = "lut" in parts and parts["lut"].tensor.dtype != weight.dtype
    dtypes = _dtypes(weight, parts) if quantized else _PLAIN | {"lut": (weight.dtype,)}
    for key in ("indices", "lut", *(["lut_scale"] if quantized else []), *shapes.keys() & {"mask"}):
        if key not in parts:
            raise InvalidArtifact(f"{name}: the artifact lacks `{name}.{key}`")
    for key, stored in parts.items():
        _check(f"{name}.{key}", "shape", list(stored.tensor.shape), [list(shapes[key])])
        _check(f"{name}.{key}", "dtype", stored.tensor.dtype, dtypes[key])
    return parts


def _check(name: str, what: str, got: object, allowed: Sequence[object]) -> None:
    if got not in allowed:
        expected = " or ".join(map(str, allowed)) or "no such array"
        raise InvalidArtifact(f"{name} has {what} {got}, but the metadata asks for {expected}")


_QUANTIZED = ("I8", "U8", "F8_E4M3", "F8_E5M2")
_PLAIN: dict[str, Sequence[str]] = {
    "indices": ("U8",),
    "lut_scale": (),
    "lut_zero_point": (),
    "per_channel_scale": ("F32",),
    "mask": ("U8",),
}


def _dtypes(
    weight: PalettizedWeight, parts: Mapping[str, LocatedTensor]
) -> dict[str, Sequence[str]]:
    """Return the allowed dtypes of each array if the LUT is quantized."""
    return _PLAIN | {
        "lut": (weight.dtype, *_QUANTIZED),
        "lut_scale": ("F32",),
        "lut_zero_point": (parts["lut"].tensor.dtype,),
    }


def _shapes(name: str, weight: PalettizedWeight) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that a weight may be stored as."""
    rank, groups = len(weight.shape), [1] * len(weight.shape)
    group_size = weight.group_size
    if (
        rank <= weight.axis
        or not _takes_vectors(weight)
        or (group_size is not None and weight.shape[weight.axis] % group_size)
    ):
        raise InvalidArtifact(
            f"{name}: a weight of shape {list(weight.shape)} takes no vectors of "
            f"{weight.cluster_dim} and groups of {group_size} on axis {weight.axis}"
        )
    if group_size is not None:
        groups[weight.axis] = weight.shape[weight.axis] // group_size
    packed = (cells(weight, weight.shape[0]) * weight.n_bits + 7) // 8
    mask = {} if weight.stored is None else {"mask": ((math.prod(weight.shape) + 7) // 8,)}
    return mask | {
        "indices": (packed,),
        "lut": (*groups, 2**weight.n_bits, weight.cluster_dim),
        "lut_scale": (*groups, 1, 1),
        "lut_zero_point": (*groups, 1, 1),
        "per_channel_scale": (weight.shape[0], *[1] * (rank - 1)),
    }


def _takes_vectors(weight: PalettizedWeight) -> bool:
    """Return whether vectors fill a weight, or the stored values of a sparse one."""
    if weight.stored is None:
        return weight.shape[0] % weight.cluster_dim == 0
    across = weight.cluster_dim > 1 and weight.group_size is not None and weight.axis == 1
    return not across and weight.stored % weight.cluster_dim == 0


def check_stored(name: str, weight: PalettizedWeight, stored: int, *, is_last: bool) -> None:
    """Check the number of values that the mask stores up to some row."""
    assert weight.stored is not None  # noqa: S101 - callers checked
    if stored > weight.stored or (is_last and stored < weight.stored):
        raise InvalidArtifact(
            f"{name}: its mask stores {stored} weights, but the metadata asks for {weight.stored}"
        )


def cells(weight: PalettizedWeight, rows: int) -> int:
    """Return the number of indices of this many rows; a sparse weight has one number for all."""
    if weight.stored is not None:
        return weight.stored // weight.cluster_dim
    return rows // weight.cluster_dim * math.prod(weight.shape[1:])


def row_blocks(weight: PalettizedWeight) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) such that each block starts on a byte, a group and a vector."""
    row_bits = math.prod(weight.shape[1:]) * (weight.n_bits if weight.stored is None else 1)
    grouped = weight.group_size if weight.axis == 0 and weight.group_size else 1
    dim = weight.cluster_dim if weight.stored is None else 1
    unit = math.lcm(dim * (8 // math.gcd(8, row_bits or 8)), grouped)
    row_bytes = math.prod(weight.shape[1:]) * NUMPY[weight.dtype].itemsize
    step = max(1, BLOCK_BYTES // max(1, unit * row_bytes)) * unit
    for first in range(0, weight.shape[0], step):
        yield first, min(step, weight.shape[0] - first)
