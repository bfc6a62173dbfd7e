"""Palettization spec of one tensor."""

from typing import Literal

from pydantic import Field

from palettery.schemas.base import Schema, is_none
from palettery.schemas.config.granularity import Count, Granularity, PerTensorGranularity
from palettery.schemas.config.lut import QuantizationSpec


class DefaultTrainingSpec(Schema):
    """The only training strategy that coreai-opt has; without effect here."""

    type: Literal["default"] = "default"
    """Kind of training strategy."""


class PalettizationSpec(Schema):
    """Palettization spec of one tensor."""

    n_bits: Literal[1, 2, 3, 4, 6, 8] = 4
    """Bits per index; a palette has 2**n_bits entries."""
    granularity: Granularity = PerTensorGranularity()
    """Number of channels that share one palette."""
    cluster_dim: Count = 1
    """Consecutive weights along axis 0 that share one index; above 1, entries are vectors."""
    enable_per_channel_scale: bool = False
    """Whether each channel of axis 0 is divided by its largest magnitude before clustering."""
    lut_qspec: QuantizationSpec | None = None
    """Quantization of the palette's entries; null for the weight's dtype."""
    training_strategy_spec: DefaultTrainingSpec = DefaultTrainingSpec()
    """Training strategy of coreai-opt, without effect here."""
    sparsity_detection_threshold: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, exclude_if=is_none
    )
    """Share of exact zeros, 0 to 1, from which a weight with at least one is sparse: its zeros stay
    exactly zero, in a mask beside the palette of the other values. Null: never."""


def default_weight_palettization_spec() -> PalettizationSpec:
    """Return the default spec: 4 bits and one palette per tensor."""
    return PalettizationSpec()
