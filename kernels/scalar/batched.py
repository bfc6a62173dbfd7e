"""Scalar palettes on a torch device, in batches of groups that fit its memory.

Weights come from the host and indices go back to it; the interface is that of
`palettery.kernels.scalar.cpu`, and so is the error of the result.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import Layout
from palettery.kernels.scalar.cpu import Fit, Totals, settle_groups
from palettery.kernels.scalar.gpu import CANDIDATES, assign, cluster, rounded
from palettery.kernels.source import Source
from palettery.kernels.threads import Check

MEMORY_BYTES = 4 << 30
"""Most device memory that a batch takes, and half of what is free."""
_VALUE_BYTES, _CANDIDATE_BYTES, _WINDOW_BYTES, _CELL_BYTES = 100, 24 << 20, 3 << 10, 120
"""Memory of `scalar.gpu.cluster`: per value; per group; per group, times k^2; per cell."""
_ROUNDING_BYTES = 100
"""What rounding adds, a value."""


def cluster_on(
    device: torch.device,
    source: Source,
    k: int,
    decimals: int | None,
    threads: int | None,
    check: Check,
) -> Fit:
    """Optimal palettes of every group, as `palettery.kernels.scalar.cpu.cluster` finds them.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout = source.layout
    centroids = np.empty((layout.groups, k))
    left = 0
    value_bytes = _VALUE_BYTES + (0 if decimals is None else _ROUNDING_BYTES)
    group_bytes = layout.elements * value_bytes + _CANDIDATE_BYTES + _WINDOW_BYTES * k * k
    if layout.elements <= CANDIDATES:
        group_bytes += _CELL_BYTES * (layout.elements + 1) ** 2
    for groups in _batches(device, layout, group_bytes):
        check()
        values = _sent(source.entries(groups), device)
        if not bool(values.isfinite().all()):
            raise NonFiniteError
        masses = source.masses(groups)
        mass = None if masses is None else _sent(masses, device)
        if decimals is not None:
            check()
            values, lossless = rounded(values, mass, k, decimals)
            left += len(groups) - int(lossless.sum())
        centroids[groups.start : groups.stop] = cluster(values, mass, k, check).cpu().numpy()
    if source.weight.dtype.itemsize == 2:
        settle_groups(source, centroids, threads, check)
    return Fit(centroids, 0, left)


def nearest_on(
    device: torch.device,
    source: Source,
    lut: NDArray[np.floating],
    totals: Totals,
    threads: int | None,  # noqa: ARG001 - so that it can stand in for the CPU's
    check: Check,
) -> NDArray[np.uint8]:
    """Index of the nearest entry, as `palettery.kernels.scalar.cpu.nearest` finds it.

    Shapes: lut (groups, K), each group ascending -> like the weight.
    """
    layout = source.layout
    indices = np.empty(layout.shape, np.uint8)
    for groups in _batches(device, layout, layout.elements * _VALUE_BYTES):
        check()
        values = _sent(source.values(groups), device)
        entries = _sent(lut[groups.start : groups.stop], device)
        cells = assign(values, entries)
        errors, counts = _errors(values, cells, entries)
        totals.add(groups, errors.T.cpu().numpy(), counts.cpu().numpy())
        layout.put(indices, groups, cells.cpu().numpy())
    return indices


def _errors(values: Tensor, cells: Tensor, lut: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error, signal and largest error (3, G), and the occupancy (G, k)."""
    at = cells.long()
    wide = values.double()
    error = wide - lut.double().gather(1, at)
    sums = (error.square().sum(1), wide.square().sum(1), error.abs().amax(1))
    occupancy = torch.zeros(lut.shape, dtype=torch.int64, device=lut.device)
    return torch.stack(sums), occupancy.scatter_add_(1, at, torch.ones_like(at))


def _batches(device: torch.device, layout: Layout, group_bytes: int) -> Iterator[range]:
    """Runs of groups that fit the memory, at least one group each."""
    free = MEMORY_BYTES
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0] // 2)
    return layout.batches(max(1, free // group_bytes) * layout.elements)


def _sent(array: NDArray[np.floating], device: torch.device) -> Tensor:
    """The array on the device, in a copy that may be written to."""
    return torch.tensor(array, device=device)
