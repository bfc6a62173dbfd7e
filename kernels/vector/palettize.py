"""Palettize one tensor with vector palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import distribution
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.lut import usable_lut, vanished
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, look_up
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.source import Source
from palettery.kernels.threads import Check
from palettery.kernels.vector import cpu

if TYPE_CHECKING:
    import torch

BATCH = 1 << 21
"""Elements whose vectors are held at a time, group size permitting."""


def palettize_vector(
    source: Source,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check: Check,
) -> Palette:
    """Palettes of `cluster_dim` weights an entry.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = source.weight, source.layout
    centroids, indices, occupancy, iterations = _clustered(
        source, settings, _path(accelerator, threads, check), check
    )
    shape = layout.lut_shape(*centroids.shape[1:])
    (stored, lut_scale, zero_point), lut = usable_lut(
        centroids.reshape(shape), weight.dtype, settings
    )
    dense = look_up(indices, lut, weight.shape, source.scale, threads, check)
    total = metrics.errors(weight, dense, threads, check)
    return Palette(
        indices=indices,
        lut=stored,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=source.scale,
        metrics=Metrics(
            sse=total.sse,
            signal=total.signal,
            max_error=total.max_error,
            group_sse=metrics.group_sse(weight, dense, layout, threads, check),
            occupancy=occupancy,
            iterations=iterations,
            distribution=distribution(weight, indices, lut, source.scale, layout),
            notes=vanished(centroids.reshape(shape), lut, settings),
        ),
    )


def _clustered(
    source: Source,
    settings: PaletteSettings,
    cluster: Callable[..., cpu.VectorClusters],
    check: Check,
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64], int]:
    """Centroids (groups, K, dim), indices, occupancy (groups, K), and passes over the points."""
    layout, dim, k = source.layout, settings.cluster_dim, 2**settings.n_bits
    cells = layout.divided(dim)
    centroids = np.empty((layout.groups, k, dim))
    indices = np.empty(cells.shape, np.uint8)
    occupancy = np.empty((layout.groups, k), np.int64)
    iterations = 0
    for groups in layout.batches(BATCH):
        points = source.vectors(groups, dim, check)
        _check_finite(points, check)
        mass = None
        if source.sensitivity is not None:
            mass = layout.take_vectors(source.sensitivity, groups, dim, check).sum(axis=-1)
        found = cluster(points, k, mass, settings.seed)
        centroids[groups.start : groups.stop] = found.centroids
        cells.put(indices, groups, found.labels)
        for group, labels in zip(groups, found.labels, strict=True):
            occupancy[group] = np.bincount(labels, minlength=k)
        iterations = max(iterations, int(found.iterations.max()))
    return centroids, indices, occupancy, iterations


def _check_finite(points: NDArray[np.floating], check: Check) -> None:
    for start in range(0, points.shape[1], BATCH):
        if not np.isfinite(points[:, start : start + BATCH]).all():
            raise NonFiniteError
        check()


def _path(
    accelerator: "torch.device | None", threads: int | None, check: Check
) -> Callable[..., cpu.VectorClusters]:
    if accelerator is None:
        return partial(cpu.cluster, threads=threads, check=check)
    from palettery.kernels.vector import batched

    return partial(batched.cluster_on, accelerator, check=check)
