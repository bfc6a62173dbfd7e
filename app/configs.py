"""The config a request means: a document or a preset's name, one of the two."""

import difflib

from app.errors import BadInput, InvalidConfig, UnknownPreset
from schemas.config import PRESETS, ConfigError, KMeansPalettizerConfig, parse_config


def chosen_config(text: str | bytes | None, preset: str | None) -> KMeansPalettizerConfig:
    """The config that a user gave as JSON or YAML text, or by a preset's name.

    Raises:
        BadInput: both were given, or neither.
        InvalidConfig: every field at fault, at once.
        UnknownPreset: names the presets there are.
    """
    if (text is None) == (preset is None):
        got = "neither" if text is None else "both"
        raise BadInput(f"give a config or a preset, one of the two; got {got}")
    if preset is not None:
        return _preset(preset)
    try:
        return parse_config(text or "")
    except ConfigError as error:
        count = len(error.errors)
        fields = "field is" if count == 1 else "fields are"
        raise InvalidConfig(
            f"the config is not valid: {count} {fields} wrong", error.errors
        ) from error


def _preset(name: str) -> KMeansPalettizerConfig:
    if name not in PRESETS:
        near = difflib.get_close_matches(name[:64], PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UnknownPreset(f"no preset {name[:64]!r}{hint} There are: {', '.join(PRESETS)}")
    return PRESETS[name]()
