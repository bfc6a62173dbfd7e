"""Palettization spec of one tensor."""

from typing import Literal

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import Count, Granularity, PerTensor
from palettery.schemas.config.lut import QuantizationSpec


class DefaultTraining(Schema):
    """The only training strategy coreai-opt 0.3 has; without effect here."""

    type: Literal["default"] = "default"
    """Kind of training strategy."""


class PalettizationSpec(Schema):
    """Palettization spec of one tensor."""

    n_bits: Literal[1, 2, 3, 4, 6, 8] = 4
    """Bits per index; a palette has 2**n_bits entries."""
    granularity: Granularity = PerTensor()
    """Number of channels that share one palette."""
    cluster_dim: Count = 1
    """Consecutive weights along axis 0 that share one index; above 1, entries are vectors."""
    enable_per_channel_scale: bool = False
    """Whether each channel of axis 0 is divided by its largest magnitude before clustering."""
    lut_qspec: QuantizationSpec | None = None
    """Quantization of the palette's entries; null for the weight's dtype."""
    training_strategy_spec: DefaultTraining = DefaultTraining()
    """Training strategy of coreai-opt 0.3, without effect here."""
