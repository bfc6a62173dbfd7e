"""Granularity: number of channels that share one palette."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from palettery.schemas.base import Schema
from palettery.schemas.config.limits import MAX_INT64

Count = Annotated[int, Field(ge=1, le=MAX_INT64)]


class PerTensorGranularity(Schema):
    """One palette for the whole tensor."""

    model_config = ConfigDict(json_schema_extra={"required": ["type"]})

    type: Literal["per_tensor"] = "per_tensor"
    """Kind of granularity."""
    axis: None = None
    """Always null."""


class PerGroupedChannelGranularity(Schema):
    """One palette per `group_size` consecutive channels along `axis`."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "group_size"]})

    type: Literal["per_grouped_channel"] = "per_grouped_channel"
    """Kind of granularity."""
    group_size: Count
    """Channels that share one palette; must divide the axis length."""
    axis: Literal[0, 1] | None = None
    """Channel axis; null for the default of the operation (1 for transposed convolutions)."""


Granularity = Annotated[
    PerTensorGranularity | PerGroupedChannelGranularity, Field(discriminator="type")
]
