"""Whether the process lives, and whether the service can do its work."""

from fastapi import APIRouter, Request

from app.errors import DatabaseFailed, Unavailable
from app.problems import problems
from schemas.problem import InvalidField

router = APIRouter(responses=problems(default="an error of another kind"))


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
        "workers": _has_workers(request),
    }
    away = [name for name, well in checks.items() if not well]
    if away:
        fields = [InvalidField(pointer=f"/{name}", detail="does not answer") for name in away]
        raise Unavailable(f"away: {', '.join(away)}; the server's log tells more", fields)
    return dict.fromkeys(checks, "ok")


def _has_workers(request: Request) -> bool:
    try:
        return bool(request.state.count_workers() > 0)
    except DatabaseFailed:
        return False
