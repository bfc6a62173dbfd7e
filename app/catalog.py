"""What a client can look up: presets, schemas, and whether the service is well."""

import difflib
from typing import Any

from fastapi import APIRouter, Request

from app.errors import NotFound, Unavailable
from app.problems import problems
from schemas.config import PRESETS
from schemas.json_schema import MODELS, json_schema
from schemas.problem import InvalidField

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


@router.get("/livez")
def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(_503="something the service needs is away"))
def readyz(request: Request) -> dict[str, str]:
    """Database, store and workers are there; a problem names those that are not."""
    state = request.state
    checks = {
        "database": state.database.is_reachable(),
        "store": state.store.is_reachable(),
        "workers": state.workers.count() > 0,
    }
    away = [name for name, well in checks.items() if not well]
    if away:
        fields = [InvalidField(pointer=f"/{name}", detail="does not answer") for name in away]
        raise Unavailable(f"away: {', '.join(away)}; the server's log tells more", fields)
    return dict.fromkeys(checks, "ok")
