"""How many channels share one palette."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from palettery.schemas.base import Schema
from palettery.schemas.config.limits import MAX_COUNT

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class PerTensor(Schema):
    """One palette for the whole tensor."""

    model_config = ConfigDict(json_schema_extra={"required": ["type"]})

    type: Literal["per_tensor"] = "per_tensor"
    """Says which granularity this is."""
    axis: None = None
    """Always null; there is nothing to choose."""


class PerGroupedChannel(Schema):
    """One palette per `group_size` consecutive channels along `axis`."""

    model_config = ConfigDict(json_schema_extra={"required": ["type", "group_size"]})

    type: Literal["per_grouped_channel"] = "per_grouped_channel"
    """Says which granularity this is."""
    group_size: Count
    """Channels that share one palette; must divide the axis length."""
    axis: Literal[0, 1] | None = None
    """Channel axis; null takes the consuming op's default (1 for transposed convolutions)."""


Granularity = Annotated[PerTensor | PerGroupedChannel, Field(discriminator="type")]
