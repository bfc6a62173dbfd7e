"""The config that a request means: one that it holds, a named one, or a preset."""

import difflib
from collections.abc import Callable

from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.errors import BadInput, UnknownPreset
from palettery.schemas.config import PRESETS, KMeansPalettizerConfig


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
    return read_config(_preset(preset) if preset is not None else ConfigDocument(text or ""))


def chosen_document(
    written: ConfigDocument | None,
    preset: str | None,
    name: str | None,
    named: Callable[[str], ConfigDocument],
) -> ConfigDocument:
    """The config of a request, which may name one that is stored.

    Raises:
        BadInput: none was given, or several.
        UnknownPreset: names the presets there are.
        NotFound: nothing is stored under the name.
    """
    given = {"config": written, "config_name": name, "preset": preset}
    got = [key for key, value in given.items() if value is not None]
    if len(got) != 1:
        raise BadInput(
            "give a config, a config_name or a preset, one of the three; "
            f"got {' and '.join(got) or 'none'}"
        )
    if name is not None:
        return named(name)
    return _preset(preset) if preset is not None else written or ConfigDocument("")


def _preset(name: str) -> ConfigDocument:
    if name not in PRESETS:
        near = difflib.get_close_matches(name[:64], PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UnknownPreset(f"no preset {name[:64]!r}{hint} There are: {', '.join(PRESETS)}")
    return ConfigDocument(PRESETS[name]().model_dump_json(), "json", name=name)
