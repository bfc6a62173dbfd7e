"""What palettizing a model does to what it computes."""

from pydantic import NonNegativeFloat, NonNegativeInt

from palettery.schemas.base import Schema


class ComparedOutput(Schema):
    """One output of a model, before and after, on the same inputs."""

    name: str
    """Where it lies in what the model returns, such as `['out'][0]`; empty for the only one."""
    shape: tuple[NonNegativeInt, ...]
    snr_db: float | None
    """Signal to noise, in decibels; None when nothing differs."""
    cosine: float
    """Of the angle between the two, 1 when they point the same way."""
    max_error: NonNegativeFloat
    """Largest absolute difference."""
