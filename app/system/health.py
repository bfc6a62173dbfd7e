"""Health checks and metrics: liveness, readiness and Prometheus."""

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
"""Timeout of a check."""

Check = Callable[[], str | None]
"""Function that returns why a component is unavailable; None if it is healthy."""

log = logging.getLogger(__name__)
router = APIRouter(responses=problems(default="an error of another kind"))


class Health:
    """Concurrent health checks of the components of the service.

    A check that hangs is not started again, so that it occupies one thread. Only changes are
    logged: when a component becomes unavailable, and when it is back.
    """

    def __init__(self, checks: Mapping[str, Check], timeout_s: float = TIMEOUT_S) -> None:
        self._checks, self._timeout_s = checks, timeout_s
        self._threads = ThreadPoolExecutor(len(checks), thread_name_prefix="health")
        self._running: dict[str, asyncio.Future[str | None]] = {}
        self._unavailable: frozenset[str] = frozenset()
        """Components whose failure is logged."""

    @property
    def components(self) -> tuple[str, ...]:
        """Return the names of the components."""
        return tuple(self._checks)

    async def failures(self) -> dict[str, str]:
        """Return each unavailable component with a public reason, within `timeout_s`."""
        for name, check in self._checks.items():
            if name not in self._running or self._running[name].done():
                loop = asyncio.get_running_loop()
                self._running[name] = loop.run_in_executor(self._threads, _run_check, check)
        running = dict(self._running)  # other requests may start checks meanwhile
        await asyncio.wait(running.values(), timeout=self._timeout_s)
        timeout_reason = f"does not respond within {self._timeout_s:g} s"
        results = {
            name: check.result() if check.done() else timeout_reason
            for name, check in running.items()
        }
        failures = {name: reason for name, reason in results.items() if reason is not None}
        self._log_changes(failures)  # with details that callers must not see
        return {
            name: "does not respond" if running[name].done() else timeout_reason
            for name in failures
        }

    def close(self) -> None:
        """Close without waiting for checks."""
        self._threads.shutdown(wait=False)

    def _log_changes(self, failures: dict[str, str]) -> None:
        """Log changes since the last check."""
        for name in failures.keys() - self._unavailable:
            log.warning("%s is unavailable: %s", name, failures[name])
        for name in self._unavailable - failures.keys():
            log.info("%s is back", name)
        self._unavailable = frozenset(failures)


def build_health(
    database: Database,
    store: Storage,
    count_workers: Callable[[], int],
    documents: DocumentPool | None,
) -> Health:
    """Return the health checks of a process; `documents` is None if it parses no documents."""
    checks: dict[str, Check] = {
        "database": database.health_problem,
        "store": store.health_problem,
        "workers": lambda: None if count_workers() > 0 else "there are no workers",
    }
    if documents is not None:
        checks["documents"] = partial(documents.health_problem, asyncio.get_running_loop())
    return Health(checks)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Return ok if the process responds."""
    return {"status": "ok"}


@router.get("/readyz", responses=problems(_503="a component of the service is unavailable"))
async def readyz(health: Annotated[Health, Depends(ServiceLookup(Health))]) -> dict[str, str]:
    """Check database, object store, workers and document processes."""
    failures = await health.failures()
    if failures:
        fields = [InvalidField(pointer=f"/{name}", detail=why) for name, why in failures.items()]
        raise Unavailable(f"unavailable: {', '.join(failures)}; see the server's log", fields)
    return dict.fromkeys(health.components, "ok")


METRICS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "metrics in a format of Prometheus", "content": {"text/plain": {}}}
}


@router.get("/metrics", response_class=Response, responses=METRICS_RESPONSES)
def metrics(
    metrics: Annotated[Metrics, Depends(ServiceLookup(Metrics))],
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Return the metrics of this process for Prometheus."""
    encode, media_type = choose_encoder(accept)
    return Response(encode(metrics.registry), headers={"Content-Type": media_type})


def _run_check(check: Check) -> str | None:
    try:
        return check()
    except DatabaseFailed as error:
        return error.detail
