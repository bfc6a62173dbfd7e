"""Palettization of one tensor with vector palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import sample_dense, sample_distribution
from palettery.kernels.errors import NonFiniteError
from palettery.kernels.lut import build_lut, zeroed_palette_notes
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, decode
from palettery.kernels.settings import PaletteSettings, VectorKMeans
from palettery.kernels.threads import CancellationCheck
from palettery.kernels.vector import cpu
from palettery.kernels.weight_reader import WeightReader

if TYPE_CHECKING:
    import torch

BATCH_ELEMENTS = 1 << 21
"""Most elements of groups that are clustered at once, unless a single group has more."""


def palettize_vector(
    reader: WeightReader,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check_cancelled: CancellationCheck,
) -> Palette:
    """Palettize a weight with palettes whose entries are vectors of `cluster_dim` weights.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = reader.weight, reader.layout
    centroids, indices, occupancy, iterations = _cluster_groups(
        reader,
        settings,
        _backend(accelerator, threads, check_cancelled, settings.vector_kmeans),
        check_cancelled,
    )
    shape = layout.lut_shape(*centroids.shape[1:])
    (lut_entries, lut_scale, zero_point), lut = build_lut(
        centroids.reshape(shape), weight.dtype, settings
    )
    dense = decode(indices, lut, reader, threads, check_cancelled)
    errors = metrics.errors(weight, dense, threads, check_cancelled)
    group_sse = np.array([errors.sse])
    if layout.groups > 1:
        group_sse = metrics.group_sse(weight, dense, layout, threads, check_cancelled)
    return Palette(
        indices=indices,
        lut=lut_entries,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=reader.scale,
        mask=reader.mask,
        metrics=Metrics(
            sse=errors.sse,
            signal=errors.signal,
            max_error=errors.max_error,
            group_sse=group_sse,
            occupancy=occupancy,
            iterations=iterations,
            distribution=sample_distribution(weight, sample_dense(dense)),
            notes=zeroed_palette_notes(centroids.reshape(shape), lut, settings),
        ),
    )


def _cluster_groups(
    reader: WeightReader,
    settings: PaletteSettings,
    cluster: Callable[..., cpu.VectorClusters],
    check_cancelled: CancellationCheck,
) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64], int]:
    """Return centroids (groups, K, dim), indices, occupancy (groups, K), and most passes."""
    layout, dim, k = reader.layout, settings.cluster_dim, 2**settings.n_bits
    sparse, index_layout = reader.mask is not None, layout.index_layout(dim)
    centroids = np.zeros((layout.groups, k, dim))
    indices = np.empty(0 if sparse else index_layout.shape, np.uint8)
    occupancy = np.zeros((layout.groups, k), np.int64)
    iterations, sparse_parts = 0, [indices]
    for groups in layout.batches(1 if sparse else BATCH_ELEMENTS):
        points = reader.vectors(groups, dim, check_cancelled)
        if not points.size:
            continue  # a group of zeros
        _check_finite(points, check_cancelled)
        masses = reader.vector_masses(groups, dim, check_cancelled)
        clusters = cluster(points, k, masses, settings.seed)
        centroids[groups.start : groups.stop] = clusters.centroids
        if sparse:
            sparse_parts.append(clusters.labels[0])
        else:
            index_layout.put(indices, groups, clusters.labels)
        for group, labels in zip(groups, clusters.labels, strict=True):
            occupancy[group] = np.bincount(labels, minlength=k)
        iterations = max(iterations, int(clusters.iterations.max()))
    return centroids, np.concatenate(sparse_parts) if sparse else indices, occupancy, iterations


def _check_finite(points: NDArray[np.floating], check_cancelled: CancellationCheck) -> None:
    for start in range(0, points.shape[1], BATCH_ELEMENTS):
        if not np.isfinite(points[:, start : start + BATCH_ELEMENTS]).all():
            raise NonFiniteError
        check_cancelled()


def _backend(
    accelerator: "torch.device | None",
    threads: int | None,
    check_cancelled: CancellationCheck,
    kmeans: VectorKMeans | None,
) -> Callable[..., cpu.VectorClusters]:
    if accelerator is None:
        return partial(cpu.cluster, threads=threads, check_cancelled=check_cancelled, kmeans=kmeans)
    from palettery.kernels.vector import torch_backend

    return partial(torch_backend.cluster_on, accelerator, check_cancelled=check_cancelled)
