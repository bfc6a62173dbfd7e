"""Detection of config files of coreai-opt's other methods, such as pruning."""

from collections.abc import Iterable

_METHODS = {
    "quantization_config": "quantization",
    "magnitude_pruning_config": "pruning",
    "pruning_config": "pruning",
}
"""Top-level key of a file -> its method."""


def other_method_key(keys: Iterable[object]) -> str | None:
    """Return the top-level key of another method's config file; None if there is none."""
    return next((str(key) for key in keys if key in _METHODS), None)


def other_method_message(key: str) -> str:
    """Return the error message for the config file of another method."""
    return (
        f"{key} is coreai-opt's config for {_METHODS[key]}, which Palettery does not do: it only "
        "palettizes weights; send a kmeans_palettization_config"
    )
