"""Parsing, validation and normalization of config documents; megabytes may take seconds."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from palettery.app.errors import InvalidConfig, TooLarge
from palettery.app.planning.pattern_keys import check_patterns
from palettery.app.planning.patterns import Patterns
from palettery.app.storage.spooled_content import Content, pieces
from palettery.schemas.config import (
    ConfigError,
    KMeansPalettizerConfig,
    config_from_data,
    parse_config,
)
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
    """Member of the JSON object in `text` that is the config; None if `text` is the config."""
    name: str | None = None
    """`name@version` of a stored config, or the name of a preset."""

    def content(self) -> str | bytes:
        """Return the whole text."""
        return self.text if isinstance(self.text, str) else b"".join(pieces(self.text))


SHA256_CHARACTERS = 64
"""Length of a hex digest."""


@dataclass(frozen=True)
class NormalizedConfig:
    """A config with every default filled in."""

    document: str
    """The config as JSON."""
    sha256: str
    """Hex digest of the document."""

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
    return _with_request_errors(document, _parse)


def normalize(document: ConfigDocument, max_bytes: int) -> bytes:
    """Return the hex digest of the normalized config, followed by the config as JSON.

    Every default is filled in, so that equivalent documents have the same result.

    Raises:
        InvalidConfig: lists every invalid field, or every invalid pattern.
        TooLarge: the result has more than `max_bytes`.
    """
    text = _with_request_errors(document, _parse_and_check).model_dump_json().encode()
    if len(text) > max_bytes:
        raise TooLarge(
            f"the config has {len(text):,} bytes once every default is filled in; {max_bytes:,} "
            "are allowed: use fewer rules, or ask the operator to raise "
            "PALETTERY_LIMIT_CONFIG_BYTES"
        )
    return hashlib.sha256(text).hexdigest().encode() + text


def validate(document: ConfigDocument) -> bytes:
    """Return the `ValidatedConfig` of a document as JSON."""
    try:
        config = _parse_and_check(document)
    except ConfigError as error:
        result = ValidatedConfig(is_valid=False, errors=error.errors)
    else:
        result = ValidatedConfig(
            is_valid=True, config=config, json=config.to_json(), yaml=config.to_yaml()
        )
    return result.model_dump_json().encode()


def _parse(document: ConfigDocument) -> KMeansPalettizerConfig:
    """Return the config in a document, with line numbers in errors if it is the whole text."""
    text = document.content()
    if document.language == "yaml":
        return parse_config(text)
    data = load_json(text)
    if document.member is not None:
        return config_from_data(data[document.member])
    try:
        return config_from_data(data)
    except ConfigError as error:
        raise with_line_numbers(error, text) from error


def _parse_and_check(document: ConfigDocument) -> KMeansPalettizerConfig:
    """Return the config with its patterns checked; `read_config` leaves that to planning."""
    config = _parse(document)
    try:
        check_patterns(config, Patterns(math.inf))
    except InvalidConfig as error:
        raise with_line_numbers(ConfigError(*error.errors), document.content()) from error
    return config


def _with_request_errors(
    document: ConfigDocument, parse: Callable[[ConfigDocument], KMeansPalettizerConfig]
) -> KMeansPalettizerConfig:
    """Return what `parse` returns; translate its errors to `InvalidConfig`.

    Pointers refer to the whole request, of which the config may be a member.
    """
    try:
        return parse(document)
    except ConfigError as error:
        errors = [_relocate_error(document.member, item) for item in error.errors]
        raise InvalidConfig.of(errors) from error


def _relocate_error(member: str | None, error: InvalidField) -> InvalidField:
    """Return an error with a pointer into the request, without its line number in the config."""
    if member is None:
        return error
    return InvalidField(pointer=f"/{member}{error.pointer}", detail=error.detail)
