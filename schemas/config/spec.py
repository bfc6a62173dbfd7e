"""How one tensor is palettized."""

from typing import Literal

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import Count, Granularity, PerTensor
from palettery.schemas.config.lut import QuantizationSpec


class DefaultTraining(Schema):
    """The only training strategy coreai-opt 0.3 has; without effect here."""

    type: Literal["default"] = "default"
    """Says which strategy this is."""


class PalettizationSpec(Schema):
    """How one tensor is palettized."""

    n_bits: Literal[1, 2, 3, 4, 6, 8] = 4
    """Bits per index; a palette has 2**n_bits entries."""
    granularity: Granularity = PerTensor()
    """How many channels share one palette."""
    cluster_dim: Count = 1
    """Consecutive weights along axis 0 that share one index; above 1, entries are vectors."""
    enable_per_channel_scale: bool = False
    """Divide each channel of axis 0 by its largest magnitude first, and multiply it back later."""
    lut_qspec: QuantizationSpec | None = None
    """Quantization of the palette's entries; null keeps the weight's dtype."""
    training_strategy_spec: DefaultTraining = DefaultTraining()
    """Carried along for coreai-opt 0.3."""
