"""Named configs, and what validating one tells."""

from datetime import datetime

from pydantic import ConfigDict, Field, PositiveInt

from palettery.schemas.base import Schema
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.problem import InvalidField


class ConfigSummary(Schema):
    """A version of a named config, without the config."""

    name: str
    """What it is called."""
    version: PositiveInt
    """Counted from 1; a version never changes."""
    reference: str
    """`name@version`, as jobs may give it; the name alone means the newest version."""
    sha256: str
    """Hex digest of the config, every default filled in: equal ones say the same."""
    created_at: datetime
    """When this version was stored."""
    links: dict[str, str]
    """`self`."""


class NamedConfig(ConfigSummary):
    """A version of a named config."""

    config: KMeansPalettizerConfig
    """The config, every default filled in."""


class ConfigPage(Schema):
    """One page of named configs, each in its newest version, in the order of their names."""

    items: tuple[ConfigSummary, ...]
    """Configs of this page."""
    next_cursor: str | None = None
    """Pass as `cursor` to get the next page; null on the last."""


class ValidatedConfig(Schema):
    """What is to be said of a config document."""

    model_config = ConfigDict(serialize_by_alias=True)

    is_valid: bool
    """Whether there are no errors."""
    errors: tuple[InvalidField, ...] = ()
    """Every field at fault, with its place in the document."""
    config: KMeansPalettizerConfig | None = None
    """The config, every default filled in; null when it is not valid."""
    json_text: str | None = Field(default=None, alias="json")
    """The same as a JSON file, which coreai-opt reads too; null when it is not valid."""
    yaml_text: str | None = Field(default=None, alias="yaml")
    """The same as a YAML file; null when it is not valid."""
