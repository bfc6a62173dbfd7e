"""Palettization of one tensor with vector palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import sample_distribution
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.lut import build_lut, zeroed_palette_notes
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, look_up
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check
from palettery.kernels.vector import cpu
from palettery.kernels.weight_reader import WeightReader

if TYPE_CHECKING:
    import torch

BATCH = 1 << 21
"""Elements of groups that are clustered at once, if groups are small enough."""


def palettize_vector(
    reader: WeightReader,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check: Check,
) -> Palette:
    """Palettize a weight with palettes whose entries are vectors of `cluster_dim` weights.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = reader.weight, reader.layout
    centroids, indices, occupancy, iterations = _cluster_groups(
        reader, settings, _backend(accelerator, threads, check), check
    )
    shape = layout.lut_shape(*centroids.shape[1:])
    (stored, lut_scale, zero_point), lut = build_lut(
        centroids.reshape(shape), weight.dtype, settings
    )
    dense = look_up(indices, lut, weight.shape, reader.scale, threads, check)
    total = metrics.errors(weight, dense, threads, check)
    return Palette(
        indices=indices,
        lut=stored,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=reader.scale,
        metrics=Metrics(
            sse=total.sse,
            signal=total.signal,
            max_error=total.max_error,
            group_sse=metrics.group_sse(weight, dense, layout, threads, check),
            occupancy=occupancy,
            iterations=iterations,
            distribution=sample_distribution(weight, indices, lut, reader.scale, layout),
            notes=zeroed_palette_notes(centroids.reshape(shape), lut, settings),
        ),
    )


def _cluster_groups(
    reader: WeightReader,
    settings: PaletteSettings,
    cluster: Callable[..., cpu.VectorClusters],
    check: Check,
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64], int]:
    """Return centroids (groups, K, dim), indices, occupancy (groups, K), and most passes."""
    layout, dim, k = reader.layout, settings.cluster_dim, 2**settings.n_bits
    cells = layout.index_layout(dim)
    centroids = np.empty((layout.groups, k, dim))
    indices = np.empty(cells.shape, np.uint8)
    occupancy = np.empty((layout.groups, k), np.int64)
    iterations = 0
    for groups in layout.batches(BATCH):
        points = reader.vectors(groups, dim, check)
        _check_finite(points, check)
        mass = None
        if reader.sensitivity is not None:
            mass = layout.take_vectors(reader.sensitivity, groups, dim, check).sum(axis=-1)
        clusters = cluster(points, k, mass, settings.seed)
        centroids[groups.start : groups.stop] = clusters.centroids
        cells.put(indices, groups, clusters.labels)
        for group, labels in zip(groups, clusters.labels, strict=True):
            occupancy[group] = np.bincount(labels, minlength=k)
        iterations = max(iterations, int(clusters.iterations.max()))
    return centroids, indices, occupancy, iterations


def _check_finite(points: NDArray[np.floating], check: Check) -> None:
    for start in range(0, points.shape[1], BATCH):
        if not np.isfinite(points[:, start : start + BATCH]).all():
            raise NonFiniteError
        check()


def _backend(
    accelerator: "torch.device | None", threads: int | None, check: Check
) -> Callable[..., cpu.VectorClusters]:
    if accelerator is None:
        return partial(cpu.cluster, threads=threads, check=check)
    from palettery.kernels.vector import torch_backend

    return partial(torch_backend.cluster_on, accelerator, check=check)
