"""Compatibility of specs with tensors, and the size of palettized tensors."""

import math
from collections.abc import Sequence
from typing import Final, Literal

from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.schemas.config import (
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
)
from palettery.schemas.plan import Clustering

_SCALE_BYTES: Final = 4
"""Per-channel and LUT scales are float32."""


def resolve_clustering(
    spec: PalettizationSpec, config: ModuleKMeansPalettizerConfig, op_type: str | None
) -> Clustering:
    """Return a spec's clustering, completed with the op's default axis and module's rounding."""
    group_size: int | None = None
    axis: Literal[0, 1] | None = 0
    if isinstance(spec.granularity, PerGroupedChannelGranularity):
        group_size, axis = spec.granularity.group_size, spec.granularity.axis
    if axis is None:
        registered = OP_TYPES.get(op_type or "")
        axis = registered.default_axis if registered else 0
    fast = config.enable_fast_kmeans_mode and spec.cluster_dim == 1
    return Clustering(
        axis=axis,
        group_size=group_size,
        rounding_precision=config.rounding_precision if fast else None,
        vector_kmeans=config.vector_kmeans_config if spec.cluster_dim > 1 else None,
    )


def find_incompatibility(
    shape: Sequence[int], spec: PalettizationSpec, clustering: Clustering, op_type: str | None
) -> str | None:
    """Return why a tensor cannot take a spec, and which specs it can take; None if it can.

    coreai-opt 0.4.0 keeps tensors whose length does not divide, and fails on the other cases.
    """
    rank, group_size, axis = len(shape), clustering.group_size, clustering.axis
    registered = OP_TYPES.get(op_type or "")
    flattens = registered is not None and registered.flattens
    if rank == 1 and flattens:
        return f"it has one axis, and {op_type} takes no palettized bias: use null"
    if rank == 1 and (group_size or spec.cluster_dim > 1 or spec.enable_per_channel_scale):
        return (
            "it has one axis, which takes neither groups nor vectors nor a per-channel scale: use "
            "per_tensor, cluster_dim 1 and no scale"
        )
    if group_size is not None and shape[axis] % group_size:
        reason = f"group_size {group_size} does not divide axis {axis} of length {shape[axis]}"
        return f"{reason}: use {_other_granularities(shape, spec, group_size, axis)}"
    if spec.cluster_dim > 1 and rank > 2 and not flattens:
        return (
            f"cluster_dim {spec.cluster_dim} takes two axes or a convolution; it has {rank} axes: "
            "use cluster_dim 1"
        )
    if spec.cluster_dim > 1 and spec.sparsity_detection_threshold is not None:
        if group_size is not None and axis == 1:
            return (
                f"sparsity_detection_threshold with cluster_dim {spec.cluster_dim} takes no groups "
                "on axis 1: use axis 0, per_tensor, cluster_dim 1, or no threshold"
            )
        return None  # vectors of stored weights; whether it is sparse is known only from the data
    if axis == 0 and group_size is not None and group_size % spec.cluster_dim:
        reason = f"cluster_dim {spec.cluster_dim} does not divide group_size {group_size}"
        return f"{reason}: use cluster_dim {math.gcd(spec.cluster_dim, group_size)}"
    if shape[0] % spec.cluster_dim:
        reason = f"cluster_dim {spec.cluster_dim} does not divide axis 0 of length {shape[0]}"
        return f"{reason}: use cluster_dim {_largest_divisor(shape[0], spec.cluster_dim)}"
    return None


def _other_granularities(
    shape: Sequence[int], spec: PalettizationSpec, group_size: int, axis: int
) -> str:
    """Return a list of granularities that fit, for a message about one that does not."""
    granularities = []
    if len(shape) > 1 and shape[1 - axis] % group_size == 0:
        granularities.append(f"axis {1 - axis}")
    granularities.append("per_tensor")
    unit = spec.cluster_dim if axis == 0 else 1
    if shape[axis] % unit == 0 and group_size > unit:
        smaller = unit * _largest_divisor(shape[axis] // unit, group_size // unit)
        if smaller > 1:
            granularities.append(f"group_size {smaller}")
    *others, last = granularities
    return f"{', '.join(others)} or {last}" if others else last


def _largest_divisor(length: int, limit: int) -> int:
    """Return the largest divisor of a length that is no larger than `limit`."""
    return next((size for size in range(min(limit, length), 1, -1) if length % size == 0), 1)


def group_count(shape: Sequence[int], clustering: Clustering) -> int:
    """Return the number of LUTs of a tensor."""
    if clustering.group_size is None:
        return 1
    return shape[clustering.axis] // clustering.group_size


def palettized_bytes(
    shape: Sequence[int],
    value_bytes: int,
    spec: PalettizationSpec,
    groups: int,
    num_stored: int | None = None,
) -> int:
    """Return the exact size in the artifact: packed indices, LUTs, scales, and a mask if sparse.

    `num_stored` is the number of weights that have an index if the tensor is sparse; else None.
    """
    count = math.prod(shape)
    mask = 0 if num_stored is None else (count + 7) // 8
    indexed = count if num_stored is None else num_stored
    indices = (indexed // spec.cluster_dim * spec.n_bits + 7) // 8 + mask
    entries = groups * 2**spec.n_bits * spec.cluster_dim
    scales = shape[0] * _SCALE_BYTES if spec.enable_per_channel_scale else 0
    if spec.lut_qspec is None:
        return indices + entries * value_bytes + scales
    zero_points = groups if spec.lut_qspec.dtype in ("int8", "uint8") else 0
    return indices + entries + groups * _SCALE_BYTES + zero_points + scales


def size_bounds(
    shape: Sequence[int], value_bytes: int, spec: PalettizationSpec, groups: int
) -> tuple[int | None, int]:
    """Return the smallest size in the artifact, None if the largest is exact, and the largest.

    Only the data say whether a tensor is sparse, and how many weights a sparse one stores.
    """
    dense, threshold = (
        palettized_bytes(shape, value_bytes, spec, groups),
        spec.sparsity_detection_threshold,
    )
    if threshold is None:
        return None, dense
    count = math.prod(shape)
    if spec.cluster_dim > 1 and shape[0] % spec.cluster_dim:
        dense = count * value_bytes  # without zeros it is kept
    num_stored = count - max(1, math.ceil(threshold * count))
    most, least = (
        palettized_bytes(shape, value_bytes, spec, groups, number) for number in (num_stored, 0)
    )
    return min(dense, least), max(dense, most)
