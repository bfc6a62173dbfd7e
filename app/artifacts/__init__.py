"""Artifacts: written, read, given other forms. `load` and `load_into` bring them to PyTorch."""

from typing import Any

__all__ = ["load", "load_into"]


def __getattr__(name: str) -> Any:
    """Import torch for those alone who ask for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from palettery.app.artifacts import pytorch

    return getattr(pytorch, name)
