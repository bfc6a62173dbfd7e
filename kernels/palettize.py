"""Palettization of one tensor."""

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import check_weight, is_torch, to_numpy, to_torch, upcast
from palettery.kernels.devices import resolve_device
from palettery.kernels.errors import NonFiniteError, SensitivityError
from palettery.kernels.feedback.layer_inputs import layer_inputs
from palettery.kernels.feedback.palettize import palettize_with_feedback
from palettery.kernels.groups import check_cluster_dim, group_layout
from palettery.kernels.palette import Palette
from palettery.kernels.scalar.palettize import palettize_scalar, uses_code_counts
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.sparsity import find_mask, sparsity_notes
from palettery.kernels.threads import CancellationCheck, never_cancel
from palettery.kernels.vector.palettize import palettize_vector
from palettery.kernels.weight_reader import WeightReader, raise_non_finite

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 22
"""Sensitivities validated between two calls of `check_cancelled`."""


def palettize(
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    check_cancelled: CancellationCheck | None = None,
    *,
    sparse: bool | None = None,
    second_moment: Any = None,
) -> Palette:
    """Replace a weight by indices into small palettes that minimise the squared error.

    Arrays are numpy arrays or torch tensors with any strides; the result has the kind of `weight`.
    `sensitivity` weights the squared error of each element. `threads` None uses every core; the
    result does not depend on it. `device` is "cpu", "cuda", "cuda:1" or "auto", which is a GPU
    where one is available; palettes from a GPU have the same error as those from the CPU.
    `check_cancelled` is called regularly, only by the calling thread; an exception that it raises
    cancels the work. One core takes less than half a second between two calls, except to sort a
    large float64 group and to factor second moments. `sparse` overrides the decision by the
    settings' `sparsity_threshold`, for rows of a larger weight.

    `second_moment` H, the mean of x x^T over the inputs x of a linear layer or (unfolded) of a
    convolution, turns on error feedback, which runs on the CPU: a local search for the least error
    of the layer's outputs, tr((W - Q) H (W - Q)^T). This error never exceeds that of the palette
    without feedback, which is weighted by `sensitivity`, or else by the diagonal of H.

    Shapes: sensitivity like weight; second_moment [inputs, inputs], or [groups, inputs, inputs] for
        a grouped convolution; for those of the result see `Palette`.

    Raises:
        PaletteError: a subclass, for an invalid setting, shape or value.
    """
    accelerator = resolve_device(device)
    return palettize_on(
        accelerator, weight, settings, sensitivity, threads, check_cancelled,
        sparse=sparse, second_moment=second_moment,
    )  # fmt: skip


def palettize_on(
    accelerator: "torch.device | None",
    weight: Any,
    settings: PaletteSettings,
    sensitivity: Any = None,
    threads: int | None = None,
    check_cancelled: CancellationCheck | None = None,
    *,
    sparse: bool | None = None,
    second_moment: Any = None,
) -> Palette:
    """Palettize on a torch device, or with None on the CPU without torch; see `palettize`."""
    array, check_cancelled = to_numpy(weight), check_cancelled or never_cancel
    palettize_weights = palettize_scalar if settings.cluster_dim == 1 else palettize_vector
    inputs = None if second_moment is None else layer_inputs(to_numpy(second_moment), array.shape)
    input_sensitivity = None if inputs is None else inputs.sensitivity(array.shape)
    try:
        reader, dropped = weight_reader(
            array, settings, input_sensitivity if sensitivity is None else sensitivity, threads,
            check_cancelled, sparse=sparse,
        )  # fmt: skip
        palette = palettize_weights(reader, settings, threads, accelerator, check_cancelled)
        if inputs is not None:
            initial = palette
            if sensitivity is not None:
                input_reader = replace(reader, sensitivity=input_sensitivity)
                initial = palettize_weights(
                    input_reader, settings, threads, accelerator, check_cancelled
                )
            palette = palettize_with_feedback(
                palette, initial, reader, settings, inputs, threads, check_cancelled
            )
        assert palette.metrics is not None  # noqa: S101 - for mypy
        if not isfinite(palette.metrics.sse + palette.metrics.signal):
            raise NonFiniteError
    except NonFiniteError:
        raise_non_finite([array], array.shape)
    if reader.mask is not None:
        notes = sparsity_notes(int(np.count_nonzero(reader.mask)), dropped)
        palette = replace(palette, metrics=palette.metrics.with_notes(notes))
    return _as_torch(palette, weight.dtype) if is_torch(weight) else palette


def weight_reader(
    weight: NDArray[Any],
    settings: PaletteSettings,
    sensitivity: Any,
    threads: int | None,
    check_cancelled: CancellationCheck,
    *,
    sparse: bool | None = None,
) -> tuple[WeightReader, int]:
    """Return a reader of a weight, and how many nonzero weights are dropped to fill sparse vectors.

    `sparse` is as in `palettize`.

    Raises:
        PaletteError: see `palettize`; a `NonFiniteError` has no message.
    """
    check_weight(weight)
    layout, importance = group_layout(weight.shape, settings), None
    mask, dropped = find_mask(weight, layout, settings, threads, check_cancelled, sparse)
    if mask is None:
        check_cluster_dim(layout, settings.cluster_dim)
    if sensitivity is not None:
        importance = validate_sensitivity(to_numpy(sensitivity), weight, check_cancelled)
    scale = row_scale(weight, threads, check_cancelled) if settings.per_channel_scale else None
    reader = WeightReader(
        weight,
        layout,
        scale,
        importance,
        1.0 if scale is None else float(scale.max()),
        mask,
        uses_code_counts(weight.dtype, layout, settings),
    )
    return reader, dropped


def validate_sensitivity(
    sensitivity: NDArray[Any],
    weight: NDArray[Any],
    check_cancelled: CancellationCheck = never_cancel,
) -> NDArray[np.floating]:
    """Return a valid sensitivity as float32 or float64.

    Raises:
        SensitivityError: its shape is not the weight's, or a value is negative or not finite.
    """
    if sensitivity.shape != weight.shape:
        raise SensitivityError(
            f"a sensitivity of shape {list(sensitivity.shape)} does not fit a weight of shape "
            f"{list(weight.shape)}; expected one number per weight"
        )
    values = upcast(sensitivity)
    block_rows = max(1, _BLOCK * len(values) // values.size)
    for first in range(0, len(values), block_rows):
        block = values[first : first + block_rows]
        if not (block >= 0).all() or not np.isfinite(block).all():
            raise SensitivityError("sensitivities must be finite and not negative")
        check_cancelled()
    return values


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
        mask=convert(palette.mask),
        metrics=palette.metrics,
    )
