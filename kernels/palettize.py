"""Palettize one tensor."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels import metrics
from kernels.arrays import check_weight, is_torch, to_numpy, to_torch
from kernels.devices import resolve_device
from kernels.errors import NonFiniteError, SensitivityError
from kernels.groups import layout_of
from kernels.lut import quantize_lut
from kernels.metrics import Metrics
from kernels.palette import Palette, dense_lut, look_up
from kernels.scalar import cpu as scalar
from kernels.settings import PaletteSettings
from kernels.source import Source, raise_non_finite, row_scale, widened
from kernels.vector import cpu as vector

if TYPE_CHECKING:
    import torch

VECTOR_BATCH = 1 << 21
"""Elements whose vectors are held at a time, group size permitting."""


def palettize(
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    check: Callable[[], None] | None = None,  # noqa: ARG001
) -> Palette:
    """Replace a weight by indices into small palettes with the least squared error.

    Arrays are numpy arrays or torch tensors of any stride; those of the result are what `weight`
    is. `sensitivity` weights the squared error of each element. `threads` None uses every core;
    the result does not depend on it. `device` is "cpu", "cuda", "cuda:1" or "auto", the GPU where
    there is one; its palettes have the same error as the CPU's.

    Shapes: sensitivity like weight; for those of the result see `Palette`.

    Raises:
        PaletteError: a subclass names the setting, shape or value that is at fault.
    """
    return palettize_on(resolve_device(device), weight, settings, sensitivity, threads)


def palettize_on(
    accelerator: "torch.device | None",
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    threads: int | None = None,
) -> Palette:
    """Like `palettize` on a torch device, or with None on the CPU without torch."""
    array = to_numpy(weight)
    check_weight(array)
    layout = layout_of(array.shape, settings)
    importance = None if sensitivity is None else _checked(to_numpy(sensitivity), array.shape)
    scale = row_scale(array) if settings.per_channel_scale else None
    run = _palettize_scalar if settings.cluster_dim == 1 else _palettize_vector
    try:
        palette = run(Source(array, layout, scale), settings, importance, threads, accelerator)
    except NonFiniteError:
        raise_non_finite(array)
        raise
    return _as_torch(palette, weight.dtype) if is_torch(weight) else palette


def _palettize_scalar(
    source: Source,
    settings: PaletteSettings,
    sensitivity: NDArray[np.floating] | None,
    threads: int | None,
    accelerator: "torch.device | None",
) -> Palette:
    k, decimals = 2**settings.n_bits, settings.rounding_precision
    importance = _importance(source, sensitivity)
    cluster, nearest = _scalar_path(accelerator)
    fit = cluster(source, k, importance, decimals, threads)
    stored, lut_scale, zero_point = _stored_lut(fit.centroids[..., None], source, settings)
    lut = dense_lut(stored, source.weight.dtype, lut_scale, zero_point)
    found = nearest(source, widened(lut).reshape(-1, k), threads)
    sse, signal = float(found.sse.sum()), float(found.signal.sum())
    total = metrics.Errors(sse, signal, float(found.max_error.max()))
    if source.scale is not None:
        dense = look_up(found.indices, lut, source.weight.shape, source.scale, threads)
        total = metrics.errors(source.weight, dense)
    notes = []
    if fit.left_fast_mode:
        notes.append(
            f"{fit.left_fast_mode} of {source.layout.groups} groups were clustered exactly: "
            f"rounding to {decimals} decimals would have left too few values to choose {k} entries "
            "well, or the values are beyond float16"
        )
    return Palette(
        indices=found.indices,
        lut=stored,
        shape=source.weight.shape,
        dtype=source.weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=source.scale,
        metrics=Metrics(
            sse=total.sse,
            signal=total.signal,
            max_error=total.max_error,
            group_sse=found.sse,
            occupancy=found.occupancy,
            iterations=fit.iterations,
            notes=tuple(notes),
        ),
    )


def _scalar_path(
    accelerator: "torch.device | None",
) -> tuple[Callable[..., scalar.Fit], Callable[..., scalar.Assignment]]:
    """What clusters and what assigns."""
    if accelerator is None:
        return scalar.cluster, scalar.nearest
    from kernels.scalar import batched

    return partial(batched.cluster_on, accelerator), partial(batched.nearest_on, accelerator)


def _vector_path(
    accelerator: "torch.device | None", threads: int | None
) -> Callable[..., vector.VectorClusters]:
    if accelerator is None:
        return partial(vector.cluster, threads=threads)
    from kernels.vector import batched

    return partial(batched.cluster_on, accelerator)


def _importance(
    source: Source, sensitivity: NDArray[np.floating] | None
) -> NDArray[np.floating] | None:
    """What a squared error among the clustered values counts for.

    An error of the scaled value is one of the weight times its row's scale, so its square counts
    with the square of the scale: what is least is then the error of the weight itself.
    """
    if source.scale is None:
        return sensitivity
    share = np.square(source.scale.astype(np.float64) / source.scale.max())
    if sensitivity is None:
        return np.broadcast_to(share, source.weight.shape)
    weighted: NDArray[np.floating] = sensitivity * share
    return weighted


def _palettize_vector(
    source: Source,
    settings: PaletteSettings,
    sensitivity: NDArray[np.floating] | None,
    threads: int | None,
    accelerator: "torch.device | None",
) -> Palette:
    cluster = _vector_path(accelerator, threads)
    layout, dim, k = source.layout, settings.cluster_dim, 2**settings.n_bits
    cells = layout.divided(dim)
    centroids = np.empty((layout.groups, k, dim))
    indices = np.empty(cells.shape, np.uint8)
    occupancy = np.empty((layout.groups, k), np.int64)
    iterations = 0
    for groups in layout.batches(VECTOR_BATCH):
        points = source.vectors(groups, dim)
        if not np.isfinite(points).all():
            raise NonFiniteError
        mass = None
        if sensitivity is not None:
            mass = layout.take_vectors(sensitivity, groups, dim).sum(axis=-1)
        found = cluster(points, k, mass, settings.seed)
        centroids[groups.start : groups.stop] = found.centroids
        cells.put(indices, groups, found.labels)
        for group, labels in zip(groups, found.labels, strict=True):
            occupancy[group] = np.bincount(labels, minlength=k)
        iterations = max(iterations, int(found.iterations.max()))
    stored, lut_scale, zero_point = _stored_lut(centroids, source, settings)
    lut = dense_lut(stored, source.weight.dtype, lut_scale, zero_point)
    dense = look_up(indices, lut, source.weight.shape, source.scale, threads)
    total = metrics.errors(source.weight, dense)
    return Palette(
        indices=indices,
        lut=stored,
        shape=source.weight.shape,
        dtype=source.weight.dtype,
        lut_scale=lut_scale,
        lut_zero_point=zero_point,
        per_channel_scale=source.scale,
        metrics=Metrics(
            sse=total.sse,
            signal=total.signal,
            max_error=total.max_error,
            group_sse=metrics.group_sse(source.weight, dense, layout),
            occupancy=occupancy,
            iterations=iterations,
        ),
    )


def _stored_lut(
    centroids: NDArray[np.float64], source: Source, settings: PaletteSettings
) -> tuple[NDArray[Any], NDArray[np.float32] | None, NDArray[Any] | None]:
    """The LUT as it is stored, its scale and its zero point.

    Shapes: (groups, K, cluster_dim) -> as in `Palette`.
    """
    shape = source.layout.lut_shape(*centroids.shape[1:])
    lut = centroids.reshape(shape).astype(source.weight.dtype)
    if settings.lut_dtype is None:
        return lut, None, None
    return quantize_lut(
        lut,
        settings.lut_dtype,
        settings.lut_scheme,
        settings.lut_float_range,
        settings.lut_scale_dtype,
    )


def _checked(sensitivity: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.floating]:
    if sensitivity.shape != shape:
        raise SensitivityError(
            f"a sensitivity of shape {list(sensitivity.shape)} does not fit a weight of shape "
            f"{list(shape)}; expected one number per weight"
        )
    wide = widened(sensitivity)
    if not (wide >= 0).all() or not np.isfinite(wide).all():
        raise SensitivityError("sensitivities must be finite and not negative")
    return wide


def _as_torch(palette: Palette, dtype: Any) -> Palette:
    def convert(array: NDArray[Any] | None) -> Any:
        return None if array is None else to_torch(array)

    return Palette(
        indices=convert(palette.indices),
        lut=convert(palette.lut),
        shape=palette.shape,
        dtype=dtype,
        lut_scale=convert(palette.lut_scale),
        lut_zero_point=convert(palette.lut_zero_point),
        per_channel_scale=convert(palette.per_channel_scale),
        metrics=palette.metrics,
    )
