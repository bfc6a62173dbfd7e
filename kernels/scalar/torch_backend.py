"""Scalar palettes on a torch device, in batches of groups that fit its memory.

Weights are copied from the host and indices back to it. The interface is that of
`palettery.kernels.scalar.cpu`, and the palettes have the same error.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import GroupLayout
from palettery.kernels.scalar.cpu import ErrorTotals, ScalarClusters, refine_groups
from palettery.kernels.scalar.torch_kernels import CANDIDATES, assign, cluster, round_values
from palettery.kernels.threads import Check
from palettery.kernels.weight_reader import WeightReader

MEMORY_BYTES = 4 << 30
"""Most device memory of a batch, which takes at most half of the free memory."""
_VALUE_BYTES, _CANDIDATE_BYTES, _WINDOW_BYTES, _CELL_BYTES = 100, 24 << 20, 3 << 10, 120
"""Memory of `torch_kernels.cluster`: per value; per group; per group, times k^2; per cell."""
_ROUNDING_BYTES = 100
"""Additional memory per value for rounding."""


def cluster_on(
    device: torch.device,
    reader: WeightReader,
    k: int,
    decimals: int | None,
    threads: int | None,
    check: Check,
) -> ScalarClusters:
    """Return optimal palettes of every group, like `palettery.kernels.scalar.cpu.cluster`.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout = reader.layout
    centroids = np.empty((layout.groups, k))
    left_fast_mode = 0
    value_bytes = _VALUE_BYTES + (0 if decimals is None else _ROUNDING_BYTES)
    group_bytes = layout.elements * value_bytes + _CANDIDATE_BYTES + _WINDOW_BYTES * k * k
    if layout.elements <= CANDIDATES:
        group_bytes += _CELL_BYTES * (layout.elements + 1) ** 2
    for groups in _batches(device, layout, group_bytes):
        check()
        values = _to_device(reader.entries(groups), device)
        if not bool(values.isfinite().all()):
            raise NonFiniteError
        masses = reader.masses(groups)
        mass = None if masses is None else _to_device(masses, device)
        if decimals is not None:
            check()
            values, lossless = round_values(values, mass, k, decimals)
            left_fast_mode += len(groups) - int(lossless.sum())
        centroids[groups.start : groups.stop] = cluster(values, mass, k, check).cpu().numpy()
    if reader.weight.dtype.itemsize == 2:
        refine_groups(reader, centroids, threads, check)
    return ScalarClusters(centroids, 0, left_fast_mode)


def assign_nearest_on(
    device: torch.device,
    reader: WeightReader,
    lut: NDArray[np.floating],
    totals: ErrorTotals,
    threads: int | None,  # noqa: ARG001 - part of the interface of a backend
    check: Check,
) -> NDArray[np.uint8]:
    """Return the index of the nearest entry, like `palettery.kernels.scalar.cpu.assign_nearest`.

    Shapes: lut (groups, K), each group ascending -> like the weight.
    """
    layout = reader.layout
    indices = np.empty(layout.shape, np.uint8)
    for groups in _batches(device, layout, layout.elements * _VALUE_BYTES):
        check()
        values = _to_device(reader.values(groups), device)
        entries = _to_device(lut[groups.start : groups.stop], device)
        cells = assign(values, entries)
        errors, counts = _errors(values, cells, entries)
        totals.add(groups, errors.T.cpu().numpy(), counts.cpu().numpy())
        layout.put(indices, groups, cells.cpu().numpy())
    return indices


def _errors(values: Tensor, cells: Tensor, lut: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared error, signal and largest error (3, G), and the occupancy (G, k)."""
    at = cells.long()
    wide = values.double()
    error = wide - lut.double().gather(1, at)
    sums = (error.square().sum(1), wide.square().sum(1), error.abs().amax(1))
    occupancy = torch.zeros(lut.shape, dtype=torch.int64, device=lut.device)
    return torch.stack(sums), occupancy.scatter_add_(1, at, torch.ones_like(at))


def _batches(device: torch.device, layout: GroupLayout, group_bytes: int) -> Iterator[range]:
    """Yield ranges of groups that fit into memory, with at least one group each."""
    free = MEMORY_BYTES
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0] // 2)
    return layout.batches(max(1, free // group_bytes) * layout.elements)


def _to_device(array: NDArray[np.floating], device: torch.device) -> Tensor:
    """Return a writable copy of the array on the device."""
    return torch.tensor(array, device=device)
