"""Palettization of one tensor."""

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import check_weight, is_torch, to_numpy, to_torch, upcast
from palettery.kernels.devices import resolve_device
from palettery.kernels.errors import NonFiniteError, SensitivityError
from palettery.kernels.groups import group_layout
from palettery.kernels.palette import Palette
from palettery.kernels.scalar.palettize import palettize_scalar, uses_code_counts
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check, no_check
from palettery.kernels.vector.palettize import palettize_vector
from palettery.kernels.weight_reader import WeightReader, raise_non_finite

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 22
"""Sensitivities validated between two calls of `check`."""


def palettize(
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    check: Check | None = None,
) -> Palette:
    """Replace a weight by indices into small palettes that minimise the squared error.

    Arrays are numpy arrays or torch tensors with any strides; the result has the kind of `weight`.
    `sensitivity` weights the squared error of each element. `threads` None uses every core; the
    result does not depend on it. `device` is "cpu", "cuda", "cuda:1" or "auto", which is a GPU
    where one is available; palettes from a GPU have the same error as those from the CPU. `check`
    is called regularly, only by the calling thread; an exception that it raises cancels the work.
    One core takes less than half a second between two calls, except to sort a large float64 group.

    Shapes: sensitivity like weight; for those of the result see `Palette`.

    Raises:
        PaletteError: a subclass, for an invalid setting, shape or value.
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
    """Palettize on a torch device, or with None on the CPU without torch; see `palettize`."""
    array = to_numpy(weight)
    check_weight(array)
    layout, check = group_layout(array.shape, settings), check or no_check
    importance = None
    if sensitivity is not None:
        importance = validate_sensitivity(to_numpy(sensitivity), array, check)
    run = palettize_scalar if settings.cluster_dim == 1 else palettize_vector
    try:
        scale = row_scale(array, threads, check) if settings.per_channel_scale else None
        reader = WeightReader(
            array,
            layout,
            scale,
            importance,
            1.0 if scale is None else float(scale.max()),
            uses_code_counts(array.dtype, layout, settings),
        )
        palette = run(reader, settings, threads, accelerator, check)
        assert palette.metrics is not None  # noqa: S101 - for mypy
        if not isfinite(palette.metrics.sse + palette.metrics.signal):
            raise NonFiniteError
    except NonFiniteError:
        raise_non_finite([array], array.shape)
    return _as_torch(palette, weight.dtype) if is_torch(weight) else palette


def validate_sensitivity(
    sensitivity: NDArray[Any], weight: NDArray[Any], check: Check = no_check
) -> NDArray[np.floating]:
    """Return the sensitivity as float32 or float64.

    Raises:
        SensitivityError: its shape is not the weight's, or a value is negative or not finite.
    """
    if sensitivity.shape != weight.shape:
        raise SensitivityError(
            f"a sensitivity of shape {list(sensitivity.shape)} does not fit a weight of shape "
            f"{list(weight.shape)}; expected one number per weight"
        )
    wide = upcast(sensitivity)
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
