"""Named configs, and the results of validating config documents."""

from datetime import datetime

from pydantic import ConfigDict, Field, PositiveInt

from palettery.schemas.base import Schema
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.problem import InvalidField


class ConfigSummary(Schema):
    """A version of a named config, without the config."""

    name: str
    """Name of the config."""
    version: PositiveInt
    """Version number, counted from 1; a version never changes."""
    reference: str
    """Reference for jobs, `name@version`; the name alone refers to the newest version."""
    sha256: str
    """SHA-256 digest of the config with all defaults, in hexadecimal; equal for equal configs."""
    created_at: datetime
    """Time this version was stored, in UTC."""
    links: dict[str, str]
    """URLs by relation: `self`."""


class NamedConfig(ConfigSummary):
    """A version of a named config."""

    config: KMeansPalettizerConfig
    """Config with all defaults."""


class ConfigPage(Schema):
    """One page of named configs, each in its newest version, ordered by name."""

    items: tuple[ConfigSummary, ...]
    """Configs of this page."""
    next_cursor: str | None = None
    """Value of the `cursor` parameter for the next page; null on the last page."""


class ValidatedConfig(Schema):
    """Result of the validation of a config document."""

    model_config = ConfigDict(serialize_by_alias=True)

    is_valid: bool
    """Whether the document is a valid config."""
    errors: tuple[InvalidField, ...] = ()
    """Errors of the document, one for each invalid field."""
    config: KMeansPalettizerConfig | None = None
    """Config with all defaults; null if the document is not valid."""
    json_text: str | None = Field(default=None, alias="json")
    """Config as a JSON file, which coreai-opt reads too; null if the document is not valid."""
    yaml_text: str | None = Field(default=None, alias="yaml")
    """Config as a YAML file; null if the document is not valid."""
