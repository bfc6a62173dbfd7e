"""K-means settings of vector palettes."""

import math
from typing import Annotated

from pydantic import Field, PlainSerializer, WithJsonSchema

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import Count


def _as_json(value: float) -> float | str:
    """Return a number as JSON has it; infinity as the text that pydantic reads back."""
    return "Infinity" if math.isinf(value) else value


class VectorKMeansConfig(Schema):
    """K-means settings of palettes whose entries are vectors."""

    n_local_trials: Count | None = None
    """Candidates for each new centroid of a start (greedy k-means++), of which the best is taken;
    null for 2 + floor(ln(number of entries))."""
    n_init: Count = 5
    """Starts from different centroids; the result with the smallest error is taken."""
    max_iter: Count = 300
    """Most Lloyd iterations after each start."""
    tol: Annotated[
        float,
        Field(ge=0),
        PlainSerializer(_as_json, when_used="json"),
        WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": "Infinity"}]}),
    ] = 1e-4
    """Relative decrease of the error below which Lloyd iterations stop."""
