"""Bits of a palettized tensor for reports, counted as in coreai-opt; plans predict bytes."""

import math

from palettery.app.artifacts.dtypes import NUMPY
from palettery.schemas.plan import PlannedTensor

SCALE_BITS = 32
"""Bits of a quantized LUT's scale."""


def palettized_bits(planned: PlannedTensor, num_stored: int | None = None) -> int:
    """Return the bits of a tensor's indices, LUTs and scales.

    `num_stored` is the number of weights with an index if it is sparse. Padding does not count, row
    scales count in the weight's dtype, and zero points count only where they differ between LUTs:
    the artifact may have a few bytes more.
    Source: coreai-opt 0.4.0, `bits_per_weight`.
    """
    spec, value_bits = planned.spec, 8 * NUMPY[planned.dtype].itemsize
    assert spec is not None  # noqa: S101 - a palettized tensor has one
    indexed = math.prod(planned.shape) if num_stored is None else num_stored
    indices = indexed // spec.cluster_dim * spec.n_bits
    scales = planned.shape[0] * value_bits if spec.enable_per_channel_scale else 0
    entry_bits, bits_per_lut = value_bits, 0
    if spec.lut_qspec is not None:
        entry_bits, bits_per_lut = 8, SCALE_BITS
        if spec.lut_qspec.qscheme == "asymmetric":
            bits_per_lut += 8
    lut = 2**spec.n_bits * spec.cluster_dim * entry_bits
    return indices + scales + planned.groups * (lut + bits_per_lut)
