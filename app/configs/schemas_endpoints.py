"""What a client can look up: presets and schemas."""

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
    """Every preset as the config it stands for."""
    return {name: make().to_dict() for name, make in PRESETS.items()}


@router.get("/v1/schemas")
def schemas() -> list[str]:
    """Names of the schemas there are."""
    return list(MODELS)


@router.get("/v1/schemas/{name}", responses=problems(_404="no such schema"))
def schema(name: str) -> dict[str, Any]:
    """JSON Schema of one model."""
    if name not in MODELS:
        near = difflib.get_close_matches(name[:100], MODELS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(MODELS)}"
        raise NotFound(f"there is no schema {name[:64]!r}; {hint}")
    return json_schema(name)
