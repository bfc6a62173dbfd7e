"""Config documents as what they say; these functions may take seconds for megabytes."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.errors import InvalidConfig
from app.planning.pattern_keys import check_patterns
from app.planning.patterns import Patterns
from schemas.config import ConfigError, KMeansPalettizerConfig, config_of, parse_config
from schemas.config.lines import with_lines
from schemas.config.text import load_json
from schemas.configs import ValidatedConfig
from schemas.problem import InvalidField

Language = Literal["json", "yaml"]
"""JSON is strict; what is called YAML may be JSON."""


@dataclass(frozen=True)
class Document:
    """A config that somebody wrote; whether it is valid is not known yet."""

    text: str | bytes
    language: Language = "yaml"
    below: str = ""
    """JSON pointer to where it stood in what was sent."""
    name: str | None = None
    """`name@version` under which it is stored, or the preset's."""


@dataclass(frozen=True)
class Normalised:
    """A config with every default filled in."""

    document: str
    """JSON."""
    sha256: str


def read_config(document: Document) -> KMeansPalettizerConfig:
    """The config in a document.

    Raises:
        InvalidConfig: every field at fault, at once.
    """
    return _read(document, _parsed)


def normalised(document: Document) -> Normalised:
    """The one form of all documents that say the same.

    Raises:
        InvalidConfig: every field at fault, at once; or every pattern that is none.
    """
    text = _read(document, _checked).model_dump_json()
    return Normalised(text, hashlib.sha256(text.encode()).hexdigest())


def validated(document: Document) -> bytes:
    """What is to be said of a document, as JSON of `ValidatedConfig`."""
    try:
        config = _checked(document)
    except ConfigError as error:
        found = ValidatedConfig(is_valid=False, errors=error.errors)
    else:
        found = ValidatedConfig(
            is_valid=True, config=config, json=config.to_json(), yaml=config.to_yaml()
        )
    return found.model_dump_json().encode()


def _parsed(document: Document) -> KMeansPalettizerConfig:
    if document.language == "yaml":
        return parse_config(document.text)
    data = load_json(document.text)
    try:
        return config_of(data)
    except ConfigError as error:
        raise with_lines(error, document.text) from error


def _checked(document: Document) -> KMeansPalettizerConfig:
    """The same, of which every pattern is one; a plan looks by itself."""
    config = _parsed(document)
    try:
        check_patterns(config, Patterns(math.inf))
    except InvalidConfig as error:
        raise with_lines(ConfigError(*error.errors), document.text) from error
    return config


def _read(
    document: Document, how: Callable[[Document], KMeansPalettizerConfig]
) -> KMeansPalettizerConfig:
    """The config, its faults told as those of what was sent."""
    try:
        return how(document)
    except ConfigError as error:
        faults = [_below(document.below, fault) for fault in error.errors]
        raise InvalidConfig.of(faults) from error


def _below(pointer: str, fault: InvalidField) -> InvalidField:
    """A fault of a document that was part of another, where its lines are not the same."""
    if not pointer:
        return fault
    return InvalidField(pointer=pointer + fault.pointer, detail=fault.detail)
