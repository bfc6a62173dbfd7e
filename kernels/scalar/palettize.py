"""Palettization of one tensor with scalar palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.arrays import upcast
from palettery.kernels.distribution import Distribution, sample_distribution
from palettery.kernels.groups import GroupLayout
from palettery.kernels.lut import build_lut, zeroed_palette_notes
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, look_up
from palettery.kernels.scalar import cpu
from palettery.kernels.scalar.counting import FEWEST_COUNTED
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check
from palettery.kernels.weight_reader import WeightReader

if TYPE_CHECKING:
    import torch


def palettize_scalar(
    reader: WeightReader,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check: Check,
) -> Palette:
    """Palettize a weight with palettes of scalar entries.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = reader.weight, reader.layout
    k, decimals = 2**settings.n_bits, settings.rounding_precision
    cluster, nearest = _backend(accelerator)
    clusters = cluster(reader, k, decimals, threads, check)
    shape = layout.lut_shape(k, 1)
    (stored, lut_scale, zero_point), lut = build_lut(
        clusters.centroids.reshape(shape), weight.dtype, settings
    )
    totals = cpu.ErrorTotals(layout.groups, k)
    indices = nearest(reader, upcast(lut).reshape(-1, k), totals, threads, check)
    total = totals.errors()
    if reader.scale is not None:
        dense = look_up(indices, lut, weight.shape, reader.scale, threads, check)
        total = metrics.errors(weight, dense, threads, check)
    distribution = sample_distribution(weight, indices, lut, reader.scale, layout)
    return Palette(
        indices=indices,
        lut=stored,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=reader.scale,
        metrics=build_metrics(clusters, lut, totals, total, distribution, settings),
    )


def uses_code_counts(dtype: np.dtype[Any], layout: GroupLayout, settings: PaletteSettings) -> bool:
    """Return whether groups are clustered and assigned by the codes of their weights."""
    has_codes = dtype.itemsize == 2 and not settings.per_channel_scale
    return has_codes and layout.elements >= FEWEST_COUNTED


def build_metrics(
    clusters: cpu.ScalarClusters,
    lut: NDArray[Any],
    totals: cpu.ErrorTotals,
    total: metrics.Errors,
    distribution: Distribution,
    settings: PaletteSettings,
) -> Metrics:
    """Return the metrics of a palettized tensor; `lut` has the dequantized entries."""
    centroids = clusters.centroids.reshape(lut.shape)
    notes = list(zeroed_palette_notes(centroids, lut, settings))
    if clusters.left_fast_mode:
        notes.append(
            f"{clusters.left_fast_mode} of {len(clusters.centroids)} groups were clustered "
            f"exactly: rounding to {settings.rounding_precision} decimals would have left too few "
            f"values to choose {2**settings.n_bits} entries well, or the values are beyond float16"
        )
    return Metrics(
        sse=total.sse,
        signal=total.signal,
        max_error=total.max_error,
        group_sse=totals.sums[:, 0].copy(),
        occupancy=totals.occupancy,
        iterations=clusters.iterations,
        distribution=distribution,
        notes=tuple(notes),
    )


def _backend(
    accelerator: "torch.device | None",
) -> tuple[Callable[..., cpu.ScalarClusters], Callable[..., NDArray[np.uint8]]]:
    """Return the functions that cluster and assign, on the CPU or on a torch device."""
    if accelerator is None:
        return cpu.cluster, cpu.assign_nearest
    from palettery.kernels.scalar import torch_backend

    return partial(torch_backend.cluster_on, accelerator), partial(
        torch_backend.assign_nearest_on, accelerator
    )
