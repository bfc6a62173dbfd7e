"""Whether the process lives, whether the service can do its work, and its numbers."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from prometheus_client.exposition import choose_encoder

from palettery.app.database.engine import Database
from palettery.app.errors import DatabaseFailed, Unavailable
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup
from palettery.app.observability.metrics import Metrics
from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.storage.base import Storage
from palettery.schemas.problem import InvalidField

TIMEOUT_S = 2.5
"""How long a part is waited for."""

Check = Callable[[], str | None]
"""Says why a part is not well; None if it is."""

log = logging.getLogger(__name__)
router = APIRouter(responses=problems(default="an error of another kind"))


class Health:
    """Asks each part of the service whether it is well, side by side.

    A part that hangs is not asked again before it has answered, so that it holds one thread. When
    one goes away or comes back, the log has a line of it, however often it is asked meanwhile.
    """

    def __init__(self, checks: Mapping[str, Check], within_s: float = TIMEOUT_S) -> None:
        self._checks, self._within_s = checks, within_s
        self._threads = ThreadPoolExecutor(len(checks), thread_name_prefix="health")
        self._asked: dict[str, asyncio.Future[str | None]] = {}
        self._away: frozenset[str] = frozenset()
        """As the log has it."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what the service needs."""
        return tuple(self._checks)

    async def away(self) -> dict[str, str]:
        """What is wrong with each part that is not well, told soon after `within_s` at most."""
        for name, check in self._checks.items():
            if name not in self._asked or self._asked[name].done():
                loop = asyncio.get_running_loop()
                self._asked[name] = loop.run_in_executor(self._threads, _answer, check)
        asked = dict(self._asked)  # others may ask anew meanwhile
        await asyncio.wait(asked.values(), timeout=self._within_s)
        late = f"does not answer within {self._within_s:g} s"
        faults = {
            name: answer.result() if answer.done() else late for name, answer in asked.items()
        }
        self._note({name: fault for name, fault in faults.items() if fault is not None})
        return {
            name: "does not answer" if asked[name].done() else late
            for name, fault in faults.items()
            if fault is not None
        }

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False)

    def _note(self, away: dict[str, str]) -> None:
        """Log what has changed since somebody asked last."""
        for name in away.keys() - self._away:
            log.warning("%s is away: %s", name, away[name])
        for name in self._away - away.keys():
            log.info("%s is back", name)
        self._away = frozenset(away)


def build_health(
    database: Database,
    store: Storage,
    count_workers: Callable[[], int],
    documents: DocumentPool | None,
) -> Health:
    """How it stands with what the service needs; a process that reads no documents has no pool."""
    checks: dict[str, Check] = {
        "database": database.fault,
        "store": store.fault,
        "workers": lambda: None if count_workers() > 0 else "there is none",
    }
    if documents is not None:
        checks["documents"] = partial(documents.fault, asyncio.get_running_loop())
    return Health(checks)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(_503="something the service needs is away"))
async def readyz(health: Annotated[Health, Depends(ServiceLookup(Health))]) -> dict[str, str]:
    """Database, store, workers and document processes work; a problem names those that do not."""
    away = await health.away()
    if away:
        fields = [InvalidField(pointer=f"/{name}", detail=said) for name, said in away.items()]
        raise Unavailable(f"away: {', '.join(away)}; the server's log tells more", fields)
    return dict.fromkeys(health.parts, "ok")


METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text", "content": {"text/plain": {}}}
}


@router.get("/metrics", response_class=Response, responses=METRICS)
def metrics(
    metrics: Annotated[Metrics, Depends(ServiceLookup(Metrics))],
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Numbers of this process, for Prometheus."""
    encode, media_type = choose_encoder(accept)
    return Response(encode(metrics.registry), headers={"Content-Type": media_type})


def _answer(check: Check) -> str | None:
    try:
        return check()
    except DatabaseFailed as error:
        return error.detail
