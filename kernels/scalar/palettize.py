"""Palettize one tensor with scalar palettes."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import Distribution, distribution
from palettery.kernels.groups import Layout
from palettery.kernels.lut import usable_lut, vanished
from palettery.kernels.metrics import Metrics
from palettery.kernels.palette import Palette, look_up
from palettery.kernels.scalar import cpu
from palettery.kernels.scalar.counting import FEWEST_COUNTED
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.source import Source, widened
from palettery.kernels.threads import Check

if TYPE_CHECKING:
    import torch


def palettize_scalar(
    source: Source,
    settings: PaletteSettings,
    threads: int | None,
    accelerator: "torch.device | None",
    check: Check,
) -> Palette:
    """Palettes of single weights.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    weight, layout = source.weight, source.layout
    k, decimals = 2**settings.n_bits, settings.rounding_precision
    cluster, nearest = _path(accelerator)
    fit = cluster(source, k, decimals, threads, check)
    shape = layout.lut_shape(k, 1)
    (stored, lut_scale, zero_point), lut = usable_lut(
        fit.centroids.reshape(shape), weight.dtype, settings
    )
    totals = cpu.Totals(layout.groups, k)
    indices = nearest(source, widened(lut).reshape(-1, k), totals, threads, check)
    total = totals.errors()
    if source.scale is not None:
        dense = look_up(indices, lut, weight.shape, source.scale, threads, check)
        total = metrics.errors(weight, dense, threads, check)
    spread = distribution(weight, indices, lut, source.scale, layout)
    return Palette(
        indices=indices,
        lut=stored,
        shape=weight.shape,
        dtype=weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=source.scale,
        metrics=measured(fit, lut, totals, total, spread, settings),
    )


def is_counted(dtype: np.dtype[Any], layout: Layout, settings: PaletteSettings) -> bool:
    """Whether groups are clustered and assigned by the bits of their weights."""
    halves = dtype.itemsize == 2 and not settings.per_channel_scale
    return halves and layout.elements >= FEWEST_COUNTED


def measured(
    fit: cpu.Fit,
    lut: NDArray[Any],
    totals: cpu.Totals,
    total: metrics.Errors,
    spread: Distribution,
    settings: PaletteSettings,
) -> Metrics:
    """What palettizing did, all told; `lut` holds the entries as they are used."""
    centroids = fit.centroids.reshape(lut.shape)
    notes = list(vanished(centroids, lut, settings))
    if fit.left_fast_mode:
        notes.append(
            f"{fit.left_fast_mode} of {len(fit.centroids)} groups were clustered exactly: "
            f"rounding to {settings.rounding_precision} decimals would have left too few values "
            f"to choose {2**settings.n_bits} entries well, or the values are beyond float16"
        )
    return Metrics(
        sse=total.sse,
        signal=total.signal,
        max_error=total.max_error,
        group_sse=totals.sums[:, 0].copy(),
        occupancy=totals.occupancy,
        iterations=fit.iterations,
        distribution=spread,
        notes=tuple(notes),
    )


def _path(
    accelerator: "torch.device | None",
) -> tuple[Callable[..., cpu.Fit], Callable[..., NDArray[np.uint8]]]:
    """What clusters and what assigns."""
    if accelerator is None:
        return cpu.cluster, cpu.nearest
    from palettery.kernels.scalar import batched

    return partial(batched.cluster_on, accelerator), partial(batched.nearest_on, accelerator)
