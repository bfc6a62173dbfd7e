"""Config documents as what they say; these functions may take seconds for megabytes."""

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
"""JSON is strict; what is called YAML may be JSON."""


@dataclass(frozen=True)
class ConfigDocument:
    """A config that somebody wrote; whether it is valid is not known yet."""

    text: str | Content
    language: Language = "yaml"
    member: str | None = None
    """The config is this member of the text, which is a JSON object; None if it is all of it."""
    name: str | None = None
    """`name@version` under which it is stored, or the preset's."""

    def content(self) -> str | bytes:
        """Return the text in one piece."""
        return self.text if isinstance(self.text, str) else b"".join(pieces(self.text))


SHA256_CHARACTERS = 64
"""Of a hex digest."""


@dataclass(frozen=True)
class NormalizedConfig:
    """A config with every default filled in."""

    document: str
    """JSON."""
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return what `normalised` has returned, taken apart."""
        digest, text = content[:SHA256_CHARACTERS], content[SHA256_CHARACTERS:]
        return cls(text.decode(), digest.decode())


def read_config(document: ConfigDocument) -> KMeansPalettizerConfig:
    """The config in a document.

    Raises:
        InvalidConfig: every field at fault, at once.
    """
    return _read(document, _parsed)


def normalised(document: ConfigDocument, most_bytes: int) -> bytes:
    """The one form of all documents that say the same, every default filled in; its digest first.

    Raises:
        InvalidConfig: every field at fault, at once; or every pattern that is none.
        TooLarge: it has more bytes than may be.
    """
    text = _read(document, _checked).model_dump_json().encode()
    if len(text) > most_bytes:
        raise TooLarge(
            f"the config has {len(text):,} bytes once every default is filled in; {most_bytes:,} "
            "are allowed: have fewer rules, or the operator raise PALETTERY_LIMIT_CONFIG_BYTES"
        )
    return hashlib.sha256(text).hexdigest().encode() + text


def validated(document: ConfigDocument) -> bytes:
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
    """The same, of which every pattern is one; a plan looks by itself."""
    config = _parsed(document)
    try:
        check_patterns(config, Patterns(math.inf))
    except InvalidConfig as error:
        raise with_line_numbers(ConfigError(*error.errors), document.content()) from error
    return config


def _read(
    document: ConfigDocument, how: Callable[[ConfigDocument], KMeansPalettizerConfig]
) -> KMeansPalettizerConfig:
    """The config, its faults told as those of what was sent."""
    try:
        return how(document)
    except ConfigError as error:
        faults = [_below(document.member, fault) for fault in error.errors]
        raise InvalidConfig.of(faults) from error


def _below(member: str | None, fault: InvalidField) -> InvalidField:
    """A fault of a document that was part of another, where its lines are not the same."""
    if member is None:
        return fault
    return InvalidField(pointer=f"/{member}{fault.pointer}", detail=fault.detail)
