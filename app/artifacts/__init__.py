"""Artifacts: writer, reader, exports, and loading into PyTorch (`load`, `load_into`)."""

from typing import Any

__all__ = ["load", "load_into"]


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from palettery.app.artifacts import pytorch

    return getattr(pytorch, name)
