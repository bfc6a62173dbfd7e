"""Presets and JSON Schemas over HTTP."""

import difflib
from typing import Any

from fastapi import APIRouter

from palettery.app.errors import NotFound
from palettery.app.http.problems import problems
from palettery.schemas.config import PRESETS
from palettery.schemas.json_schema import MODELS, json_schema

router = APIRouter(responses=problems(default="an error of another kind"))


@router.get("/v1/presets")
def presets() -> dict[str, dict[str, Any]]:
    """Return the config of every preset."""
    return {name: make().to_dict() for name, make in PRESETS.items()}


@router.get("/v1/schemas")
def schemas() -> list[str]:
    """List the names of the schemas."""
    return list(MODELS)


@router.get("/v1/schemas/{name}", responses=problems(_404="no such schema"))
def schema(name: str) -> dict[str, Any]:
    """Return one JSON Schema."""
    if name not in MODELS:
        suggestions = difflib.get_close_matches(name[:100], MODELS, n=1)
        hint = (
            f"did you mean {suggestions[0]}?" if suggestions else f"there are {', '.join(MODELS)}"
        )
        raise NotFound(f"there is no schema {name[:64]!r}; {hint}")
    return json_schema(name)
