"""Selection of a request's config: in the request, stored, or a preset."""

import difflib
from collections.abc import Callable

from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.errors import BadInput, UnknownPreset
from palettery.schemas.config import PRESETS, KMeansPalettizerConfig


def select_config(text: str | bytes | None, preset: str | None) -> KMeansPalettizerConfig:
    """Return the config in a JSON or YAML text, or a preset.

    Raises:
        BadInput: there are both, or neither.
        InvalidConfig: lists every invalid field.
        UnknownPreset: lists the presets.
    """
    if (text is None) == (preset is None):
        provided = "neither" if text is None else "both"
        raise BadInput(f"give a config or a preset, one of the two; got {provided}")
    return read_config(
        _preset_document(preset) if preset is not None else ConfigDocument(text or "")
    )


def select_document(
    document: ConfigDocument | None,
    preset: str | None,
    name: str | None,
    load: Callable[[str], ConfigDocument],
) -> ConfigDocument:
    """Return the config document of a request, the stored one of this name, or a preset.

    Raises:
        BadInput: there is none of them, or several.
        UnknownPreset: lists the presets.
        NotFound: no config of this name is stored.
    """
    choices = {"config": document, "config_name": name, "preset": preset}
    provided = [key for key, value in choices.items() if value is not None]
    if len(provided) != 1:
        raise BadInput(
            "give a config, a config_name or a preset, one of the three; "
            f"got {' and '.join(provided) or 'none'}"
        )
    if name is not None:
        return load(name)
    return _preset_document(preset) if preset is not None else document or ConfigDocument("")


def _preset_document(name: str) -> ConfigDocument:
    if name not in PRESETS:
        suggestions = difflib.get_close_matches(name[:64], PRESETS, n=1)
        hint = f"; did you mean {suggestions[0]!r}?" if suggestions else "."
        raise UnknownPreset(f"no preset {name[:64]!r}{hint} There are: {', '.join(PRESETS)}")
    return ConfigDocument(PRESETS[name]().model_dump_json(), "json", name=name)
