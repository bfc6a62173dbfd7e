"""Palettize one tensor."""

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import check_weight, is_torch, to_numpy, to_torch
from palettery.kernels.devices import resolve_device
from palettery.kernels.errors import NonFiniteError, SensitivityError
from palettery.kernels.groups import layout_of
from palettery.kernels.palette import Palette
from palettery.kernels.scalar.palettize import is_counted, palettize_scalar
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.source import Source, raise_non_finite, widened
from palettery.kernels.threads import Check, unchecked
from palettery.kernels.vector.palettize import palettize_vector

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 22
"""Sensitivities looked at between two calls of `check`."""


def palettize(
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    check: Check | None = None,
) -> Palette:
    """Replace a weight by indices into small palettes with the least squared error.

    Arrays are numpy arrays or torch tensors of any stride; those of the result are what `weight`
    is. `sensitivity` weights the squared error of each element. `threads` None uses every core;
    the result does not depend on it. `device` is "cpu", "cuda", "cuda:1" or "auto", the GPU where
    there is one; its palettes have the same error as the CPU's. `check` is called again and again,
    by the calling thread and no other; what it raises ends the work. Between two calls there is
    less than half a second of work for one core, but for the sort of a large float64 group.

    Shapes: sensitivity like weight; for those of the result see `Palette`.

    Raises:
        PaletteError: a subclass names the setting, shape or value that is at fault.
    """
    return palettize_on(resolve_device(device), weight, settings, sensitivity, threads, check)


def palettize_on(
    accelerator: "torch.device | None",
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    threads: int | None = None,
    check: Check | None = None,
) -> Palette:
    """Like `palettize` on a torch device, or with None on the CPU without torch."""
    array = to_numpy(weight)
    check_weight(array)
    layout, check = layout_of(array.shape, settings), check or unchecked
    checked = None
    if sensitivity is not None:
        checked = checked_sensitivity(to_numpy(sensitivity), array, check)
    run = palettize_scalar if settings.cluster_dim == 1 else palettize_vector
    try:
        scale = row_scale(array, threads, check) if settings.per_channel_scale else None
        source = Source(
            array,
            layout,
            scale,
            checked,
            1.0 if scale is None else float(scale.max()),
            is_counted(array.dtype, layout, settings),
        )
        palette = run(source, settings, threads, accelerator, check)
        assert palette.metrics is not None  # noqa: S101 - for mypy
        if not isfinite(palette.metrics.sse + palette.metrics.signal):
            raise NonFiniteError
    except NonFiniteError:
        raise_non_finite([array], array.shape)
    return _as_torch(palette, weight.dtype) if is_torch(weight) else palette


def checked_sensitivity(
    sensitivity: NDArray[Any], weight: NDArray[Any], check: Check = unchecked
) -> NDArray[np.floating]:
    """The sensitivity as float32 or float64.

    Raises:
        SensitivityError: it does not fit the weight, is negative or not finite.
    """
    if sensitivity.shape != weight.shape:
        raise SensitivityError(
            f"a sensitivity of shape {list(sensitivity.shape)} does not fit a weight of shape "
            f"{list(weight.shape)}; expected one number per weight"
        )
    wide = widened(sensitivity)
    step = max(1, _BLOCK * len(wide) // wide.size)
    for first in range(0, len(wide), step):
        block = wide[first : first + step]
        if not (block >= 0).all() or not np.isfinite(block).all():
            raise SensitivityError("sensitivities must be finite and not negative")
        check()
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
