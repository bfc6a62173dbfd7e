"""Palettization of one tensor with scalar palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.arrays import upcast
from palettery.kernels.distribution import Distribution, sample_distribution, sample_scalars
from palettery.kernels.groups import GroupLayout
from palettery.kernels.lut import build_lut, zeroed_palette_notes
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, decode
from palettery.kernels.scalar import cpu
from palettery.kernels.scalar.counting import MIN_COUNTED_ELEMENTS
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import CancellationCheck
from palettery.kernels.weight_reader import WeightReader

if TYPE_CHECKING:
    import torch


def palettize_scalar(
    reader: WeightReader,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check_cancelled: CancellationCheck,
) -> Palette:
    """Palettize a weight with palettes of scalar entries.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = reader.weight, reader.layout
    k, decimals = 2**settings.n_bits, settings.rounding_precision
    cluster, assign_nearest = _backend(accelerator)
    clusters = cluster(reader, k, decimals, threads, check_cancelled)
    centroids = clusters.centroids.reshape(layout.lut_shape(k, 1))
    (lut_entries, lut_scale, zero_point), lut = build_lut(centroids, weight.dtype, settings)
    indices, totals, errors = assign_and_measure(
        reader, lut, assign_nearest, threads, check_cancelled
    )
    distribution = sample_distribution(weight, sample_scalars(reader, indices, lut))
    return Palette(
        indices=indices,
        lut=lut_entries,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=reader.scale,
        mask=reader.mask,
        metrics=build_metrics(clusters, lut, totals, errors, distribution, settings),
    )


def assign_and_measure(
    reader: WeightReader,
    lut: NDArray[Any],
    assign_nearest: Callable[..., NDArray[np.uint8]],
    threads: int | None,
    check_cancelled: CancellationCheck,
) -> tuple[NDArray[np.uint8], cpu.ErrorTotals, metrics.Errors]:
    """Return the index of every weight, the totals by group, and the errors of the whole tensor.

    Shapes: lut and indices as in `Palette`.
    """
    k = lut.shape[-2]
    totals = cpu.ErrorTotals(reader.layout.groups, k)
    indices = assign_nearest(reader, upcast(lut).reshape(-1, k), totals, threads, check_cancelled)
    if reader.scale is None:
        return indices, totals, totals.errors()
    dense = decode(indices, lut, reader, threads, check_cancelled)
    return indices, totals, metrics.errors(reader.weight, dense, threads, check_cancelled)


def uses_code_counts(dtype: np.dtype[Any], layout: GroupLayout, settings: PaletteSettings) -> bool:
    """Return whether groups are clustered and assigned by the codes (bit patterns) of weights."""
    is_two_byte = dtype.itemsize == 2 and not settings.per_channel_scale
    return is_two_byte and layout.elements >= MIN_COUNTED_ELEMENTS


def build_metrics(
    clusters: cpu.ScalarClusters,
    lut: NDArray[Any],
    totals: cpu.ErrorTotals,
    errors: metrics.Errors,
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
        sse=errors.sse,
        signal=errors.signal,
        max_error=errors.max_error,
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
