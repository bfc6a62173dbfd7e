"""Bits of a palettized tensor, counted as in coreai-opt."""

import math

from palettery.app.artifacts.dtypes import NUMPY
from palettery.schemas.plan import PlannedTensor

SCALE_BITS = 32
"""Bits of a quantized LUT's scale."""


def palettized_bits(planned: PlannedTensor) -> int:
    """Return the bits of a tensor's indices, LUTs and scales.

    Padding does not count, row scales count in the weight's dtype, and zero points count only
    where they differ between LUTs: the artifact may have a few bytes more.
    Source: coreai-opt 0.3.0, `bits_per_weight`.
    """
    spec, width = planned.spec, 8 * NUMPY[planned.dtype].itemsize
    assert spec is not None  # noqa: S101 - a palettized tensor has one
    indices = math.prod(planned.shape) // spec.cluster_dim * spec.n_bits
    scales = planned.shape[0] * width if spec.enable_per_channel_scale else 0
    entry, each = width, 0
    if spec.lut_qspec is not None:
        entry, each = 8, SCALE_BITS
        if spec.lut_qspec.qscheme == "asymmetric":
            each += 8
    lut = 2**spec.n_bits * spec.cluster_dim * entry
    return indices + scales + planned.groups * (lut + each)
