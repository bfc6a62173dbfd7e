"""Scalar palettes on a torch device, in batches of groups that fit its memory.

Weights are copied from the host and indices back to it. The interface is that of
`palettery.kernels.scalar.cpu`, and the palettes have the same error.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.groups import GroupLayout
from palettery.kernels.scalar.cpu import ErrorTotals, ScalarClusters, refine_groups
from palettery.kernels.scalar.torch_kernels import CANDIDATES, assign, cluster, round_values
from palettery.kernels.sparsity import Mask, take_stored
from palettery.kernels.threads import CancellationCheck
from palettery.kernels.weight_reader import WeightReader

MEMORY_BYTES = 4 << 30
"""Most device memory of a batch, which also never takes more than half of the free memory."""
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
    check_cancelled: CancellationCheck,
) -> ScalarClusters:
    """Return optimal palettes of every group, like `palettery.kernels.scalar.cpu.cluster`.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    layout, dense_reader = reader.layout, replace(reader, mask=None)
    centroids = np.empty((layout.groups, k))
    left_fast_mode = 0
    value_bytes = _VALUE_BYTES + (0 if decimals is None else _ROUNDING_BYTES)
    group_bytes = layout.elements * value_bytes + _CANDIDATE_BYTES + _WINDOW_BYTES * k * k
    if layout.elements <= CANDIDATES:
        group_bytes += _CELL_BYTES * (layout.elements + 1) ** 2
    for groups in _batches(device, layout, group_bytes):
        check_cancelled()
        values = _to_device(dense_reader.entries(groups), device)
        if not bool(values.isfinite().all()):
            raise NonFiniteError
        mass = _masked_mass(device, dense_reader, reader.mask, groups)
        if decimals is not None:
            check_cancelled()
            values, lossless = round_values(values, mass, k, decimals)
            left_fast_mode += len(groups) - int(lossless.sum())
        centroids[groups.start : groups.stop] = (
            cluster(values, mass, k, check_cancelled).cpu().numpy()
        )
    if reader.weight.dtype.itemsize == 2:
        refine_groups(reader, centroids, threads, check_cancelled)
    return ScalarClusters(centroids, 0, left_fast_mode)


def assign_nearest_on(
    device: torch.device,
    reader: WeightReader,
    lut: NDArray[np.floating],
    totals: ErrorTotals,
    threads: int | None,  # noqa: ARG001 - part of the interface of a backend
    check_cancelled: CancellationCheck,
) -> NDArray[np.uint8]:
    """Return the index of the nearest entry, like `palettery.kernels.scalar.cpu.assign_nearest`.

    Shapes: lut (groups, K), each group ascending -> like the weight, or (num_stored,).
    """
    layout, dense_reader = reader.layout, replace(reader, mask=None)
    indices = np.empty(layout.shape, np.uint8)
    for groups in _batches(device, layout, layout.elements * _VALUE_BYTES):
        check_cancelled()
        values = _to_device(dense_reader.values(groups), device)
        entries = _to_device(lut[groups.start : groups.stop], device)
        group_indices, mask = assign(values, entries), None
        if reader.mask is not None:
            mask = _to_device(layout.take(reader.mask, groups), device)
        errors, counts = _errors(values, group_indices, entries, mask)
        totals.add(groups, errors.T.cpu().numpy(), counts.cpu().numpy())
        layout.put(indices, groups, group_indices.cpu().numpy())
    if reader.mask is None:
        return indices
    return take_stored(indices.reshape(-1), reader.mask.reshape(-1))


def _masked_mass(
    device: torch.device, dense_reader: WeightReader, mask: Mask | None, groups: range
) -> Tensor | None:
    """Return the masses of all values, 0 for those outside the mask; None if all are equal."""
    masses = dense_reader.masses(groups)
    if mask is not None:
        stored = dense_reader.layout.take(mask, groups).astype(np.float64)
        masses = stored if masses is None else stored * masses
    return None if masses is None else _to_device(masses, device)


def _errors(
    values: Tensor, indices: Tensor, lut: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return squared error, signal and largest error (3, G), and the occupancy (G, k)."""
    labels = indices.long()
    exact = values.double()
    error = exact - lut.double().gather(1, labels)
    ones = torch.ones_like(labels)
    if mask is not None:
        error, ones = error * mask, ones * mask
    sums = (error.square().sum(1), exact.square().sum(1), error.abs().amax(1))
    occupancy = torch.zeros(lut.shape, dtype=torch.int64, device=lut.device)
    return torch.stack(sums), occupancy.scatter_add_(1, labels, ones)


def _batches(device: torch.device, layout: GroupLayout, group_bytes: int) -> Iterator[range]:
    """Yield ranges of groups that fit into memory, with at least one group each."""
    free = MEMORY_BYTES
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0] // 2)
    return layout.batches(max(1, free // group_bytes) * layout.elements)


def _to_device(array: Any, device: torch.device) -> Tensor:
    """Return a writable copy of the array on the device."""
    return torch.tensor(array, device=device)
