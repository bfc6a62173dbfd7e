"""Effect of palettization on the outputs of a model."""

from pydantic import NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema


class ComparedOutput(Schema):
    """Comparison of one output of a model before and after palettization, on the same inputs."""

    name: str
    """Position in the model's return value, such as `['out'][0]`; empty for a single output."""
    shape: tuple[NonNegativeInt, ...]
    """Shape of the output."""
    snr_db: float | None
    """Signal-to-noise ratio in decibels; null if the outputs are equal."""
    cosine: float
    """Cosine similarity of the two outputs."""
    max_error: NonNegativeFloat
    """Largest absolute difference."""
