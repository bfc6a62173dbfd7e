"""Overview of the service: version, workers, queue, object store and limits."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends
from sqlalchemy import bindparam, func, select

from palettery.app.database.engine import Database
from palettery.app.database.tables import JobRow
from palettery.app.errors import WorkersLost
from palettery.app.execution.controllers import ControllerRepository
from palettery.app.http.caller import Caller
from palettery.app.http.problems import problems
from palettery.app.http.services import ServiceLookup
from palettery.app.keys.authentication import Reader
from palettery.app.keys.service import KeyService
from palettery.app.storage.base import Storage
from palettery.app.version import SOFTWARE, VERSION
from palettery.schemas.jobs import ACTIVE_STATES
from palettery.schemas.service import (
    Controller,
    Depth,
    Queue,
    Service,
    Store,
    WorkerPool,
    WorkerProcess,
)

PACKAGES = ("numpy", "numba", "torch", "safetensors", "distributed", "dbos", "fastapi", "plotly")
"""Packages whose versions help to diagnose faults."""

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

_QUEUE_DEPTHS = (
    select(JobRow.state, func.count()).where(JobRow.state.in_(ACTIVE_STATES)).group_by(JobRow.state)
)
_OWN_QUEUE_DEPTHS = _QUEUE_DEPTHS.where(JobRow.owner == bindparam("owner"))


class Overview:
    """Overview of the service, collected from its components."""

    def __init__(
        self,
        role: Literal["all", "api", "controller"],
        database: Database,
        store: Storage,
        controllers: ControllerRepository,
        keys: KeyService,
        workers: Callable[[], list[WorkerProcess]] | None,
    ) -> None:
        self._role, self._database, self._store = role, database, store
        self._controllers, self._keys, self._workers = controllers, keys, workers
        self._started_at = datetime.now(UTC)
        packages = {name: version(name) for name in PACKAGES}
        self._software = SOFTWARE | {"python": platform.python_version()} | packages

    def service(self, caller: Caller) -> Service:
        """Return the current overview; blocks, so not for the event loop."""
        me, controllers = self._keys.me(caller), self._controllers.alive()
        return Service(
            version=VERSION,
            software=self._software,
            role=self._role,
            started_at=self._started_at,
            controllers=tuple(controllers),
            workers=self._pool(controllers),
            queue=self._queue(caller.owner),
            store=self._store_info(),
            database=self._database.engine.dialect.name,
            has_keys=self._keys.is_key_required(),
            limits=me.limits,
            used=me.used,
        )

    def _pool(self, controllers: list[Controller]) -> WorkerPool:
        count = max((item.workers for item in controllers), default=0)
        if self._workers is None:
            return WorkerPool(count=count)
        try:
            processes = self._workers()
        except WorkersLost:
            return WorkerPool(count=0)
        states = [item.state for item in processes]
        return WorkerPool(
            count=states.count("busy") + states.count("idle"),
            busy=states.count("busy"),
            idle=states.count("idle"),
            processes=tuple(processes[:1_000]),
        )

    def _queue(self, owner: str) -> Queue:
        with self._database.reading() as connection:
            own = connection.execute(_OWN_QUEUE_DEPTHS, {"owner": owner}).all()
            total = connection.execute(_QUEUE_DEPTHS).all()
        return Queue(own=Depth(**dict(own)), all=Depth(**dict(total)))

    def _store_info(self) -> Store:
        capacity = self._store.capacity()
        kind = urlsplit(self._store.url).scheme
        if capacity is None:
            return Store(kind=kind)
        return Store(kind=kind, free_bytes=capacity.free_bytes, size_bytes=capacity.size_bytes)


@router.get("/service")
def service(
    overview: Annotated[Overview, Depends(ServiceLookup(Overview))], caller: Reader
) -> Service:
    """Overview of versions, workers, queue, object store and limits."""
    return overview.service(caller)
