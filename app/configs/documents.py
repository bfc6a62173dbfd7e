"""Parsing of config documents; it may take seconds for megabytes."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from palettery.app.errors import InvalidConfig, TooLarge
from palettery.app.planning.pattern_keys import check_patterns
from palettery.app.planning.patterns import Patterns
from palettery.app.storage.spooled_content import Content, pieces
from palettery.schemas.config import ConfigError, KMeansPalettizerConfig, config_of, parse_config
from palettery.schemas.config.line_numbers import with_line_numbers
from palettery.schemas.config.parsing import load_json
from palettery.schemas.configs import ValidatedConfig
from palettery.schemas.problem import InvalidField

Language = Literal["json", "yaml"]
"""`yaml` includes JSON, `json` is strict."""


@dataclass(frozen=True)
class ConfigDocument:
    """A config as text, not validated yet."""

    text: str | Content
    language: Language = "yaml"
    member: str | None = None
    """Member of the JSON object in `text` that is the config; None if the whole text is."""
    name: str | None = None
    """`name@version` of a stored config, or the name of a preset."""

    def content(self) -> str | bytes:
        """Return the text in one piece."""
        return self.text if isinstance(self.text, str) else b"".join(pieces(self.text))


SHA256_CHARACTERS = 64
"""Length of a hex digest."""


@dataclass(frozen=True)
class NormalizedConfig:
    """A config with every default filled in."""

    document: str
    """JSON."""
    sha256: str

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """Parse the result of `normalize`."""
        digest, text = content[:SHA256_CHARACTERS], content[SHA256_CHARACTERS:]
        return cls(text.decode(), digest.decode())


def read_config(document: ConfigDocument) -> KMeansPalettizerConfig:
    """Return the config in a document.

    Raises:
        InvalidConfig: lists every invalid field.
    """
    return _read(document, _parsed)


def normalize(document: ConfigDocument, most_bytes: int) -> bytes:
    """Return the config's digest, then the config as JSON with every default filled in.

    Documents that mean the same have the same result.

    Raises:
        InvalidConfig: lists every invalid field, or every invalid pattern.
        TooLarge: the result has more than `most_bytes`.
    """
    text = _read(document, _checked).model_dump_json().encode()
    if len(text) > most_bytes:
        raise TooLarge(
            f"the config has {len(text):,} bytes once every default is filled in; {most_bytes:,} "
            "are allowed: use fewer rules, or ask the operator to raise "
            "PALETTERY_LIMIT_CONFIG_BYTES"
        )
    return hashlib.sha256(text).hexdigest().encode() + text


def validate(document: ConfigDocument) -> bytes:
    """Return the `ValidatedConfig` of a document as JSON."""
    try:
        config = _checked(document)
    except ConfigError as error:
        result = ValidatedConfig(is_valid=False, errors=error.errors)
    else:
        result = ValidatedConfig(
            is_valid=True, config=config, json=config.to_json(), yaml=config.to_yaml()
        )
    return result.model_dump_json().encode()


def _parsed(document: ConfigDocument) -> KMeansPalettizerConfig:
    text = document.content()
    if document.language == "yaml":
        return parse_config(text)
    data = load_json(text)
    if document.member is not None:
        return config_of(data[document.member])
    try:
        return config_of(data)
    except ConfigError as error:
        raise with_line_numbers(error, text) from error


def _checked(document: ConfigDocument) -> KMeansPalettizerConfig:
    """Return the config after checking its patterns; planning checks them by itself."""
    config = _parsed(document)
    try:
        check_patterns(config, Patterns(math.inf))
    except InvalidConfig as error:
        raise with_line_numbers(ConfigError(*error.errors), document.content()) from error
    return config


def _read(
    document: ConfigDocument, parse: Callable[[ConfigDocument], KMeansPalettizerConfig]
) -> KMeansPalettizerConfig:
    """Return the config; errors point into the text that was sent."""
    try:
        return parse(document)
    except ConfigError as error:
        errors = [_below(document.member, each) for each in error.errors]
        raise InvalidConfig.of(errors) from error


def _below(member: str | None, error: InvalidField) -> InvalidField:
    """Return an error with its pointer below `member`, and without its line, which differs."""
    if member is None:
        return error
    return InvalidField(pointer=f"/{member}{error.pointer}", detail=error.detail)
